"""Noise levels for inversion: from a training schedule or from ComfyUI's SIGMAS."""

from __future__ import annotations

from typing import Any

import torch

SPACINGS = ("leading", "trailing", "linspace")
# Of all timesteps, those that leading spacing must reach.
LEADING_REACH = 0.7


def model_sampling_of(model: Any) -> Any:
    """The model's sampling object, after checking that inversion can work with it.

    Args:
        model: a ComfyUI ``ModelPatcher``.

    Raises:
        ValueError: the model does not predict noise or v (a flow model, for example).
    """
    import comfy.model_sampling

    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.EPS):
        raise ValueError(
            f"model: {type(model.model).__name__} samples with {_bases(sampling)}, which has no noise prediction to "
            "invert. Connect a model with noise or v prediction: SD1.x, SD2.x, SDXL or one of their fine-tunes."
        )
    return sampling


def _bases(sampling: Any) -> str:
    return " + ".join(base.__name__ for base in type(sampling).__bases__)


def training_sigmas(sampling: Any) -> torch.Tensor:
    """(T,) ascending sigmas of the training schedule.

    Raises:
        ValueError: the model has a continuous schedule, so steps cannot be counted in timesteps.
    """
    sigmas = getattr(sampling, "sigmas", None)
    if sigmas is None or sigmas.ndim != 1 or sigmas.numel() < 3:
        raise ValueError(
            f"model: {_bases(sampling)} has no table of training timesteps. "
            "Connect SIGMAS (BasicScheduler, KarrasScheduler …) to the sigmas input instead of choosing a spacing."
        )
    return sigmas.detach().float().cpu()


def spaced_sigmas(sampling: Any, steps: int, spacing: str = "leading") -> torch.Tensor:
    """(steps + 1,) descending sigmas at whole training timesteps, ending at timestep 0.

    ``leading`` (offset 1) is what both published implementations use: timesteps 1 + i·⌊T / steps⌋. ``trailing`` starts
    at the last timestep; ``linspace`` divides 0 … T-1 evenly.

    Raises:
        ValueError: steps is not in 1 … T-1, or the spacing is unknown.
    """
    table = training_sigmas(sampling)
    total = table.numel()
    if not 1 <= steps < total:
        raise ValueError(
            f"steps: {steps} is not between 1 and {total - 1}; this model has {total} training timesteps (distilled "
            "ones such as LCM have few), and each step needs one of its own. Use fewer steps."
        )
    if spacing == "leading":
        reached = 1 + (steps - 1) * (total // steps)
        if steps * (total // steps) < LEADING_REACH * total:
            raise ValueError(
                f"steps: with {steps} steps 'leading' would only reach timestep {reached} of {total} (sigma "
                f"{float(table[reached]):.2f} of {float(table[-1]):.2f}), too little noise to edit in. Choose at most "
                f"{total // 2} steps, or spacing trailing or linspace."
            )
        timesteps = 1 + torch.arange(steps) * (total // steps)
        timesteps = timesteps.clamp(max=total - 1)
    elif spacing == "trailing":
        count = torch.arange(1, steps + 1)
        # timestep 0 is the level of the image; with very many steps, the first ones would coincide with it
        timesteps = torch.maximum((total * count / steps).round().long() - 1, count)
    elif spacing == "linspace":
        timesteps = (torch.arange(1, steps + 1) * ((total - 1) / steps)).round().long()
    else:
        raise ValueError(f"spacing: {spacing!r} is not one of {', '.join(SPACINGS)}.")
    levels = torch.cat([torch.zeros(1, dtype=torch.long), timesteps]).flip(0)
    return table[levels]


def check_sigmas(name: str, sigmas: Any) -> None:
    """Raise a ValueError, naming the input, unless ``sigmas`` is a tensor of at least two finite levels."""
    if not isinstance(sigmas, torch.Tensor) or sigmas.numel() < 2 or not bool(torch.isfinite(sigmas).all()):
        got = sigmas.tolist() if isinstance(sigmas, torch.Tensor) else type(sigmas).__name__
        raise ValueError(
            f"{name}: expected SIGMAS with at least two finite levels, got {got}. Connect a scheduler such as "
            "BasicScheduler."
        )


def inversion_sigmas(sampling: Any, sigmas: torch.Tensor) -> torch.Tensor:
    """ComfyUI SIGMAS as levels for inversion: a final 0 becomes the model's smallest sigma.

    At sigma 0 there is no noise direction, so an inversion has to start one level above it.

    Raises:
        ValueError: fewer than two levels, or levels that do not descend.
    """
    levels = sigmas.detach().float().cpu().flatten()
    lowest = float(sampling.sigma_min)
    if levels.numel() and float(levels[-1]) < lowest:
        levels = torch.cat([levels[:-1][levels[:-1] > lowest * (1 + 1e-4)], torch.tensor([lowest])])
    if levels.numel() < 2 or not bool((levels[1:] < levels[:-1]).all()):
        raise ValueError(
            f"sigmas: expected at least two descending levels, got {[round(float(s), 4) for s in sigmas]}. "
            "Use a scheduler node with denoise 1 and two or more steps."
        )
    return levels
