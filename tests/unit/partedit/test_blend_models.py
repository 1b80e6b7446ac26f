"""Models and latents as other nodes hand them over: exchanged formats, tiles, caches, compilers, wrong channels."""

from __future__ import annotations

import logging

import pytest
import torch

from support.tiny_edits import SIZE, blend_guider, edit_prompt, plain, relative, sample, token
from support.tiny_models import WIDTH, drawn, text_conditioning, tiny_sdxl
from support.trained_tokens import conditioning, small_model, squares
from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.inversion.invert import invert
from partedit_oir.core.inversion.replay import TrajectorySampler
from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas
from partedit_oir.core.partedit.feature_blend import SampleSettings, feature_blend
from partedit_oir.core.partedit.part_maps import part_maps
from partedit_oir.core.partedit.settings import BlendInputs
from partedit_oir.core.training.settings import TrainingSettings
from partedit_oir.core.training.training import train_part_token


@pytest.fixture
def model():
    return tiny_sdxl()


def test_an_exchanged_latent_format_is_used_before_and_after_loading(model):
    import comfy.samplers
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    (patched,) = ModelSamplingContinuousEDM().patch(model, "edm_playground_v2.5", 80.0, 0.002)
    latent, text = drawn("picture", 1, 4, *SIZE), text_conditioning("source")
    before = plain(patched, text, latent=latent)
    sigmas = torch.tensor([20.0, 5.0, 1.0, 0.1])
    for _ in range(2):
        path = invert(patched, latent, text, sigmas=sigmas, method="edit_friendly_ddpm")
        guider = comfy.samplers.CFGGuider(patched)
        guider.set_conds(text, text)
        guider.set_cfg(1.0)
        solver = comfy.samplers.KSAMPLER(TrajectorySampler(path))
        back = guider.sample(torch.zeros_like(latent), latent, solver, path.sigmas, disable_pbar=True, seed=0)
        assert relative(back, latent) < 1e-4
        assert relative(plain(patched, text, latent=latent), before) < 1e-6


def test_a_unet_sampled_as_a_flow_replays_an_image_exactly(model):
    """And not with the model from before the sampling node, whose levels mean something else."""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    (flow,) = ModelSamplingSD3().patch(model, 2.0)
    latent, text = drawn("picture", 1, 4, *SIZE), text_conditioning("source")
    sigmas = spaced_sigmas(model_sampling_of(flow), 4, "trailing")
    inputs, settings = BlendInputs(edit_prompt(), token()), SampleSettings(cfg=5.0)
    for method in ("edit_friendly_ddpm", "euler_next_timestep"):
        path = invert(flow, latent, text, sigmas=sigmas, method=method)
        result = feature_blend(flow, inputs, text_conditioning(""), None, settings, path)
        assert relative(result.source, latent) < 1e-5
        assert relative(result.edited, latent) > 1e-3
    with pytest.raises(ValueError, match=r"^model: samples as a noise model, but the trajectory was made with one of"):
        feature_blend(model, inputs, text_conditioning(""), None, settings, path)


def tiled(model, size=8):
    """A clone whose UNet sees the latent in tiles, as tiled diffusion does it."""

    def wrapper(apply_model, options):
        x, out = options["input"], torch.zeros_like(options["input"])
        for top in range(0, x.shape[-2], size):
            for left in range(0, x.shape[-1], size):
                place = (..., slice(top, top + size), slice(left, left + size))
                out[place] = apply_model(x[place], options["timestep"], **options["c"])
        return out

    clone = model.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


@pytest.mark.parametrize("batch", [1, 4])
def test_a_picture_in_tiles_is_refused(model, batch):
    with pytest.raises(ValueError, match=r"model: its UNet gets \d+ rows of 8 x 8, but .* tiles"):
        sample(blend_guider(tiled(model), edit_prompt(), mask=torch.ones(1, 128, 128)), batch=batch)
    with pytest.raises(ValueError, match="model: no call of its UNet covered the whole image"):
        part_maps(tiled(model), token(), drawn("latent", 1, 4, *SIZE), text_conditioning("a man"))


def cached(model, answers):
    """A clone whose UNet is not called in the calls that ``answers`` names."""
    calls = []

    def wrapper(apply_model, options):
        calls.append(len(calls))
        if calls[-1] in answers:
            return torch.zeros_like(options["input"])
        return apply_model(options["input"], options["timestep"], **options["c"])

    clone = model.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def test_a_cache_that_answers_for_the_unet_is_told(model, caplog):
    with pytest.raises(ValueError, match="model: its UNet was not called in the first step"):
        sample(blend_guider(cached(model, range(99)), edit_prompt(), token=token()))
    with caplog.at_level(logging.WARNING):
        sample(blend_guider(cached(model, {2}), edit_prompt(), token=token()), steps=4)
    assert caplog.text.count("ran without the UNet") == 1
    with pytest.raises(ValueError, match="model: no call of its UNet covered the whole image"):
        part_maps(cached(model, range(99)), token(), drawn("latent", 1, 4, *SIZE), text_conditioning("a man"))


@pytest.mark.parametrize(
    ("latent", "words"),
    [
        (torch.ones(1, 16, 16, 16), "latent_image: has 16 channels, but this model uses 4"),
        (torch.full((1, 4, 16, 16), float("nan")), "latent_image: contains NaN"),
        (torch.ones(1, 4, 2, 16, 16), "latent_image: expected an image latent of 4 dimensions"),
        (torch.ones(0, 4, 16, 16), "latent_image: is empty"),
    ],
)
def test_a_latent_of_another_kind_is_named_everywhere(model, latent, words):
    text = text_conditioning("source")
    with pytest.raises(ValueError, match=words):
        guider = blend_guider(model, edit_prompt(), token=token())
        guider.sample(torch.zeros_like(latent), latent, None, torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match=words):
        part_maps(model, token(), latent, text)
    with pytest.raises(ValueError, match=words):
        invert(model, latent, text, sigmas=torch.tensor([10.0, 1.0, 0.1]))


def test_a_guider_that_blends_already_is_refused(model):
    with pytest.raises(ValueError, match="guider: is itself a Feature Blend Guider"):
        blend_guider(model, edit_prompt(), token=token(), base=blend_guider(model, edit_prompt(), token=token()))


def test_a_guider_of_another_model_is_named(model, caplog):
    from comfy.samplers import CFGGuider

    def other(made_with, width):
        guider = CFGGuider(made_with)
        guider.set_conds(text_conditioning("source"), text_conditioning("negative", width=width))
        return guider

    blend_guider(model, edit_prompt(), token=token(), base=other(model.clone(), WIDTH))
    assert "another model" not in caplog.text
    blend_guider(model, edit_prompt(), token=token(), base=other(tiny_sdxl(2), WIDTH))
    assert "guider was made with another model" in caplog.text
    with pytest.raises(ValueError, match="guider: its negative: its text embedding is 32 wide, but the model takes 64"):
        blend_guider(model, edit_prompt(), token=token(), base=other(model, 32))


@pytest.mark.parametrize("images", [1, 3])
def test_noise_for_other_images_than_the_latents_is_named(model, images):
    import comfy.samplers

    noise = drawn("noise", images, 4, *SIZE)
    guider = blend_guider(model, edit_prompt(), token=token())
    with pytest.raises(ValueError, match=r"latent_image: has shape \(2, 4, 16, 16\), but its noise is for \([13], 4"):
        guider.sample(
            noise, torch.zeros(2, 4, *SIZE), comfy.samplers.sampler_object("euler"), torch.tensor([10.0, 1.0, 0.0])
        )


def test_steps_that_leave_the_schedule_are_refused_with_the_reason(model):
    sampling = model_sampling_of(model)
    with pytest.raises(ValueError, match=r"steps: 600 with spacing 'leading' would only reach timestep 600 of 1000"):
        spaced_sigmas(sampling, 600, "leading")
    for steps in (334, 349, 600, 699):  # the number that the message names is one that works: 340 is not, and 500 is
        with pytest.raises(ValueError, match="would only reach") as error:
            spaced_sigmas(sampling, steps)
        assert len(spaced_sigmas(sampling, int(str(error.value).split("Choose ")[1].split()[0]))) > 300
    assert len(spaced_sigmas(sampling, 600, "trailing")) == 601 and len(spaced_sigmas(sampling, 500)) == 501

    class Distilled:
        sigmas = torch.linspace(0.03, 14.6, 50)

    with pytest.raises(ValueError, match=r"steps: 50 is not between 1 and 49; this model has 50 training timesteps"):
        spaced_sigmas(Distilled(), 50)


@pytest.mark.slow
def test_a_compiled_model_edits_reads_inverts_and_trains_as_the_plain_one(model):
    helpers = pytest.importorskip("comfy_api.torch_helpers", reason="this ComfyUI has no compile wrapper")

    def compiled(plain_model):
        clone = plain_model.clone()
        only = {"guard_filter_fn": lambda entries: ["transformer_options" not in entry.name for entry in entries]}
        helpers.set_torch_compile_wrapper(model=clone, backend="eager", options=only)
        return clone

    fast, latent, text = compiled(model), drawn("latent", 1, 4, *SIZE), text_conditioning("a man")
    for names in (["edit"], ["other", "third"]):
        expected = sample(blend_guider(model, edit_prompt(names), token=token()))
        assert relative(sample(blend_guider(fast, edit_prompt(names), token=token())), expected) < 1e-5
    expected = part_maps(model, token(), latent, text)
    assert relative(part_maps(fast, token(), latent, text), expected) < 1e-5
    sigmas = torch.tensor([10.0, 1.0, 0.1])
    expected = invert(model, latent, text, sigmas=sigmas).latents
    assert relative(invert(fast, latent, text, sigmas=sigmas).latents, expected) < 1e-5
    assert relative(plain(fast, text), plain(model, text)) < 1e-5
    latents, masks = squares(2)
    settings = TrainingSettings(part_names=("square",), steps=4, held_out=0.0, noise_count=1)
    trained = [
        train_part_token(one, latents, masks, conditioning(), settings)[0]
        for one in (small_model(), compiled(small_model()))
    ]
    assert relative(trained[1].embedding, trained[0].embedding) < 1e-4
