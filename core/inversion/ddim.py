"""Deterministic steps along sigma: DDIM, Euler's method on flow models, and a second-order solver for those.

With x = z / sqrt(alpha-bar), DDIM at eta = 0 (Song et al. 2021, eq. 12) is Euler's method in sigma:
x' = x + (sigma' - sigma) * eps. On a flow model the same formula, with the velocity v = (x - D) / sigma in place of
eps, is Euler's method for dx = v dsigma (Liu et al. 2023, "Flow Straight and Fast").
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .engine import Denoiser
from .scaling import STANDARD, Scaling
from .trajectory import DDIM_METHODS, RF_SOLVER

CURRENT = ("ddim_current_timestep", "euler_current_timestep")
FIXED_POINT = ("ddim_fixed_point", "euler_fixed_point")


def noise_estimate(x: torch.Tensor, sigma: float | torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
    """(x - denoised) / sigma: eps, or a flow's velocity; ``sigma`` a number or broadcastable to ``x``."""
    return (x - denoised) / sigma


def ddim_step(x: torch.Tensor, denoised: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
    """One deterministic step of rows (R, C, H, W) from ``sigma`` (R,) to ``sigma_next`` (R,), in either direction."""
    shape = (-1,) + (1,) * (x.ndim - 1)
    sigma, sigma_next = sigma.reshape(shape), sigma_next.reshape(shape)
    return x + (sigma_next - sigma) * noise_estimate(x, sigma, denoised)


def solver_step(
    denoise: Denoiser, x: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor, method: str
) -> torch.Tensor:
    """`ddim_step` with the order of a trajectory's method: ``rf_solver`` calls the model twice, the others once.

    RF-Solver of second order (Wang et al. 2025, "Taming Rectified Flow for Inversion and Editing") expands the velocity
    to first order in time and takes its derivative from half a step ahead: x + h v + h²/2 · (v_mid - v) / (h/2). That
    is x + h v_mid, the explicit midpoint method.
    """
    denoised = denoise(x, sigma)
    if method != RF_SOLVER:
        return ddim_step(x, denoised, sigma, sigma_next)
    middle = (sigma + sigma_next) / 2
    half = ddim_step(x, denoised, sigma, middle)
    shape = (-1,) + (1,) * (x.ndim - 1)
    velocity = noise_estimate(half, middle.reshape(shape), denoise(half, middle))
    return x + (sigma_next - sigma).reshape(shape) * velocity


def ddim_invert_step(
    denoise: Denoiser,
    x: torch.Tensor,
    sigma: float,
    sigma_next: float,
    method: str,
    *,
    fixed_point_iterations: int = 3,
    scaling: Scaling = STANDARD,
) -> torch.Tensor:
    """One inversion step of ``x`` (B, C, H, W) from ``sigma`` up to ``sigma_next``.

    ``ddim_next_timestep``: eps(z_{t-dt}, t), as published with OIR (and as diffusers' DDIMInverseScheduler does it):
    the input is scaled so that the network sees z_{t-dt} with timestep t. For v-prediction, eps is computed at that t:
    sqrt(alpha-bar_t) v + sqrt(1 - alpha-bar_t) z.
    ``ddim_current_timestep``: eps(z_{t-dt}, t-dt), the textbook reversal of the ODE (Song et al. 2021, section 4.3).
    ``ddim_fixed_point``: eps(z_t, t), found by fixed-point iteration from the first convention (Pan et al. 2023,
    "AIDI"); the forward step then undoes it.

    ``euler_*`` are the same three on a flow model, whose network is given x itself: v(x_t, t') for the next timestep.
    ``rf_solver`` is `solver_step` upward.
    """
    if method == RF_SOLVER:
        levels = torch.tensor([[sigma], [sigma_next]], dtype=torch.float32, device=x.device).expand(2, x.shape[0])
        return solver_step(denoise, x, levels[0], levels[1], method)
    if method in CURRENT:
        return x + (sigma_next - sigma) * noise_estimate(x, sigma, denoise(x, sigma))
    seen = x * (scaling.seen(sigma_next) / scaling.seen(sigma))
    result = x + (sigma_next - sigma) * noise_estimate(seen, sigma_next, denoise(seen, sigma_next))
    if method in FIXED_POINT:
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
    scaling: Scaling = STANDARD,
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
            scaling=scaling,
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
    method: str = DDIM_METHODS[0],
    on_step: Callable[[int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Denoise ``x`` (B, C, H, W) from level ``start`` down to level ``stop`` >= ``start``.

    ``method`` is the trajectory's, for the order of the steps (`solver_step`).
    """
    levels = sigmas.to(x.device)
    for index in range(start, stop):
        rows = x.shape[0]
        x = solver_step(denoise, x, levels[index].expand(rows), levels[index + 1].expand(rows), method)
        if on_step is not None:
            on_step(index + 1, x)
    return x
