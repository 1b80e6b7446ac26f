"""DDIM inversion against diffusers and plain references, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.stand_ins import (
    SOURCE,
    latent,
    make_trajectory,
    progress_bars,
    prompt_conditioning,
    relative_error,
    sd1_shaped_model,
)

SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


@pytest.fixture(scope="module")
def model(pack):
    return sd1_shaped_model(3)


def vp(trajectory):
    """Latents of a trajectory, image first, variance-preserving: (S+1, B, C, H, W)."""
    scale = (trajectory.sigmas**2 + 1).sqrt().view(-1, 1, 1, 1, 1)
    return (trajectory.latents / scale).flip(0)


def raw_network(model, prompt=SOURCE):
    """The bare UNet: (z, timestep) → network output."""
    context = prompt_conditioning(prompt)[0][0]

    @torch.no_grad()
    def call(z, timestep):
        t = torch.full((z.shape[0],), float(timestep))
        return model.model.diffusion_model(z, t, context=context.expand(z.shape[0], -1, -1))

    return call


@pytest.mark.parametrize("steps", [2, 7, 20, 50, 333, 999])
def test_leading_timesteps_are_those_of_diffusers(model, steps):
    from diffusers import DDIMScheduler

    from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas

    scheduler = DDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(steps)
    alphas = scheduler.alphas_cumprod[torch.cat([scheduler.timesteps.clamp(max=999), torch.zeros(1, dtype=torch.long)])]
    expected = ((1 - alphas) / alphas).sqrt()
    sigmas = spaced_sigmas(model_sampling_of(model), steps, "leading")
    assert sigmas.shape == (steps + 1,)
    torch.testing.assert_close(sigmas, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_levels_descend_to_the_lowest(model, spacing):
    from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas

    sampling = model_sampling_of(model)
    for steps in (2 if spacing == "leading" else 1, 10, 999):
        sigmas = spaced_sigmas(sampling, steps, spacing)
        assert bool((sigmas[1:] < sigmas[:-1]).all())
        assert float(sigmas[-1]) == float(sampling.sigma_min)
    if spacing != "leading":
        assert float(spaced_sigmas(sampling, 10, spacing)[0]) == float(sampling.sigma_max)
    for steps in (0, 1000):
        with pytest.raises(ValueError, match="between 1 and 999"):
            spaced_sigmas(sampling, steps, spacing)


def test_comfyui_sigmas_get_a_lowest_level(model):
    import comfy.samplers

    from partedit_oir.core.inversion.schedule import inversion_sigmas, model_sampling_of

    sampling = model_sampling_of(model)
    for name in ("normal", "karras", "simple", "sgm_uniform", "ddim_uniform"):
        levels = inversion_sigmas(sampling, comfy.samplers.calculate_sigmas(sampling, name, 8))
        assert bool((levels[1:] < levels[:-1]).all()) and float(levels[-1]) == pytest.approx(float(sampling.sigma_min))
    with pytest.raises(ValueError, match="at least two descending levels"):
        inversion_sigmas(sampling, torch.tensor([3.0]))
    with pytest.raises(ValueError, match="descend"):
        inversion_sigmas(sampling, torch.tensor([1.0, 3.0, 0.5]))


def test_next_timestep_equals_diffusers_inverse_scheduler(model):
    from diffusers import DDIMInverseScheduler

    steps, z = 10, latent()
    trajectory = make_trajectory(model, steps, z, method="ddim_next_timestep")
    scheduler = DDIMInverseScheduler(**SCHEDULER)
    scheduler.set_timesteps(steps)
    network, expected = raw_network(model), [z * 0.18215]
    for timestep in scheduler.timesteps:
        expected.append(scheduler.step(network(expected[-1], timestep), timestep, expected[-1]).prev_sample)
    assert relative_error(vp(trajectory), torch.stack(expected)) < 1e-5


@pytest.mark.parametrize("v_prediction", [False, True])
@pytest.mark.parametrize("method", ["ddim_current_timestep", "ddim_next_timestep"])
def test_ddim_equals_a_plain_reference(pack, method, v_prediction):
    """DDIM's equation 12 turned round, written in variance-preserving form."""
    steps, z = 8, latent()
    model = sd1_shaped_model(3, v_prediction=v_prediction)
    trajectory = make_trajectory(model, steps, z, method=method)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    timesteps = [0, *(1 + np.arange(steps) * (1000 // steps))]
    network, expected = raw_network(model), [z * 0.18215]
    for now, after in zip(timesteps, timesteps[1:]):
        told = after if method == "ddim_next_timestep" else now
        epsilon = network(expected[-1], told)
        if v_prediction:
            epsilon = float(alphas[told] ** 0.5) * epsilon + float((1 - alphas[told]) ** 0.5) * expected[-1]
        clean = (expected[-1] - (1 - alphas[now]) ** 0.5 * epsilon) / alphas[now] ** 0.5
        expected.append(float(alphas[after] ** 0.5) * clean + float((1 - alphas[after]) ** 0.5) * epsilon)
    assert relative_error(vp(trajectory), torch.stack(expected)) < 1e-5


def reconstruction_error(model, trajectory):
    """How far denoising with the source prompt ends from the image."""
    from partedit_oir.core.inversion.ddim import ddim_denoise
    from partedit_oir.core.inversion.engine import run_loop

    def loop(denoise):
        return ddim_denoise(denoise, trajectory.latents[0], trajectory.sigmas, 0, trajectory.steps)

    result, _ = run_loop(
        model,
        loop,
        positive=trajectory.conditioning,
        negative=None,
        cfg=1.0,
        latent_image=trajectory.latent_image,
        rows=1,
        sigmas=trajectory.sigmas,
    )
    return relative_error(trajectory.to_image_latent(result), trajectory.latent_image * 0.18215)


def test_fixed_point_iterations_make_the_inversion_exact(model):
    errors = {
        n: reconstruction_error(model, make_trajectory(model, 6, method="ddim_fixed_point", fixed_point_iterations=n))
        for n in (1, 24)
    }
    plain = reconstruction_error(model, make_trajectory(model, 6, method="ddim_next_timestep"))
    assert errors[24] < 1e-4 < errors[1] < plain


def test_a_batch_inverts_each_image_by_itself(model):
    z = latent(8, 12, batch=2)
    both = make_trajectory(model, 4, z)
    assert both.latents.shape == (5, 2, 4, 8, 12)
    assert torch.equal(both.latent_image, z)
    for k in range(2):
        alone = make_trajectory(model, 4, z[k : k + 1])
        assert relative_error(both.latents[:, k : k + 1], alone.latents) < 1e-5


def test_guidance_takes_part_when_asked_for(model):
    plain = make_trajectory(model, 4)
    guided = make_trajectory(model, 4, cfg=3.0, negative=prompt_conditioning(""))
    assert relative_error(guided.latents[0], plain.latents[0]) > 1e-2


def test_steps_are_counted_from_the_image(model):
    trajectory = make_trajectory(model, 5)
    assert torch.equal(trajectory.at(0), trajectory.latents[5]) and torch.equal(trajectory.at(5), trajectory.latents[0])
    torch.testing.assert_close(trajectory.to_image_latent(trajectory.at(0)), trajectory.latent_image * 0.18215)
    assert [trajectory.start_index(s) for s in (1.0, 0.6, 0.01)] == [0, 2, 4]
    with pytest.raises(ValueError, match="outside this trajectory, which has 0"):
        trajectory.at(6)
    with pytest.raises(ValueError, match="strength"):
        trajectory.start_index(0.0)


def test_what_cannot_work_is_refused_before_sampling(model, monkeypatch):
    import comfy.model_base
    import comfy.samplers

    def no_sampling(*args, **kwargs):
        raise AssertionError("sampling started")

    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", no_sampling)
    with pytest.raises(ValueError, match="negative: cfg is 2"):
        make_trajectory(model, 4, cfg=2.0)
    with pytest.raises(ValueError, match="has 16 channels, but this model uses 4"):
        make_trajectory(model, 4, torch.zeros(1, 16, 8, 8))
    with pytest.raises(ValueError, match="expected an image latent of 4 dimensions"):
        make_trajectory(model, 4, torch.zeros(1, 4, 2, 8, 8))
    with pytest.raises(ValueError, match="latent_image: contains NaN"):
        make_trajectory(model, 4, torch.full((1, 4, 8, 8), float("nan")))
    with pytest.raises(ValueError, match="latent_image: is an empty latent"):
        make_trajectory(model, 4, torch.cat([torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)]))
    narrow = [[torch.zeros(1, 77, 8), {}]]
    with pytest.raises(ValueError, match="negative: its text embedding is 8 wide, but the model takes"):
        make_trajectory(model, 4, cfg=2.0, negative=narrow)
    with pytest.raises(ValueError, match="method: 'ddim' is not one of"):
        make_trajectory(model, 4, method="ddim")
    flow = model.clone()
    flow.add_object_patch(
        "model_sampling", comfy.model_base.model_sampling(model.model.model_config, comfy.model_base.ModelType.FLOW)
    )
    with pytest.raises(ValueError, match=r"^method: ddim_next_timestep reverses DDIM, .* Choose euler_next_timestep"):
        make_trajectory(flow, 4)
    with pytest.raises(ValueError, match=r"^method: euler_fixed_point is for flow models, .* Choose ddim_fixed_point"):
        make_trajectory(model, 4, method="euler_fixed_point")
    with pytest.raises(ValueError, match=r"^method: rf_solver is for flow models, .* Choose ddim_next_timestep"):
        make_trajectory(model, 4, method="rf_solver")
    for kind in ("IMG_TO_IMG", "IMG_TO_IMG_FLOW"):
        other = model.clone()
        sampling = comfy.model_base.model_sampling(model.model.model_config, comfy.model_base.ModelType[kind])
        other.add_object_patch("model_sampling", sampling)
        with pytest.raises(ValueError, match="has no path between image and noise to invert"):
            make_trajectory(other, 4)


def test_an_interrupt_leaves_the_model_as_it_was(model):
    import comfy.model_management
    import comfy.patcher_extension

    before, options = make_trajectory(model, 4), str(model.model_options)
    broken = model.clone()
    calls = []

    def stop_later(executor, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            comfy.model_management.interrupt_current_processing(True)
        return executor(*args, **kwargs)

    broken.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "stop", stop_later)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        make_trajectory(broken, 4)
    assert len(calls) == 2
    assert str(model.model_options) == options and not model.wrappers
    assert torch.equal(make_trajectory(model, 4).latents, before.latents)


def test_sdxl_shaped_models_work_with_pooled_conditioning(pack):
    from partedit_oir.core.inversion.invert import invert
    from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas
    from support.tiny_models import POOLED, WIDTH, drawn, tiny_sdxl

    model = tiny_sdxl()
    text, pooled = drawn("text", 1, 77, WIDTH), drawn("pooled", 1, POOLED)

    def run(pooled_output):
        sigmas = spaced_sigmas(model_sampling_of(model), 4)
        samples = latent() * 0.18215 / 0.13025
        return invert(model, samples, [[text, {"pooled_output": pooled_output}]], sigmas=sigmas)

    trajectory = run(pooled)
    assert bool(torch.isfinite(trajectory.latents).all())
    assert relative_error(run(-pooled).latents[0], trajectory.latents[0]) > 1e-4, "the pooled embedding takes part"


@pytest.mark.parametrize("method", ["ddim_current_timestep", "edit_friendly_ddpm"])
def test_a_trajectory_tells_how_it_was_made_and_its_progress_ends(model, monkeypatch, method):
    from partedit_oir.core.inversion.invert import invert

    bars = progress_bars(monkeypatch)
    sigmas, given = torch.tensor([9.0, 3.0, 1.0, 0.2]), prompt_conditioning(SOURCE)
    options = {"cfg": 2.0, "seed": 7, "fixed_point_iterations": 5, "source_prompt": "a cat"}
    made = invert(
        model, latent(), given, negative=given, sigmas=sigmas, method=method, record_noise_maps=True, **options
    )
    assert (made.method, made.cfg, made.seed, made.source_prompt) == (method, 2.0, 7, "a cat")
    assert made.fixed_point_iterations == 0, "the method has none"
    assert made.conditioning is given and (made.noise_maps is None) == made.is_deterministic
    assert [(bar.current, bar.total) for bar in bars] == [(3, 3)]


@pytest.mark.parametrize(
    ("method", "where"),
    [
        ("ddim_current_timestep", "the inversion at step 2 of 3"),
        ("edit_friendly_ddpm", "a noise map of the inversion"),
    ],
)
def test_a_model_that_overflows_while_inverting_is_named(model, monkeypatch, method, where):
    from partedit_oir.core.inversion.invert import invert

    embed, calls = model.model.diffusion_model.time_embed.forward, []

    def broken(x):
        calls.append(1)
        return embed(x) * (float("nan") if len(calls) > 1 or method == "edit_friendly_ddpm" else 1.0)

    monkeypatch.setattr(model.model.diffusion_model.time_embed, "forward", broken)
    sigmas = torch.tensor([9.0, 3.0, 1.0, 0.2])
    with pytest.raises(ValueError, match=f"^model: {where} holds NaN or infinite values"):
        invert(model, latent(), prompt_conditioning(SOURCE), sigmas=sigmas, method=method, record_noise_maps=True)
    assert len(calls) <= 2
