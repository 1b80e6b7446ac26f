"""ComfyUI's ways to work in little memory: weights that stay outside, rows in several calls, one edit at a time."""

from __future__ import annotations

import pytest
import torch

from support.stand_ins import FakeScorer, FakeVae, make_pair, make_trajectory, prompt_conditioning, sd1_shaped_model
from support.tiny_edits import SIZE, blend_guider, relative, sample, token
from support.tiny_models import WordClip, drawn, text_conditioning, tiny_sd
from support.trained_tokens import conditioning, small_model, squares
from tools.bootstrap import load_pack

load_pack()
import comfy.model_base
import comfy.model_management as management

from partedit_oir.core.decoding import picture_decoder
from partedit_oir.core.oir.reassembly import ReassemblySettings, reassemble
from partedit_oir.core.oir.search import search_steps
from partedit_oir.core.oir.search_settings import SearchSettings
from partedit_oir.core.partedit.alignment import FollowSettings
from partedit_oir.core.partedit.part_maps import part_maps
from partedit_oir.core.partedit.prompt import build_edit_prompt
from partedit_oir.core.training.settings import TrainingSettings
from partedit_oir.core.training.training import train_part_token
from partedit_oir.nodes import folders

EDITS = ["a robot outdoors", "a statue outdoors"]
MODES = ("lowvram", "novram", "split", "lowvram and split")


def with_lora(model):
    """The model with changed weights in all its linear layers of attention, as a LoRA makes them."""
    model = model.clone()
    weights = {
        f"diffusion_model.{name}": (0.1 * drawn(name, *weight.shape) * weight.std(),)
        for name, weight in model.model.diffusion_model.named_parameters()
        if name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"))
    }
    assert len(model.add_patches(weights)) == len(weights) > 10
    return model


@pytest.fixture(scope="module")
def model():
    return with_lora(tiny_sd())


@pytest.fixture(scope="module")
def objects():
    """A model with the trajectory of a picture, and two pairs of it."""
    model = with_lora(sd1_shaped_model(4))
    left = torch.zeros(64, 64)
    left[:, :32] = 1.0
    return model, make_trajectory(model, 6), [make_pair("cat", "tiger", left), make_pair("chair", "throne", 1 - left)]


def waiting(model):
    """(modules whose weights come for each call, all modules that can)."""
    able = [module for module in model.model.modules() if hasattr(module, "comfy_cast_weights")]
    return sum(hasattr(module, "prev_comfy_cast_weights") for module in able), len(able)


@pytest.fixture
def small(monkeypatch):
    """``small(mode, model)`` sets the host up for a mode, and returns a list that notes each UNet call as it is made.

    The only device here is the processor, for which the host has no such modes. It is made to take it for a GPU; that
    its memory is another is all that is missing.
    """
    used = []

    def begin(mode, model):
        model.detach()
        calls = []
        forward = model.model.diffusion_model._forward

        def noted(x, *args, **kwargs):
            calls.append((len(x), *waiting(model)))
            return forward(x, *args, **kwargs)

        monkeypatch.setattr(model.model.diffusion_model, "_forward", noted)
        if "split" in mode:
            monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", lambda *args, **kwargs: 1e30)
        if "vram" in mode:
            state = management.VRAMState.NO_VRAM if mode == "novram" else management.VRAMState.LOW_VRAM
            monkeypatch.setattr(management, "vram_state", state)
            monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
            # What remains for weights beside a run is half of the model's size.
            half = model.model_size() // 2

            def free(device=None, torch_free_too=False):
                memory = 2**40 - model.loaded_size()
                return (memory, memory) if torch_free_too else memory

            monkeypatch.setattr(management, "get_free_memory", free)
            monkeypatch.setattr(management, "minimum_inference_memory", lambda: 2**40 - half)
        used.append(model)
        return calls

    yield begin
    monkeypatch.undo()
    for model in used:
        model.detach()


def check_mode(mode, calls, rows):
    """That the calls really were made in the mode."""
    assert calls
    if "split" in mode:
        assert rows is None or {size for size, *_ in calls} == {rows}
    for _, offloaded, able in calls:
        if mode == "novram":
            assert offloaded == able
        elif "lowvram" in mode:
            assert 0 < offloaded < able
        else:
            assert offloaded == 0


def edits(words, texts=EDITS):
    """An EditPrompt with prompt-to-prompt on or off."""
    follow = FollowSettings(mode="off") if words == "off" else FollowSettings(mode="auto", self_replace=0.5)
    return build_edit_prompt(WordClip(768, 0), "a man outdoors", texts, follow)


def edit(model, words, texts=EDITS):
    """Rows [source, edits …] of a run with adaptive masks, and the masks."""
    guider = blend_guider(model, edits(words, texts), token=token(width=768))
    return sample(guider), guider.last_masks.edit_masks()


@pytest.fixture(scope="module")
def whole_edits(model):
    """Runs of two edits with all the memory they want, with prompt-to-prompt and without."""
    return {words: edit(model, words) for words in ("off", "on")}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("words", ["off", "on"])
def test_a_part_edit_is_the_same(model, whole_edits, small, mode, words):
    whole, masks = whole_edits[words]
    assert relative(whole[1], whole[0]) > 1e-3 and 0 < float(masks.mean()) < 1
    calls = small(mode, model)
    parts, own_masks = edit(model, words)
    check_mode(mode, calls, 3)
    assert relative(parts, whole) <= 1e-5 and relative(own_masks, masks) <= 1e-5


@pytest.mark.parametrize("words", ["off", "on"])
def test_one_edit_at_a_time_is_the_same(model, whole_edits, words):
    """And prompt-to-prompt does something, or the comparisons here would show nothing of it."""
    whole, masks = whole_edits[words]
    for number, text in enumerate(EDITS):
        alone, mask = edit(model, words, [text])
        assert relative(alone, whole[[0, 1 + number]]) <= 1e-5 and relative(mask, masks[number : number + 1]) <= 1e-5
    assert relative(whole_edits["on"][0][1:], whole_edits["off"][0][1:]) > 1e-3


@pytest.mark.parametrize("mode", ["lowvram", "novram"])
def test_maps_of_a_part_are_the_same(model, small, mode):
    def maps():
        text = text_conditioning("a cat", width=768, pooled=0)
        return part_maps(model, token(width=768), drawn("picture", 1, 4, *SIZE), text, samples=4)

    whole = maps()
    calls = small(mode, model)
    parts = maps()
    check_mode(mode, calls, 1)
    assert relative(parts, whole) <= 1e-5


def search_and_reassemble(model, trajectory, pairs, batch_size, between=lambda: None):
    """What a search of everything and the reassembly from its best steps give; ``between``: before each decoding."""
    decode = picture_decoder(FakeVae())

    def decoder(latent):
        between()
        return decode(latent)

    settings = SearchSettings(cfg=4.0, strategy="exhaustive", batch_size=batch_size)
    search = search_steps(model, trajectory, pairs, decoder, FakeScorer(), settings)
    target = prompt_conditioning("a tiger and a throne")
    final = reassemble(model, trajectory, search, target, ReassemblySettings(cfg=4.0, reassembly=1, reinversion=1))
    return search, final.latent


@pytest.fixture(scope="module")
def whole_search(objects):
    return search_and_reassemble(*objects, batch_size=4)


def check_search(found, whole):
    (search, latent), (whole_search, whole_latent) = found, whole
    for own, other in zip(search.pairs, whole_search.pairs, strict=True):
        assert own.chosen == other.chosen and own.candidates == other.candidates
        assert own.metric.total == pytest.approx(other.metric.total, abs=1e-4)
        assert relative(own.latent, other.latent) <= 1e-5
    assert relative(latent, whole_latent) <= 1e-5


@pytest.mark.parametrize(
    ("mode", "batch_size", "rows"), [("lowvram", 0, 12), ("novram", 1, 2), ("split", 4, 4), ("lowvram and split", 0, 1)]
)
def test_a_search_and_its_reassembly_are_the_same(objects, whole_search, small, mode, batch_size, rows):
    calls = small(mode, objects[0])
    check_search(search_and_reassemble(*objects, batch_size), whole_search)
    check_mode(mode, calls, None)
    assert max(size for size, *_ in calls) == rows


def test_a_model_that_is_moved_out_in_the_middle_of_a_search_is_the_same(objects, whole_search, small):
    """As when the VAE and the scorer need the room: all of it goes before one decoding, half of it before the next."""
    model = objects[0]
    calls = small("lowvram", model)
    moved = []

    def move_out():
        moved.append(model.loaded_size())
        if len(moved) % 2:
            model.detach()
        else:
            model.partially_unload(model.offload_device, model.loaded_size() // 2)

    check_search(search_and_reassemble(*objects, 4, move_out), whole_search)
    assert calls and len(moved) == 13 and max(moved) > 0


@pytest.mark.parametrize("mode", ["lowvram", "novram"])
def test_a_trained_token_is_the_same(small, mode):
    model = with_lora(small_model())
    latents, masks = squares(4)
    settings = TrainingSettings(part_names=("square",), steps=12, held_out=0.0, noise_count=1)
    whole = train_part_token(model, latents, masks, conditioning(), settings)[0]
    calls = small(mode, model)
    parts = train_part_token(model, latents, masks, conditioning(), settings)[0]
    check_mode(mode, calls, None)
    assert relative(parts.embedding, whole.embedding) <= 1e-5
    bare = train_part_token(small_model(), latents, masks, conditioning(), settings)[0]
    assert relative(bare.embedding, whole.embedding) > 1e-3  # the changed weights matter


@pytest.mark.parametrize("state", ["LOW_VRAM", "NO_VRAM", "NORMAL_VRAM"])
def test_a_model_that_cannot_cast_its_weights_is_never_on_two_devices(state, monkeypatch):
    """SAM, detectors and captioners: what ComfyUI loads or moves out in part would meet inputs from elsewhere."""
    device = torch.device("meta")  # has no memory, so weights can be sent there and not fetched again
    monkeypatch.setattr(management, "vram_state", management.VRAMState[state])
    monkeypatch.setattr(management, "get_torch_device", lambda: device)
    monkeypatch.setattr(management, "unet_offload_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(
        management, "get_free_memory", lambda device=None, torch_free_too=False: (0, 0) if torch_free_too else 0
    )
    monkeypatch.setattr(management, "current_loaded_models", [])
    model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(4)))
    prepare = folders.managed(model)
    for _ in range(2):
        prepare()
        assert {weight.device.type for weight in model.parameters()} == {"cpu" if state == "NO_VRAM" else "meta"}
