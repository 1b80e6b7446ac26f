"""Inversions with noise maps: edit-friendly DDPM and LEDITS++, for models of any kind.

The latents of all levels are the image plus independent noise, not one path. The noise map of a step is then whatever
takes its latent to the next one (Huberman-Spiegelglas et al. 2024, algorithm 1; Brack et al. 2024). Levels do not
depend on each other, so many are evaluated in one batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .engine import Denoiser
from .replay import deterministic_part
from .scaling import STANDARD, Scaling


def independent_latents(
    image: torch.Tensor, sigmas: torch.Tensor, seed: int, scaling: Scaling = STANDARD
) -> torch.Tensor:
    """(S+1, B, C, H, W) float32: the image and fresh noise at every level; the last is the image.

    As the host's ``noise_scaling``: image + sigma_i · noise_i, on a flow model (1 - sigma_i) image + sigma_i · noise_i.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    image = image.float().cpu()
    latents = []
    for sigma in map(float, sigmas[:-1]):
        noise = torch.randn(image.shape, generator=generator)
        latents.append(scaling.exploded(sigma)[0] * image + scaling.noise(sigma) * noise)
    return torch.stack([*latents, image * scaling.image(float(sigmas[-1]))])


def find_noise_maps(
    denoise: Denoiser,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    method: str,
    *,
    batch_size: int = 1,
    scaling: Scaling = STANDARD,
    on_levels: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """The noise map of every step, (S, B, C, H, W), in x units (already times the step's standard deviation).

    Args:
        latents: (S+1, B, C, H, W) from :func:`independent_latents`.
        batch_size: rows per UNet call; whole levels are batched, at least one.
        on_levels: called with the number of levels just evaluated.
    """
    steps, batch = len(sigmas) - 1, latents.shape[1]
    chunk = max(1, batch_size // batch) if denoise.mixed_sigmas else 1
    maps = torch.empty_like(latents[:-1])
    previous: torch.Tensor | None = None
    for first in range(0, steps, chunk):
        levels = range(first, min(first + chunk, steps))
        rows = latents[levels.start : levels.stop].flatten(0, 1).to(denoise.device)
        sigma = sigmas[levels.start : levels.stop].repeat_interleave(batch).to(denoise.device)
        denoised = denoise(rows, sigma).float().cpu().unflatten(0, (len(levels), batch))
        for i, clean in zip(levels, denoised, strict=True):
            maps[i] = latents[i + 1] - deterministic_part(method, sigmas, i, latents[i], clean, previous, scaling)
            previous = clean
        if on_levels is not None:
            on_levels(len(levels))
    return maps
