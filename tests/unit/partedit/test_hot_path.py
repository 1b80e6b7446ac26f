"""What a layer costs besides its sums: nothing is copied to the device there, and no number is asked of the device.

The UNet runs on torch's meta device, where asking for a number is an error and every copy from the CPU can be seen.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from support.tiny_edits import SIZE, blend_guider, edit_prompt, token
from support.tiny_models import POOLED, WIDTH, text_conditioning, tiny_sdxl

META = torch.device("meta")
STEP, STEPS = 1, 10


class Copies(TorchDispatchMode):
    """Lists operations that read a CPU tensor with dimensions and write one on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        if any(one.device.type == "cpu" for one in read) and any(one.device == META for one in written):
            self.seen.append(str(func))
        return out


def alignment(cross: float, changed: float) -> Any:
    """The identity, with ``cross`` of the steps for all words but three, and ``changed`` for these."""
    from partedit_oir.core.partedit.alignment import Alignment

    shares = torch.full((77,), cross, dtype=torch.float64)
    shares[5:8] = changed
    return Alignment(torch.eye(77), torch.zeros(77), torch.ones(77), shares, 0.5, "")


def shared_picture(names: tuple[str, ...]) -> Any:
    """One edit with a prompt for each part."""
    from partedit_oir.core.partedit.prompt import Edit, EditPrompt, PartPrompt

    parts = tuple(PartPrompt(name, text_conditioning(name), alignment(1.0, 0.0), (name,)) for name in names)
    return EditPrompt("source", text_conditioning("source"), (Edit(parts),))


@pytest.fixture(scope="module")
def model(pack):
    return tiny_sdxl()


@pytest.fixture(scope="module")
def on_meta(model):
    return copy.deepcopy(model.model.diffusion_model).to(META)


@pytest.mark.parametrize("timing", ["clean", "published"])
@pytest.mark.parametrize("kind", ["words", "whole", "plain", "parts", "mask", "regions"])
def test_nothing_is_copied_to_the_device_in_a_layer(model, on_meta, kind, timing, monkeypatch):
    import comfy.model_management

    from partedit_oir.core.attention import BlendCall, blended_options
    from partedit_oir.core.partedit.prompt import batch_prompt, edit_steps
    from partedit_oir.core.partedit.step_masks import StepMasks

    heads = token(parts=2)
    prompt = {
        "words": lambda: edit_prompt(("a", "b"), alignment=alignment(1.0, 0.0)),
        "whole": lambda: edit_prompt(alignment=alignment(1.0, 1.0)),
        "plain": edit_prompt,
        "parts": lambda: shared_picture(heads.names),
        "mask": lambda: edit_prompt(alignment=alignment(1.0, 0.0)),
        "regions": lambda: edit_prompt(alignment=alignment(1.0, 0.0)),
    }[kind]()
    given = {"mask": torch.ones(1, 64, 64)} if kind in ("mask", "regions") else {"token": heads}
    areas = [(16, 8, 0, 0), (16, 8, 0, 8)] if kind == "regions" else [(), ()]
    guider = blend_guider(model, prompt, timing=timing, layers="published", **given)
    masks = StepMasks(guider._fitted_inputs(torch.zeros(1, 4, *SIZE)), 1, SIZE)
    if "token" in given:
        masks._previous = [torch.rand(1, *SIZE) for _ in masks._groups]
    masks.begin(STEP, STEPS)
    edits = edit_steps(prompt, batch_prompt(prompt, 1, False), STEP, STEPS)
    layers, probe = [layer.key for layer in guider.layers], guider._probe(constant_weights=True)
    rows = 2 * (1 + len(edits))
    length = 77 * max(len(edit.prompts) for edit in prompt.edits)
    shapes = (rows, 4, *(areas[0][:2] or SIZE)), (rows,), (rows, length, WIDTH), (rows, POOLED + 6 * 256)
    inputs = [torch.empty(shape, device=META) for shape in shapes]

    def copies() -> list[str]:
        call = BlendCall(
            1, edits, 2, [0], probe, masks.for_call(areas, META), self_limit=16, probed=[0] if probe else []
        )
        options = blended_options({}, on_meta, layers, call)
        with Copies() as run:
            on_meta(*inputs, transformer_options=options)
        return run.seen

    # The host's attention asks how much memory is free, which this device cannot say.
    free = 1 << 33
    monkeypatch.setattr(
        comfy.model_management,
        "get_free_memory",
        lambda dev=None, torch_free_too=False: (free,) * 2 if torch_free_too else free,
    )
    masks._sum = _Nowhere()  # the part maps of a meta run hold no numbers, and only the layers are of interest here
    assert copies() or kind == "plain", "the first call of a step makes things ready"
    assert copies() == []


class _Nowhere:
    complete = False

    def add(self, maps: torch.Tensor, parts: tuple[int, ...]) -> None:
        assert maps.device == META


def test_an_edit_that_only_has_its_sources_attention_computes_none_of_its_own():
    from partedit_oir.core.attention import PromptStep

    ones, eye = torch.ones(77), torch.eye(77)
    assert PromptStep((0, 77), 77, eye, 0 * ones, ones, ones).whole
    gate = ones.clone()
    gate[5] = 0
    for keep, weights, gates in ((0 * ones, ones, gate), (1 - gate, ones, ones), (0 * ones, ones, 0 * ones)):
        assert not PromptStep((0, 77), 77, eye, keep, weights, gates).whole
    # Weights are on the source's attention, so a re-weighted prompt still has none of its own.
    assert PromptStep((0, 77), 77, eye, 0 * ones, 2 * ones, ones).whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_prompt_to_prompt_equals_its_equation_and_is_exactly_nothing_for_equal_rows(dtype):
    """A_edit ← α·c·(keep·A_edit + (1 − keep)·A_source M) + (1 − α)·A_edit, written out with probabilities."""
    from partedit_oir.core.attention import PromptStep

    g = torch.Generator().manual_seed(3)
    heads, wide = 2, 64

    def rows(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g).to(dtype)

    q, qs, k, ks, v = rows(1, 24, wide), rows(1, 24, wide), rows(1, 77, wide), rows(1, 77, wide), rows(1, 77, wide)
    mapper = torch.rand(77, 77, generator=g).softmax(dim=0)
    keep, gate = (torch.rand(77, generator=g) > 0.5).float(), (torch.rand(77, generator=g) > 0.3).float()
    weights = torch.rand(77, generator=g) + 0.5
    step = PromptStep((0, 77), 77, mapper, keep, weights, gate)

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.double().reshape(1, -1, heads, wide // heads).transpose(1, 2)

    def attention(query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return (split(query) @ split(keys).transpose(-1, -2) * (wide // heads) ** -0.5).softmax(dim=-1)

    own = attention(q, k)
    taken = weights * (keep * own + (1 - keep) * (attention(qs, ks) @ mapper.double()))
    expected = ((gate * taken + (1 - gate) * own) @ split(v)).transpose(1, 2).flatten(2)
    found = step.attend(qs, ks, q, k, v, heads)
    assert torch.allclose(found.double(), expected, atol=1e-5 if dtype == torch.float32 else 3e-2)
    same = PromptStep((0, 77), 77, torch.eye(77), torch.zeros(77), torch.ones(77), gate)
    assert torch.equal(same.change(q, k, q, k, v, heads), torch.zeros(1, 24, wide))
