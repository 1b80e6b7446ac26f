"""The same noise for every row, so that an edit differs from its source only by its prompt."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from comfy.k_diffusion import sampling as k_diffusion

# ComfyUI's samplers whose default noise is a Brownian tree, and whether that tree is computed on the CPU.
_BROWNIAN_ON_CPU = {
    "sample_dpmpp_sde": True,
    "sample_dpmpp_2m_sde": True,
    "sample_dpmpp_2m_sde_heun": True,
    "sample_dpmpp_3m_sde": True,
    "sample_dpmpp_sde_gpu": False,
    "sample_dpmpp_2m_sde_gpu": False,
    "sample_dpmpp_2m_sde_heun_gpu": False,
    "sample_dpmpp_3m_sde_gpu": False,
}


def share_noise(sampler: Any, rows: int, batch: int) -> Any:
    """A sampler that draws the noise for B images once and uses it for the source and every edit.

    The source then gets exactly the noise of an ordinary run with the same seed.

    Args:
        sampler: a ComfyUI SAMPLER; left as it is.
        rows: 1 + N, source and edits.
        batch: B.

    Raises:
        ValueError: a setting under which the rows' noise cannot be shared.
    """
    if not isinstance(sampler, comfy.samplers.KSAMPLER):
        return sampler
    churn = float(sampler.extra_options.get("s_churn", 0.0) or 0.0)
    if churn > 0:
        raise ValueError(
            f"sampler: s_churn is {churn}. Its noise is drawn separately for each row, so source and edit would drift "
            "apart. Set s_churn to 0, or use an ancestral or SDE sampler, whose noise is shared."
        )
    function = sampler.sampler_function
    parameters = inspect.signature(function).parameters
    takes_noise = "noise_sampler" in parameters or getattr(function, "__name__", "") == "dpm_adaptive_function"
    if not takes_noise and _draws_noise(function):
        raise ValueError(
            f"sampler: {getattr(function, '__name__', function)!r} draws its noise separately for each row and accepts "
            "no noise_sampler, so source and edit would drift apart. Use another sampler; ComfyUI's own ancestral, SDE "
            "and LCM samplers work."
        )
    shared = copy.copy(sampler)
    # "ddim" would draw different noise for the protected region of each row; the run's own noise is already shared.
    shared.inpaint_options = {}
    if not takes_noise:
        return shared

    def with_shared_noise(model: Any, x: torch.Tensor, sigmas: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        given = kwargs.pop("noise_sampler", None)
        if given is None:
            seed = (kwargs.get("extra_args") or {}).get("seed")
            given = _default_noise(function, x[:batch], sigmas, seed)

        def noise(sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
            drawn = given(sigma, sigma_next)
            return drawn[:batch].repeat(rows, *([1] * (drawn.ndim - 1)))

        return function(model, x, sigmas, *args, noise_sampler=noise, **kwargs)

    shared.sampler_function = with_shared_noise
    return shared


def _draws_noise(function: Any) -> bool:
    """Whether a sampler function draws random numbers in its own body (with s_churn it does so on demand only)."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    names = set(code.co_names) if code is not None else set()
    return bool(names & {"randn", "randn_like"}) and "s_churn" not in inspect.signature(function).parameters


def _default_noise(
    function: Any, x: torch.Tensor, sigmas: torch.Tensor, seed: int | None
) -> Callable[..., torch.Tensor]:
    on_cpu = _BROWNIAN_ON_CPU.get(getattr(function, "__name__", ""))
    positive = sigmas[sigmas > 0]
    if on_cpu is None or positive.numel() == 0:
        return k_diffusion.default_noise_sampler(x, seed=seed)
    return k_diffusion.BrownianTreeNoiseSampler(x, positive.min(), sigmas.max(), seed=seed, cpu=on_cpu)


def check_sampler(sampler: Any) -> None:
    """Say before sampling when a sampler's noise cannot be seen and therefore may not be shared."""
    if not isinstance(sampler, comfy.samplers.KSAMPLER):
        logging.warning(
            "PartEdit: %s is not a ComfyUI KSAMPLER. If it draws noise, source and edit may drift apart.",
            type(sampler).__name__,
        )
