"""Latent blending with an inverted image: on flow models and on models with noise prediction, without attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from support.flow_models import FAMILIES
from support.stand_ins import latent, prompt_conditioning, relative_error, sd1_shaped_model

STEPS = 4
SOURCE, EDIT, NEGATIVE = "a cat and a chair", "a large striped tiger and a chair", "a blurred photo"


@pytest.fixture(scope="module", params=["flux", "qwen_image", "sd1"])
def setting(request, pack):
    """A model, its conditioning of a text, and its own name for Euler's method."""
    if request.param == "sd1":
        return sd1_shaped_model(4), prompt_conditioning, latent(), "ddim_next_timestep"
    family = FAMILIES[request.param]()
    return family.model, family.conditioning, family.latent(), "euler_next_timestep"


def inverted(setting, method="", prompt=SOURCE, **options):
    from partedit_oir.core.inversion.invert import invert
    from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas

    model, text, samples, euler = setting
    sigmas = spaced_sigmas(model_sampling_of(model), STEPS)
    return invert(
        model,
        options.pop("samples", samples),
        text(prompt) if prompt else None,
        sigmas=sigmas,
        method=method or euler,
        **options,
    )


def edited(setting, trajectory, prompt=EDIT, mask=None, cfg=3.0, negative=NEGATIVE, source=None, **settings):
    from partedit_oir.core.inversion.masked_replay import MaskedReplaySettings, masked_replay

    model, text, *_ = setting
    if mask is None:
        mask = torch.zeros(64, 64)
        mask[:, :32] = 1.0
    return masked_replay(
        model,
        trajectory,
        text(prompt),
        mask,
        MaskedReplaySettings(cfg, **settings),
        negative=text(negative) if negative else None,
        source=text(source) if source else None,
    )


@pytest.mark.parametrize("cfg", [1.0, 5.0])
@pytest.mark.parametrize("method", ["", "edit_friendly_ddpm", "ledits_pp"])
def test_an_edit_that_changes_nothing_gives_the_image(setting, method, cfg):
    trajectory = inverted(setting, method)
    result = edited(setting, trajectory, SOURCE, torch.ones(64, 64), cfg, strength=0.8)
    assert relative_error(result, trajectory.latent_image) < 1e-5


@pytest.mark.parametrize("method", ["", "ledits_pp"])
def test_the_outside_is_the_image_and_the_inside_is_not(setting, method):
    trajectory = inverted(setting, method)
    result = edited(setting, trajectory)
    inside, outside = result[..., :3], result[..., 5:]  # the mask's edge is soft after scaling
    assert result.shape == trajectory.latent_image.shape
    torch.testing.assert_close(outside, trajectory.latent_image[..., 5:])
    assert relative_error(inside, trajectory.latent_image[..., :3]) > 1e-3
    beyond = edited(setting, trajectory, blend_until=0.5)
    assert relative_error(beyond[..., 5:], outside) > 1e-6, "let go for the last steps"


def test_it_is_what_its_equations_say(pack):
    """Per step: Euler with the edit's velocity, plus what the image's own velocity misses, inside the mask only."""
    family = FAMILIES["flux"]()
    setting = (family.model, family.conditioning, family.latent(), "euler_next_timestep")
    trajectory = inverted(setting)
    sigmas, path = [float(s) for s in trajectory.sigmas], trajectory.latents
    edit, source = family.velocity(EDIT), family.velocity(SOURCE)
    large = torch.linspace(0, 1, 8).expand(8, 8).repeat_interleave(8, 0).repeat_interleave(8, 1)
    small = F.interpolate(large[None, None], size=(8, 8), mode="bilinear", antialias=True)
    y = path[0]
    for i in range(STEPS):
        h = sigmas[i + 1] - sigmas[i]
        missing = path[i + 1] - (path[i] + h * source(path[i], sigmas[i]))
        y = small * (y + h * edit(y, sigmas[i]) + missing) + (1 - small) * path[i + 1]
    expected = family.model.model.process_latent_out(y / (1 - sigmas[-1]))
    assert relative_error(edited(setting, trajectory, mask=large, cfg=1.0, negative=None), expected) < 5e-5


def test_one_prompt_edits_each_image_of_a_batch_under_its_mask(setting):
    samples = setting[2]
    both = inverted(setting, samples=torch.cat([samples, 0.5 * samples]))
    masks = torch.zeros(2, 64, 64)
    masks[0, :, :32] = masks[1, :, 32:] = 1.0
    result = edited(setting, both, mask=masks)
    for k in range(2):
        alone = edited(setting, inverted(setting, samples=both.latent_image[k : k + 1]), mask=masks[k])
        assert relative_error(result[k : k + 1], alone) < 1e-5


def test_what_cannot_work_is_refused_by_name(setting, monkeypatch):
    import comfy.samplers

    def no_sampling(*args, **kwargs):
        raise AssertionError("sampling started")

    trajectory, unknown = inverted(setting), inverted(setting, "ledits_pp", prompt="")
    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", no_sampling)
    with pytest.raises(ValueError, match=r"^negative: not connected, but cfg is 3"):
        edited(setting, trajectory, negative=None)
    with pytest.raises(ValueError, match=r"^source: not connected, and the ledits_pp trajectory was made without a"):
        edited(setting, unknown)
    with pytest.raises(ValueError, match=r"^mask: the mask is empty, so there is nothing to edit(?!.*disconnect)"):
        edited(setting, trajectory, mask=torch.zeros(64, 64))
    with pytest.raises(ValueError, match=r"^strength: expected a number above 0"):
        edited(setting, trajectory, strength=0.0)
    with pytest.raises(ValueError, match=r"^blend_until: expected a fraction from 0 to 1, got 2"):
        edited(setting, trajectory, blend_until=2.0)
    other = FAMILIES["sd3"]() if setting[3].startswith("ddim") else None
    model = other.model if other else sd1_shaped_model(4)
    with pytest.raises(ValueError, match=r"^model: samples as a .* model, but the trajectory was made with one of the"):
        edited((model, *setting[1:]), trajectory)
    scaled = replace(trajectory, scaling=replace(trajectory.scaling, sigma_data=0.5))
    with pytest.raises(ValueError, match=r"^model: samples as .*\(sigma_data 1, .* the kind .*\(sigma_data 0.5, "):
        edited(setting, scaled)


def test_node_gives_latent_and_image(pack, setting):
    from partedit_oir.nodes.latent_blend import LatentBlendSampler

    class Vae:
        def encode(self, pixels): ...

        def decode(self, samples):
            return samples[:, :3].repeat_interleave(8, -2).repeat_interleave(8, -1).movedim(1, -1)

    model, text, *_ = setting
    trajectory = inverted(setting, "edit_friendly_ddpm", prompt="")
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48] = 1.0
    given = {"model": model, "trajectory": trajectory, "edit": text(EDIT), "mask": mask}
    values = {"cfg": 2.0, "strength": 1.0, "blend_until": 1.0, "negative": text(NEGATIVE), "source": text(SOURCE)}
    plain, shown = (LatentBlendSampler.execute(**given, **values, vae=vae).args for vae in (None, Vae()))
    assert torch.equal(plain[0]["samples"], shown[0]["samples"])
    assert shown[1].shape == (1, 64, 64, 3) and "vae: not connected" in plain[1].message
