"""Invert an image latent with any of the pack's methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.utils
import torch

from ..conditioning import check_active, check_conditioning
from ..latents import check_latent, check_sampled, process_latent_in, with_time_axis
from ..unet import declared_text_width
from .ddim import CURRENT, FIXED_POINT, ddim_invert
from .engine import Conditioning, Denoiser, effective_negative, run_loop
from .memory import auto_batch_size
from .scaling import Scaling
from .schedule import check_method, model_sampling_of, scaling_of_model
from .stochastic import find_noise_maps, independent_latents
from .trajectory import RF_SOLVER, STOCHASTIC_METHODS, Trajectory

Loop = Callable[[Denoiser], torch.Tensor]
Run = Callable[[Loop, int], torch.Tensor]


def needs_model(method: str, record_noise_maps: bool) -> bool:
    """Whether an inversion calls the model, and therefore needs a source prompt."""
    return record_noise_maps or method not in STOCHASTIC_METHODS


def invert(
    model: Any,
    latent_image: torch.Tensor,
    positive: Conditioning | None,
    *,
    sigmas: torch.Tensor,
    method: str = "ddim_next_timestep",
    negative: Conditioning | None = None,
    cfg: float = 1.0,
    seed: int = 0,
    fixed_point_iterations: int = 3,
    source_prompt: str = "",
    record_noise_maps: bool = False,
) -> Trajectory:
    """Latents of ``latent_image`` at every level of ``sigmas``.

    The stochastic methods draw their latents from the image alone: without ``record_noise_maps`` the model is neither
    called nor loaded, and ``positive``, ``negative`` and ``cfg`` change nothing.

    Args:
        model: a ``ModelPatcher`` with noise or v prediction, or a flow model.
        latent_image: (B, C, H, W), as in a LATENT; (B, C, 1, H, W) for models whose latents have a time axis.
        positive: conditioning of the source prompt; may be None if the model is not called.
        sigmas: (S+1,) descending, from :mod:`.schedule`.
        method: one of ``METHODS``.
        negative: needed if ``cfg`` is not 1.
        cfg: guidance during the inversion; the published DDIM inversions use 1 (conditional only). Models that take
            their guidance from the conditioning (Flux) need 1, too.
        seed: noise of the stochastic methods.
        fixed_point_iterations: of ``ddim_fixed_point`` and ``euler_fixed_point``.
        source_prompt: kept in the result for later nodes.
        record_noise_maps: find the noise maps of a stochastic method now, with this model, prompt and guidance, for
            replaying them ``as recorded``. Deterministic methods have none.

    Raises:
        ValueError: an invalid input, named in the message, before anything is sampled.
    """
    scaling = scaling_of_model(model)
    calls_model = needs_model(method, record_noise_maps)
    guidance: dict[str, Conditioning | None] = {}
    if calls_model or positive is not None:
        guidance["positive"] = positive
    if calls_model and (cfg != 1.0 or effective_negative(model, cfg, negative)):
        guidance["negative"] = negative
    sigmas = sigmas.detach().float().cpu()
    _check(model, latent_image, method, cfg, guidance)
    if calls_model:
        # The others never ask the model about the level of the image.
        asked = sigmas if method in (*CURRENT, RF_SOLVER) else sigmas[:-1]
        pictures, size = len(latent_image), (latent_image.shape[-2], latent_image.shape[-1])
        for name, conditioning in guidance.items():
            check_active(name, conditioning or [], model_sampling_of(model), asked.tolist(), pictures, size)
    latent_image = with_time_axis(model, latent_image.detach().float().cpu())
    image = process_latent_in(model, latent_image)
    progress = comfy.utils.ProgressBar(len(sigmas) - 1)

    def run(loop: Loop, rows: int) -> torch.Tensor:
        assert positive is not None, "checked above"
        result, _ = run_loop(
            model,
            loop,
            positive=positive,
            negative=guidance.get("negative"),
            cfg=cfg,
            latent_image=latent_image,
            rows=rows,
            sigmas=sigmas,
            seed=seed,
        )
        return result

    noise_maps: torch.Tensor | None = None
    if method not in STOCHASTIC_METHODS:
        latents = _inverted(run, image, sigmas, method, fixed_point_iterations, scaling, progress)
    else:
        latents = independent_latents(image, sigmas, seed, scaling)
        if calls_model:
            rows = max(len(image), auto_batch_size(model, latent_image.shape, 1 if cfg == 1.0 else 2))
            noise_maps = _recorded(run, latents, sigmas, method, rows, scaling, progress)
    return Trajectory(
        latents=latents,
        sigmas=sigmas,
        method=method,
        latent_image=latent_image,
        noise_maps=noise_maps,
        conditioning=positive,
        source_prompt=source_prompt,
        cfg=cfg,
        seed=seed,
        fixed_point_iterations=fixed_point_iterations if method in FIXED_POINT else 0,
        scaling=scaling,
    )


def _inverted(
    run: Run,
    image: torch.Tensor,
    sigmas: torch.Tensor,
    method: str,
    fixed_point_iterations: int,
    scaling: Scaling,
    progress: comfy.utils.ProgressBar,
) -> torch.Tensor:
    """(S+1, *image.shape), model space: the latents of a deterministic inversion, the image's last."""
    steps = len(sigmas) - 1
    latents = torch.empty(steps + 1, *image.shape)
    latents[steps] = image * scaling.image(float(sigmas[-1]))

    def keep(index: int, latent: torch.Tensor) -> None:
        check_sampled(latent, f"the inversion at step {steps - index} of {steps}")
        latents[index] = latent.cpu()
        progress.update(1)

    def loop(denoise: Denoiser) -> torch.Tensor:
        return ddim_invert(
            denoise,
            latents[steps].to(denoise.device),
            sigmas,
            steps,
            0,
            method,
            fixed_point_iterations=fixed_point_iterations,
            scaling=scaling,
            on_step=keep,
        )

    run(loop, len(image))
    return latents


def _recorded(
    run: Run,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    method: str,
    rows: int,
    scaling: Scaling,
    progress: comfy.utils.ProgressBar,
) -> torch.Tensor:
    """The noise maps of a stochastic method, see `find_noise_maps`; ``rows`` at a time."""

    def loop(denoise: Denoiser) -> torch.Tensor:
        return find_noise_maps(
            denoise, latents, sigmas, method, batch_size=rows, scaling=scaling, on_levels=progress.update
        )

    noise_maps = run(loop, rows)
    check_sampled(noise_maps, "a noise map of the inversion")
    return noise_maps


def _check(
    model: Any, latent_image: torch.Tensor, method: str, cfg: float, guidance: dict[str, Conditioning | None]
) -> None:
    """Raise a ValueError for what would fail, or mislead, once the model is loaded."""
    check_method(model, method)
    check_latent("latent_image", model, latent_image)
    if not bool(latent_image.flatten(1).any(dim=1).all()):
        raise ValueError(
            "latent_image: is an empty latent (all zeros), so there is no image to invert. Connect the image by way of "
            "VAE Encode."
        )
    width = declared_text_width(model)
    for name, conditioning in guidance.items():
        if conditioning is None and name == "positive":
            raise ValueError(
                f"positive: {method} asks the model about the image, so it needs the source prompt. Connect its "
                "conditioning."
            )
        if conditioning is None:
            raise ValueError(f"{name}: cfg is {cfg}, so a {name} conditioning is needed; connect one or use 1.")
        check_conditioning(name, conditioning, width)
