"""DDIM in sigma form: inversion with three conventions for the noise estimate, and the matching denoising step.

With x = z / sqrt(alpha-bar), DDIM at eta = 0 (Song et al. 2021, eq. 12) is Euler's method in sigma:
x' = x + (sigma' - sigma) * eps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .engine import Denoiser
from .trajectory import image_scale


def noise_estimate(x: torch.Tensor, sigma: float | torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
    """eps = (x - denoised) / sigma; ``sigma`` a number or broadcastable to ``x``."""
    return (x - denoised) / sigma


def ddim_step(x: torch.Tensor, denoised: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
    """One deterministic step of rows (R, C, H, W) from ``sigma`` (R,) to ``sigma_next`` (R,), in either direction."""
    shape = (-1,) + (1,) * (x.ndim - 1)
    sigma, sigma_next = sigma.reshape(shape), sigma_next.reshape(shape)
    return x + (sigma_next - sigma) * noise_estimate(x, sigma, denoised)


def ddim_invert_step(
    denoise: Denoiser,
    x: torch.Tensor,
    sigma: float,
    sigma_next: float,
    method: str,
    *,
    fixed_point_iterations: int = 3,
    sigma_data: float = 1.0,
) -> torch.Tensor:
    """One inversion step of ``x`` (B, C, H, W) from ``sigma`` up to ``sigma_next``.

    ``ddim_next_timestep``: eps(z_{t-dt}, t), as published with OIR (and as diffusers' DDIMInverseScheduler does it):
    the input is scaled so that the network sees z_{t-dt} with timestep t. For v-prediction, eps is computed at that t:
    sqrt(alpha-bar_t) v + sqrt(1 - alpha-bar_t) z.
    ``ddim_current_timestep``: eps(z_{t-dt}, t-dt), the textbook reversal of the ODE (Song et al. 2021, section 4.3).
    ``ddim_fixed_point``: eps(z_t, t), found by fixed-point iteration from the first convention (Pan et al. 2023,
    "AIDI"); the forward step then undoes it.
    """
    if method == "ddim_current_timestep":
        return x + (sigma_next - sigma) * noise_estimate(x, sigma, denoise(x, sigma))
    seen = x * (image_scale(sigma_next, sigma_data) / image_scale(sigma, sigma_data))
    result = x + (sigma_next - sigma) * noise_estimate(seen, sigma_next, denoise(seen, sigma_next))
    if method == "ddim_fixed_point":
        for _ in range(fixed_point_iterations):
            result = x + (sigma_next - sigma) * noise_estimate(result, sigma_next, denoise(result, sigma_next))
    return result


def ddim_invert(
    denoise: Denoiser,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    start: int,
    stop: int,
    method: str,
    *,
    fixed_point_iterations: int = 3,
    sigma_data: float = 1.0,
    on_step: Callable[[int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Invert ``x`` from level ``start`` up to level ``stop`` <= ``start`` (indices into the descending ``sigmas``).

    ``on_step(index, latent)`` is called at each level reached. Returns the latent at ``stop``.
    """
    for index in range(start, stop, -1):
        x = ddim_invert_step(
            denoise,
            x,
            float(sigmas[index]),
            float(sigmas[index - 1]),
            method,
            fixed_point_iterations=fixed_point_iterations,
            sigma_data=sigma_data,
        )
        if on_step is not None:
            on_step(index - 1, x)
    return x


def ddim_denoise(
    denoise: Denoiser,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    start: int,
    stop: int,
    *,
    on_step: Callable[[int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Denoise ``x`` (B, C, H, W) from level ``start`` down to level ``stop`` >= ``start``."""
    levels = sigmas.to(x.device)
    for index in range(start, stop):
        rows = x.shape[0]
        x = ddim_step(x, denoise(x, levels[index]), levels[index].expand(rows), levels[index + 1].expand(rows))
        if on_step is not None:
            on_step(index + 1, x)
    return x
