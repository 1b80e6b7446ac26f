"""Interrupts, exceptions and a full memory at every stage: afterwards the model is what it was, bit for bit."""

from __future__ import annotations

import gc

import pytest
import torch

from support.tiny_edits import SIZE, blend_guider, edit_prompt, plain, sample, token
from support.tiny_models import drawn, text_conditioning, tiny_sd
from support.trained_tokens import conditioning, small_model, squares
from tools.bootstrap import load_pack

load_pack()
import comfy.model_management

from partedit_oir.core.inversion.invert import invert
from partedit_oir.core.oir.reassembly import ReassemblySettings, reassemble
from partedit_oir.core.oir.search import search_steps
from partedit_oir.core.oir.search_settings import SearchSettings
from partedit_oir.core.oir.types import Pair, StepSearch
from partedit_oir.core.partedit.part_maps import part_maps
from partedit_oir.core.training.settings import TrainingSettings
from partedit_oir.core.training.training import train_part_token

SIGMAS = torch.tensor([10.0, 4.0, 1.0, 0.1])
TEXT = {"width": 768, "pooled": 0}


class Full(torch.OutOfMemoryError):
    pass


FAULTS = {
    "interrupted": comfy.model_management.InterruptProcessingException,
    "an exception": RuntimeError,
    "memory is full": Full,
}


@pytest.fixture(scope="module")
def model():
    return tiny_sd()


def path_of(model):
    return invert(model, drawn("picture", 1, 4, *SIZE), text_conditioning("a cat", **TEXT), sigmas=SIGMAS)


def pairs():
    mask = torch.zeros(128, 128)
    mask[:, :64] = 1
    return (Pair("a cat", "cat", "dog", "a dog", mask, text_conditioning("a dog", **TEXT), span=(2, 5)),)


class Decoder:
    """Pictures of a latent's first channels, eight times as large."""

    def __call__(self, latent):
        small = latent[0, :3].movedim(0, -1).sigmoid()
        return small.repeat_interleave(8, 0).repeat_interleave(8, 1)


class Brightness:
    def score(self, image, text, mask=None, mode="masked"):
        return float(image.mean())


def search(model, path, decode):
    settings = SearchSettings(strategy="exhaustive", batch_size=2)
    return search_steps(model, path, pairs(), decode, Brightness(), settings)


def stages(model):
    """Name → what calls the UNet at least three times."""
    text = text_conditioning("a cat", **TEXT)
    path = path_of(model)
    prompt = edit_prompt(**TEXT)
    fixed = StepSearch.fixed(pairs(), (2,), steps=3, cfg=5.0)
    yield "a part edit", lambda: sample(blend_guider(model, prompt, token=token(width=768)), steps=4)
    yield "an edit under a mask", lambda: sample(blend_guider(model, prompt, mask=torch.ones(1, 128, 128)), steps=4)
    yield "an inversion", lambda: path_of(model)
    yield "part maps", lambda: part_maps(model, token(width=768), drawn("p", 1, 4, *SIZE), text, samples=4)
    yield "a search", lambda: search(model, path, Decoder())
    yield "a reassembly", lambda: reassemble(model, path, fixed, text, ReassemblySettings(reassembly=1, reinversion=1))


def traces(model):
    """All that a run could leave behind on a ModelPatcher."""
    options = model.model_options["transformer_options"]
    return {
        "options": {key: str(value) for key, value in options.items()},
        "wrappers": str(model.wrappers),
        "callbacks": str(model.callbacks),
        "patches": len(model.patches),
        "objects": sorted(model.object_patches),
        "backups": sorted(model.object_patches_backup),
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules()),
    }


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stage", range(6), ids=["token", "mask", "inversion", "maps", "search", "reassembly"])
def test_a_broken_run_leaves_the_model_as_it_was(model, stage, fault, monkeypatch):
    _, run = list(stages(model))[stage]
    text = text_conditioning("a cat", **TEXT)
    before, clean = plain(model, text, steps=2), traces(model)
    gc.collect()
    held = sum(1 for thing in gc.get_objects() if isinstance(thing, torch.Tensor))
    unet, calls = model.model.diffusion_model, []
    forward = unet._forward

    def breaks(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise FAULTS[fault]("broken on purpose")
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(unet, "_forward", breaks)
        with pytest.raises(FAULTS[fault]):
            run()
    assert len(calls) == 3  # it stopped at once
    del run
    gc.collect()
    assert traces(model) == clean
    assert sum(1 for thing in gc.get_objects() if isinstance(thing, torch.Tensor)) <= held + 5
    assert torch.equal(plain(model, text, steps=2), before)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_picture_that_cannot_be_decoded_leaves_the_model_as_it_was(model, fault):
    text = text_conditioning("a cat", **TEXT)
    path, before, clean = path_of(model), plain(model, text, steps=2), traces(model)
    decoder = Decoder()

    def breaks(latent, calls=[]):  # noqa: B006 - counts its calls
        calls.append(1)
        if len(calls) == 3:
            raise FAULTS[fault]("broken on purpose")
        return decoder(latent)

    with pytest.raises(FAULTS[fault]):
        search(model, path, breaks)
    assert traces(model) == clean and torch.equal(plain(model, text, steps=2), before)


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_training_leaves_the_model_as_it_was_and_goes_on(fault, tmp_path):
    model = small_model()
    latents, masks = squares(4)
    settings = TrainingSettings(part_names=("square",), steps=12, save_every=4, held_out=0.0, noise_count=1)
    whole = train_part_token(model, latents, masks, conditioning(), settings)[0]
    state, clean = tmp_path / "state.safetensors", traces(model)

    def breaks(done, total):
        if done == total - 3:
            raise FAULTS[fault]("broken on purpose")

    with pytest.raises(FAULTS[fault]):
        train_part_token(model, latents, masks, conditioning(), settings, state_file=state, progress=breaks)
    assert traces(model) == clean and [path.name for path in tmp_path.iterdir()] == [state.name]
    token_again, report = train_part_token(model, latents, masks, conditioning(), settings, state_file=state)
    assert report.resumed_from == 8 and torch.equal(token_again.embedding, whole.embedding)
