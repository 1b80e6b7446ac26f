"""What must hold exactly for feature blending: masks of ones and zeros, batching, splitting, rows, restoration."""

from __future__ import annotations

import pytest
import torch

from support.tiny_edits import SIZE, blend_guider, edit_prompt, plain, relative, sample, token
from support.tiny_models import text_conditioning, tiny_sdxl


@pytest.fixture(scope="module")
def model(pack):
    return tiny_sdxl()


@pytest.fixture(scope="module")
def half():
    mask = torch.zeros(1, 128, 128)
    mask[:, :, 64:] = 1.0
    return mask


def rows_of(texts):
    """CONDITIONING with one row for each text."""
    entries = [text_conditioning(text)[0] for text in texts]
    pooled = torch.cat([entry[1]["pooled_output"] for entry in entries])
    return [[torch.cat([entry[0] for entry in entries]), {"pooled_output": pooled}]]


def plain_pair(model, texts, **options):
    """Ordinary sampling of two prompts as two rows with the same noise."""
    import comfy.sample
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(rows_of(texts), text_conditioning("negative"))
    guider.set_cfg(4.0)
    noise = comfy.sample.prepare_noise(torch.zeros(1, 4, *SIZE), 5).repeat(2, 1, 1, 1)
    sigmas = comfy.samplers.KSampler(model, 3, torch.device("cpu"), "euler", "normal", 1.0).sigmas
    solver = comfy.samplers.sampler_object("euler")
    return guider.sample(noise, torch.zeros_like(noise), solver, sigmas, disable_pbar=True, seed=5)


def test_mask_of_ones_is_plain_sampling_of_the_edit(model):
    out = sample(blend_guider(model, edit_prompt(), mask=torch.ones(1, 64, 64)))
    assert torch.equal(out, plain_pair(model, ["source", "edit"]))


def test_mask_of_zeros_with_the_sources_pooled_embedding_is_the_source(model):
    out = sample(blend_guider(model, edit_prompt(), mask=torch.zeros(1, 64, 64), keep_pooled=True))
    assert torch.equal(out[1], out[0])


def test_mask_of_zeros_without_it_is_close_but_not_the_source(model):
    out = sample(blend_guider(model, edit_prompt(), mask=torch.zeros(1, 64, 64)))
    assert 1e-4 < relative(out[1], out[0]) < relative(plain_pair(model, ["source", "edit"])[1], out[0])


def test_the_source_row_is_plain_sampling_of_the_source(model, half):
    out = sample(blend_guider(model, edit_prompt(), mask=half))
    assert relative(out[:1], plain(model, text_conditioning("source"))) < 1e-5


def test_the_token_changes_nothing_but_the_mask(model, half):
    without = sample(blend_guider(model, edit_prompt(), mask=half))
    assert torch.equal(sample(blend_guider(model, edit_prompt(), mask=half, token=token())), without)
    # A threshold that the map never reaches makes every token's mask the same, so the pictures must be, too.
    fixed = {"threshold": "fixed", "fixed": 2.0}
    one = sample(blend_guider(model, edit_prompt(), token=token("head"), **fixed))
    assert torch.equal(one, sample(blend_guider(model, edit_prompt(), token=token("foot"), **fixed)))
    assert not torch.equal(one, sample(blend_guider(model, edit_prompt(), token=token("foot"))))


def test_a_half_mask_moves_the_picture_there(model, half):
    out = sample(blend_guider(model, edit_prompt(), mask=half, keep_pooled=True))
    change = (out[1] - out[0]).abs().mean(dim=0)
    assert change[:, 8:].mean() > 2 * change[:, :8].mean()


@pytest.fixture
def rows(model, monkeypatch):
    """Rows of every call that really runs the UNet."""
    unet, seen = model.model.diffusion_model, []
    forward = unet._forward

    def counting(x, *args, **kwargs):
        seen.append(x.shape[0])
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(unet, "_forward", counting)
    return seen


@pytest.mark.parametrize("edits", [1, 3])
@pytest.mark.parametrize("timing", ["clean", "published"])
def test_rows_are_two_times_source_and_edits_and_none_for_the_token(model, rows, edits, timing):
    texts = [f"edit {n}" for n in range(edits)]
    sample(blend_guider(model, edit_prompt(texts), token=token(), timing=timing), steps=4)
    assert rows == [2 * (edits + 1)] * 4


def test_twice_evaluated_first_step_costs_one_step(model, rows):
    sample(blend_guider(model, edit_prompt(), token=token(), timing="clean, first step twice"), steps=1)
    assert rows == [4, 4]


def no_memory(monkeypatch):
    """The host then never joins conditional and unconditional rows."""
    import comfy.model_base

    monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", lambda *args, **kwargs: 1e30)


@pytest.mark.parametrize("timing", ["clean", "published"])
def test_forced_splitting_equals_batching(model, rows, timing, monkeypatch):
    settings = {"token": token(), "timing": timing}
    together = sample(blend_guider(model, edit_prompt(), **settings), steps=4)
    no_memory(monkeypatch)
    apart = sample(blend_guider(model, edit_prompt(), **settings), steps=4)
    assert rows == [4] * 4 + [2] * 8
    assert relative(apart, together) <= 1e-5


def test_edits_in_one_run_equal_single_runs(model):
    texts = ["one", "two", "three"]
    together = sample(blend_guider(model, edit_prompt(texts), token=token()))
    for number, text in enumerate(texts):
        single = sample(blend_guider(model, edit_prompt([text]), token=token()))
        assert relative(together[1 + number], single[1]) <= 1e-5
        assert relative(together[0], single[0]) <= 1e-5


def test_a_batch_of_pictures_equals_single_pictures(model):
    import comfy.sample
    import comfy.samplers

    noise = comfy.sample.prepare_noise(torch.zeros(2, 4, *SIZE), 9)
    sigmas = comfy.samplers.KSampler(model, 3, torch.device("cpu"), "euler", "normal", 1.0).sigmas
    solver = comfy.samplers.sampler_object("euler")

    def run(rows):
        guider = blend_guider(model, edit_prompt(["one", "two"]), token=token())
        return guider.sample(noise[rows], torch.zeros_like(noise[rows]), solver, sigmas, disable_pbar=True, seed=9)

    both = run(slice(0, 2))
    for picture in range(2):
        single = run(slice(picture, picture + 1))
        assert relative(both[picture::2], single) <= 1e-5


class Cancelled(BaseException):
    """Like the host's InterruptProcessingException, no Exception."""


@pytest.mark.parametrize("error", [Cancelled, RuntimeError])
def test_after_an_interrupt_the_model_samples_bit_for_bit_as_before(model, error):
    before = plain(model, text_conditioning("other"))
    options = dict(model.model_options["transformer_options"])
    guider = blend_guider(model, edit_prompt(), token=token())

    def stop(step, *_):
        if step == 1:
            raise error

    with pytest.raises(error):
        sample(guider, callback=stop)
    assert model.model_options["transformer_options"] == options and not model.wrappers
    assert torch.equal(plain(model, text_conditioning("other")), before)
    # The guider itself can be used again.
    assert torch.equal(sample(guider), sample(blend_guider(model, edit_prompt(), token=token())))


def test_the_hosts_interrupt_stops_a_run(model):
    import comfy.model_management as management

    def stop(step, *_):
        management.interrupt_current_processing()
        management.throw_exception_if_processing_interrupted()

    with pytest.raises(management.InterruptProcessingException):
        sample(blend_guider(model, edit_prompt(), token=token()), callback=stop)


@pytest.mark.parametrize("size", [(16, 16), (8, 24), (24, 8), (13, 20), (17, 9)])
def test_aspect_ratios_and_odd_sizes(model, size):
    guider = blend_guider(model, edit_prompt(), token=token())
    out = sample(guider, size=size, steps=2)
    assert out.shape == (2, 4, *size) and torch.isfinite(out).all()
    assert guider.last_masks.edit_masks().shape == (1, 1, *size)
    assert relative(out[:1], plain(model, text_conditioning("source"), size=size, steps=2)) < 1e-5


def test_cfg_one_runs_without_the_negative(model, rows):
    out = sample(blend_guider(model, edit_prompt(), token=token(), cfg=1.0))
    assert rows == [2, 2, 2]
    assert relative(out[:1], plain(model, text_conditioning("source"), cfg=1.0)) < 1e-5


@pytest.mark.parametrize("lengths", [(77, 154), (154, 77), (154, 154)])
def test_prompts_of_unequal_length(model, lengths):
    from dataclasses import replace

    prompt = edit_prompt()
    source, edit = (text_conditioning(text, length=n) for text, n in zip(("source", "edit"), lengths))
    one = replace(prompt.edits[0].prompts[0], conditioning=edit)
    prompt = replace(prompt, source=source, edits=(replace(prompt.edits[0], prompts=(one,)),))
    out = sample(blend_guider(model, prompt, mask=torch.ones(1, 8, 8)))
    assert relative(out[:1], plain(model, source)) < 1e-5
    assert relative(out[1:], plain(model, edit)) < 1e-5


def test_edit_steps_as_share_and_as_number(model):
    share = sample(blend_guider(model, edit_prompt(), token=token(), edit_steps=0.5), steps=4)
    number = sample(blend_guider(model, edit_prompt(), token=token(), edit_steps=2.0), steps=4)
    assert torch.equal(share, number)
    assert not torch.equal(share, sample(blend_guider(model, edit_prompt(), token=token()), steps=4))


def test_paste_back_keeps_the_source_outside_the_mask(model, half):
    out = sample(blend_guider(model, edit_prompt(), mask=half, paste_back=True))
    assert torch.equal(out[1, :, :, :7], out[0, :, :, :7])
    assert not torch.equal(out[1, :, :, 9:], out[0, :, :, 9:])


def test_region_limits_the_mask(model, half):
    guider = blend_guider(model, edit_prompt(), token=token(), region=half)
    sample(guider)
    mask = guider.last_masks.edit_masks()
    assert mask[..., :7].max() == 0 and mask[..., 9:].max() == 1


def test_region_leaves_the_parts_their_joint_scale(model):
    both = token(parts=2)
    guiders = [blend_guider(model, edit_prompt(), token=both, region=r) for r in (None, torch.ones(1, 8, 8))]
    for guider in guiders:
        sample(guider, steps=2)
    plainly, everywhere = (guider.last_masks.history[0] for guider in guiders)
    assert torch.allclose(plainly, everywhere, atol=1e-4)


def test_an_edit_without_blending_beside_one_with(model):
    from dataclasses import replace

    prompt = edit_prompt(["one", "two"])
    prompt = replace(prompt, edits=(prompt.edits[0], replace(prompt.edits[1], blended=False)))
    out = sample(blend_guider(model, prompt, token=token()))
    assert relative(out[1], sample(blend_guider(model, edit_prompt(["one"]), token=token()))[1]) <= 1e-5
    assert relative(out[2], plain_pair(model, ["source", "two"])[1]) <= 1e-5


@pytest.mark.parametrize("timing", ["clean", "clean, first step twice", "published"])
@pytest.mark.parametrize("edit_steps", [1.0, 3, 0.0])
def test_the_mean_mask_is_over_the_steps_that_blended_with_it(model, timing, edit_steps):
    guider = blend_guider(model, edit_prompt(["one", "two"]), token=token(), timing=timing, edit_steps=edit_steps)
    sample(guider, steps=5, batch=2)
    run = guider.last_masks
    after = [run.edit_masks(step) for step in range(5)]
    blended = range(5) if edit_steps == 1.0 else range(int(edit_steps))
    # A step blends with the mask of the step before; with the first step run twice, it finds its own the first time.
    used = [after[max(step - 1, 0)] for step in blended if step > 0 or timing == "clean, first step twice"]
    wanted = torch.stack(used or after).mean(dim=0)
    assert torch.allclose(run.mean_masks(SIZE), wanted, atol=1e-5)
    assert not torch.allclose(wanted, after[-1], atol=1e-2), "the last step's mask would pass, too"


def test_the_mean_of_a_given_mask_is_the_mask(model, half):
    guider = blend_guider(model, edit_prompt(), mask=half, edit_steps=2)
    sample(guider)
    assert torch.equal(guider.last_masks.mean_masks(SIZE), guider.last_masks.edit_masks())


@pytest.mark.parametrize("occupied", [False, True])
def test_prompt_to_prompt_takes_the_precision_of_the_host_s_attention(pack, monkeypatch, occupied):
    """Where ComfyUI is told to compute attention in single precision (--force-upcast-attention, macOS), so is what
    prompt-to-prompt adds: logits of half precision would overflow."""
    import comfy.ldm.modules.attention as host

    from partedit_oir.core import attention
    from partedit_oir.core.unet import LayerKey

    class NoMasks(attention.CallMasks):
        pass

    seen = []
    monkeypatch.setattr(host, "FORCE_UPCAST_ATTENTION_DTYPE", {torch.float16: torch.float32})
    monkeypatch.setattr(attention, "_attention", lambda q, k, v, heads: seen.append((q, k, v)) or torch.zeros_like(q))
    layer = LayerKey("middle", 0, 0)
    gate = torch.full((4,), 0.5)
    step = attention.EditStep((attention.PromptStep((0, 4), 4, torch.eye(4), torch.zeros(4), torch.ones(4), gate),))
    call = attention.BlendCall(1, (step,), 1, (0,), None, NoMasks(), 0)
    options = {"patches_replace": {"attn2": {layer: lambda q, k, v, _: q}}} if occupied else {}
    patch = attention.blended_options(options, None, (layer,), call)["patches_replace"]["attn2"][layer]
    q, k, v = torch.randn(2, 9, 8).half(), torch.randn(2, 4, 8).half(), torch.randn(2, 4, 8).half()
    extra = {"block": ("middle", 0), "block_index": 0, "activations_shape": [2, 8, 3, 3], "n_heads": 2}
    assert patch(q, k, v, {**extra, "attn_precision": None}).dtype == torch.float16
    assert seen and all(one.dtype == torch.float32 for each in seen for one in each)
