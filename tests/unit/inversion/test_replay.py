"""Noise-map inversions against diffusers' schedulers, and replaying a trajectory through ComfyUI's guider.

The edit row's noise maps come from the source row unless a test asks for recorded ones.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from support.stand_ins import SOURCE, latent, make_trajectory, prompt_conditioning, relative_error, sd1_shaped_model

STEPS = 8
SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
EDIT = "a tiger and a chair"
STOCHASTIC = ("edit_friendly_ddpm", "ledits_pp")
EVERY = ("ddim_next_timestep", "ddim_current_timestep", *STOCHASTIC)
RECORDED = "as recorded"


@pytest.fixture(scope="module")
def model(pack):
    return sd1_shaped_model(3)


@pytest.fixture(scope="module")
def trajectories(model):
    return {
        method: make_trajectory(model, STEPS, latent(8, 8, batch=2), method=method, seed=11, record_noise_maps=True)
        for method in ("ddim_next_timestep", "ddim_current_timestep", *STOCHASTIC)
    }


def network(model, z, timestep):
    context = prompt_conditioning(SOURCE)[0][0].expand(z.shape[0], -1, -1)
    with torch.no_grad():
        return model.model.diffusion_model(z, torch.full((z.shape[0],), float(timestep)), context=context)


def unit_noise(trajectory, i):
    """The noise map of the papers and diffusers, of unit variance: without sigma' sqrt(1 - (sigma'/sigma)^2)."""
    sigma, after = trajectory.sigmas[i : i + 2]
    return trajectory.noise_maps[i] / (after * (1 - (after / sigma) ** 2).sqrt())


def picture(trajectory, number):
    """The trajectory of one image of a batch."""
    part = slice(number, number + 1)
    maps = None if trajectory.noise_maps is None else trajectory.noise_maps[:, part]
    image = trajectory.latent_image[part]
    return dataclasses.replace(trajectory, latents=trajectory.latents[:, part], latent_image=image, noise_maps=maps)


def walk_with_diffusers(model, trajectory, scheduler, **options):
    """Latents of every level from diffusers' own steps, given the trajectory's start and noise maps, in x units."""
    scheduler.set_timesteps(STEPS)
    scale = (trajectory.sigmas**2 + 1).sqrt()
    z, walked = trajectory.latents[0] / scale[0], []
    for i, timestep in enumerate(scheduler.timesteps):
        noise = unit_noise(trajectory, i)
        z = scheduler.step(network(model, z, timestep), timestep, z, variance_noise=noise, **options).prev_sample
        walked.append(z * scale[i + 1])
    return torch.stack(walked)


def test_edit_friendly_noise_maps_drive_diffusers_ddim_back_to_the_image(model, trajectories):
    from diffusers import DDIMScheduler

    trajectory = trajectories["edit_friendly_ddpm"]
    scheduler = DDIMScheduler(**SCHEDULER, clip_sample=False, set_alpha_to_one=False)
    walked = walk_with_diffusers(model, trajectory, scheduler, eta=1.0)
    assert relative_error(walked, trajectory.latents[1:]) < 1e-4


def test_ledits_noise_maps_drive_diffusers_sde_dpm_solver_back_to_the_image(model):
    from diffusers import DPMSolverMultistepScheduler

    from partedit_oir.core.inversion.invert import invert

    scheduler = DPMSolverMultistepScheduler(
        **SCHEDULER,
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="sigma_min",
        euler_at_final=True,
    )
    scheduler.set_timesteps(STEPS)
    # this scheduler's own levels, which are not DDIM's
    trajectory = invert(
        model,
        latent(8, 8, batch=2),
        prompt_conditioning(SOURCE),
        sigmas=scheduler.sigmas,
        method="ledits_pp",
        seed=11,
        record_noise_maps=True,
    )
    walked = walk_with_diffusers(model, trajectory, scheduler)
    assert relative_error(walked, trajectory.latents[1:]) < 1e-4


def test_the_two_stochastic_methods_differ(trajectories):
    first, second = (trajectories[name].noise_maps for name in ("edit_friendly_ddpm", "ledits_pp"))
    assert relative_error(first[0], second[0]) < 1e-5, "the first step of both is of first order"
    assert relative_error(first[3], second[3]) > 1e-3


def test_latents_of_the_levels_are_drawn_independently(trajectories):
    trajectory = trajectories["edit_friendly_ddpm"]
    noise = (trajectory.latents[:-1] - trajectory.latent_image * 0.18215) / trajectory.sigmas[:-1].view(-1, 1, 1, 1, 1)
    rows = noise.flatten(1)
    correlation = torch.corrcoef(rows) - torch.eye(STEPS)
    assert float(rows.std()) == pytest.approx(1.0, abs=0.05)
    assert float(correlation.abs().max()) < 0.2


def test_seed_and_batch_size_of_the_inversion(model, trajectories, monkeypatch):
    reference = trajectories["ledits_pp"]
    options = {"method": "ledits_pp", "record_noise_maps": True}
    with monkeypatch.context() as little:
        little.setattr("partedit_oir.core.inversion.invert.auto_batch_size", lambda *args: 1)
        one_by_one = make_trajectory(model, STEPS, latent(8, 8, batch=2), seed=11, **options)
    assert relative_error(one_by_one.noise_maps, reference.noise_maps) < 1e-5
    other = make_trajectory(model, STEPS, latent(8, 8, batch=2), seed=12, **options)
    assert relative_error(other.noise_maps, reference.noise_maps) > 0.1


def sample(model, trajectory, prompts, *, number=0, start=0, mask=None, cfg=1.0, noise_maps=None):
    """Rows of clean latents (as a LATENT holds them), through ComfyUI's guider and KSAMPLER.

    The rows are of one image of the trajectory's batch, ``number``, or of all with None.
    """
    import comfy.samplers

    from partedit_oir.core.inversion.replay import TrajectorySampler

    guider = comfy.samplers.CFGGuider(model)
    text = torch.cat([prompt_conditioning(p)[0][0] for p in prompts])
    guider.set_conds([[text, {}]], prompt_conditioning(""))
    guider.set_cfg(cfg)
    trajectory = trajectory if number is None else picture(trajectory, number)
    options = {"noise_maps": noise_maps} if noise_maps else {}
    sampler = comfy.samplers.KSAMPLER(TrajectorySampler(trajectory, start=start, **options))
    image = trajectory.latent_image[torch.arange(len(prompts)) % len(trajectory.latent_image)]
    with torch.no_grad():
        return guider.sample(
            torch.zeros_like(image), image, sampler, trajectory.sigmas[start:], denoise_mask=mask, disable_pbar=True
        )


def test_differential_diffusion_releases_the_edit_level_by_level(model, trajectories):
    """A mask of 0.5 is closed until half of the time is over: the same as starting there."""
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    other = DifferentialDiffusion.execute(model).args[0]
    trajectory = trajectories["ddim_next_timestep"]
    timestep, levels = model.get_model_object("model_sampling").timestep, trajectory.sigmas
    first, last = float(timestep(levels[0])), float(timestep(levels[-1]))
    opened = next(i for i, sigma in enumerate(levels) if float(timestep(sigma)) - last <= 0.5 * (first - last))
    assert 1 < opened < STEPS
    masked = sample(other, trajectory, [SOURCE, EDIT], mask=torch.full((2, 1, 8, 8), 0.5))
    late = sample(model, trajectory, [SOURCE, EDIT], start=opened - 1)
    assert relative_error(masked[1], late[1]) < 1e-5
    assert relative_error(masked[1], trajectory.latent_image[0]) > 1e-3
    closed = sample(other, trajectory, [SOURCE, EDIT], mask=torch.zeros(2, 1, 8, 8))
    assert relative_error(closed[1], trajectory.latent_image[0]) < 1e-5


@pytest.mark.parametrize("method", STOCHASTIC)
@pytest.mark.parametrize("start", [0, 3])
def test_an_edit_row_receives_the_recorded_noise_maps(model, trajectories, method, start):
    """With the source's own prompt the edit row walks with the source to the end, wherever it started."""
    rows = sample(model, trajectories[method], [SOURCE, SOURCE], start=start, noise_maps=RECORDED)
    assert relative_error(rows[1], trajectories[method].latent_image[0]) < 1e-4


@pytest.mark.parametrize("cfg", [1.0, 3.5, 7.5, 12.5])
@pytest.mark.parametrize("method", EVERY)
def test_an_edit_that_changes_nothing_is_the_image_at_any_guidance(model, trajectories, method, cfg):
    trajectory = trajectories[method]
    for start in (0, 3):
        rows = sample(model, trajectory, [SOURCE, SOURCE, EDIT], start=start, cfg=cfg)
        assert relative_error(rows[1], trajectory.latent_image[0]) < 1e-5
        assert relative_error(rows[2], trajectory.latent_image[0]) > 1e-3
    if cfg != 1.0:
        rows = sample(model, trajectory, [SOURCE, SOURCE], cfg=cfg, noise_maps=RECORDED)
        assert relative_error(rows[1], trajectory.latent_image[0]) > 1e-3, "recorded at guidance 1"


def test_what_is_attached_to_the_model_after_the_inversion_does_no_harm(model, trajectories):
    """A LoRA, a ControlNet or another checkpoint: here weights that the inversion did not know."""
    weights = model.model.state_dict()
    name = next(k for k in weights if k.endswith("attn2.to_v.weight"))
    other = model.clone()
    other.add_patches({name: ("diff", (0.5 * weights[name].flip(0),))}, 1.0)
    for method in EVERY:
        trajectory = trajectories[method]
        rows = sample(other, trajectory, [SOURCE, SOURCE], cfg=4.0)
        assert relative_error(rows[1], trajectory.latent_image[0]) < 1e-5
        plain = sample(model, trajectory, [SOURCE, EDIT], cfg=4.0)
        assert relative_error(sample(other, trajectory, [SOURCE, EDIT], cfg=4.0)[1], plain[1]) > 1e-3


@pytest.mark.parametrize("method", STOCHASTIC)
def test_both_kinds_of_noise_maps_are_the_same_at_the_guidance_of_the_inversion(model, method):
    options = {"method": method, "record_noise_maps": True, "cfg": 4.0, "negative": prompt_conditioning("")}
    trajectory = make_trajectory(model, STEPS, latent(8, 8), **options)
    ours, recorded = (
        sample(model, trajectory, [SOURCE, EDIT], cfg=4.0, noise_maps=choice) for choice in (None, RECORDED)
    )
    assert relative_error(ours[1], recorded[1]) < 1e-4
    # what the papers record is what the source row needs, when both ask the model the same
    other = sample(model, trajectory, [SOURCE, EDIT], cfg=7.5)
    assert relative_error(other[1], recorded[1]) > 1e-2


@pytest.mark.parametrize("method", STOCHASTIC)
def test_a_trajectory_without_noise_maps_needs_no_model(model, trajectories, method, monkeypatch):
    import comfy.model_management
    import comfy.samplers

    from partedit_oir.core.inversion.invert import invert

    recorded = trajectories[method]
    with monkeypatch.context() as no_model:
        no_model.setattr(comfy.samplers.CFGGuider, "sample", lambda *a, **k: pytest.fail("the model was called"))
        no_model.setattr(comfy.model_management, "load_models_gpu", lambda *a, **k: pytest.fail("it was loaded"))
        found = invert(model, latent(8, 8, batch=2), None, sigmas=recorded.sigmas, method=method, seed=11, cfg=7.5)
    assert found.noise_maps is None and found.conditioning is None
    assert torch.equal(found.latents, recorded.latents) and torch.equal(found.latent_image, recorded.latent_image)
    prompts = [SOURCE, SOURCE, EDIT, EDIT]
    layout = {"number": None, "cfg": 4.0}
    assert torch.equal(sample(model, found, prompts, **layout), sample(model, recorded, prompts, **layout))
    with pytest.raises(ValueError, match=r"^noise_maps: is 'as recorded', but this .* turn on record_noise_maps"):
        sample(model, found, [SOURCE, EDIT], noise_maps=RECORDED)


def test_rows_follow_the_pictures_of_a_batch_by_default(model, trajectories):
    """The order of PartEdit's guider: all sources, then every edit's pictures."""
    import comfy.samplers

    from partedit_oir.core.inversion.replay import TrajectorySampler

    trajectory = trajectories["ledits_pp"]
    guider = comfy.samplers.CFGGuider(model)
    text = torch.cat([prompt_conditioning(p)[0][0] for p in (SOURCE, SOURCE, EDIT, EDIT, SOURCE, SOURCE)])
    guider.set_conds([[text, {}]], prompt_conditioning(""))
    guider.set_cfg(4.0)
    image = trajectory.latent_image.repeat(3, 1, 1, 1)
    sampler = comfy.samplers.KSAMPLER(TrajectorySampler(trajectory))
    rows = guider.sample(torch.zeros_like(image), image, sampler, trajectory.sigmas, disable_pbar=True)
    alone = sample(model, trajectory, [SOURCE, EDIT], number=1, cfg=4.0)
    assert relative_error(rows[3], alone[1]) < 1e-5
    for row in (0, 1, 4, 5):
        assert relative_error(rows[row], trajectory.latent_image[row % 2]) < 1e-5


@pytest.mark.parametrize("method", EVERY)
def test_source_rows_are_the_images_and_edit_rows_are_not(model, trajectories, method):
    trajectory = trajectories[method]
    rows = sample(model, trajectory, [SOURCE, SOURCE, EDIT, EDIT], number=None, cfg=4.0)
    assert relative_error(rows[:2], trajectory.latent_image) < 1e-5
    assert float((rows[2:] - trajectory.latent_image).norm() / trajectory.latent_image.norm()) > 1e-2
    alone = sample(model, trajectory, [SOURCE, EDIT], number=1, cfg=4.0)
    assert relative_error(alone[1], rows[3]) < 1e-5, "an edit does not depend on what else is in the batch"


def test_a_latent_noise_mask_keeps_the_outside_on_the_trajectory(model, trajectories):
    trajectory = trajectories["edit_friendly_ddpm"]
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1.0
    rows = sample(model, trajectory, [SOURCE, EDIT, SOURCE], mask=mask, cfg=4.0)
    image = trajectory.latent_image[0]
    assert relative_error(rows[2], image) < 1e-5
    assert relative_error(rows[1, ..., 4:], image[..., 4:]) < 1e-5
    assert relative_error(rows[1, ..., :4], image[..., :4]) > 1e-2


def test_other_levels_or_sizes_are_refused(model, trajectories):
    from partedit_oir.core.inversion.replay import Replay, TrajectorySampler

    trajectory = trajectories["edit_friendly_ddpm"]
    sampler = TrajectorySampler(trajectory)
    with pytest.raises(ValueError, match="replayed at its own 9 levels"):
        sampler(None, torch.zeros(1, 4, 8, 8), trajectory.sigmas[1:])
    with pytest.raises(ValueError, match="Use the latent that was inverted"):
        sampler(None, torch.zeros(1, 4, 16, 8), trajectory.sigmas)
    with pytest.raises(ValueError, match="start level 8"):
        Replay(trajectory, 2, start=8)


def test_noise_maps_that_cannot_be_had_are_refused(trajectories):
    from dataclasses import replace

    from partedit_oir.core.inversion.replay import Replay, TrajectorySampler

    trajectory = trajectories["edit_friendly_ddpm"]
    with pytest.raises(ValueError, match="noise_maps: 'drawn' is not one of from the source row, as recorded"):
        TrajectorySampler(trajectory, noise_maps="drawn")
    with pytest.raises(ValueError, match="'ddim_fixed_point' is deterministic and has no noise maps"):
        replace(trajectory, method="ddim_fixed_point")
    Replay(trajectories["ddim_next_timestep"], 1, noise_maps=RECORDED)


def test_sampler_reports_its_steps(model, trajectories):
    from partedit_oir.core.inversion.replay import TrajectorySampler

    seen = []
    trajectory = trajectories["ddim_next_timestep"]
    TrajectorySampler(trajectory, start=5)(
        lambda x, sigma, **kwargs: x * 0,
        torch.zeros(2, 4, 8, 8),
        trajectory.sigmas[5:],
        callback=lambda d: seen.append((d["i"], float(d["sigma"]), d["denoised"].shape)),
    )
    assert seen == [(k, float(trajectory.sigmas[5 + k]), (2, 4, 8, 8)) for k in range(3)]
