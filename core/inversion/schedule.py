"""Noise levels for inversion: from a training schedule or from ComfyUI's SIGMAS."""

from __future__ import annotations

from typing import Any

import torch

from .scaling import FLOW, Scaling, scaling_of
from .trajectory import DDIM_METHODS, FLOW_METHODS, METHODS, RF_SOLVER, Trajectory

SPACINGS = ("leading", "trailing", "linspace")
# Of all timesteps, those that leading spacing must reach.
LEADING_REACH = 0.7


def model_sampling_of(model: Any) -> Any:
    """The model's sampling object, after checking that inversion can work with it.

    Args:
        model: a ComfyUI ``ModelPatcher``.

    Raises:
        ValueError: the model has no path between image and noise that could be inverted.
    """
    sampling = model.get_model_object("model_sampling")
    if scaling_of(sampling) is None:
        raise ValueError(
            f"model: {type(model.model).__name__} samples with {_bases(sampling)}, which has no path between image and "
            "noise to invert. Connect a model with noise or v prediction (SD1.x, SD2.x, SDXL) or a flow model (SD3, "
            "Flux, Z-Image, Qwen-Image)."
        )
    return sampling


def _bases(sampling: Any) -> str:
    return " + ".join(base.__name__ for base in type(sampling).__bases__)


def scaling_of_model(model: Any) -> Scaling:
    """How the model's levels are made of image and noise.

    Raises:
        ValueError: see `model_sampling_of`.
    """
    scaling = scaling_of(model_sampling_of(model))
    assert scaling is not None
    return scaling


def check_same_kind(model: Any, trajectory: Trajectory) -> None:
    """Raise a ValueError unless the model's levels mean what the trajectory's do."""
    scaling, inverted = scaling_of_model(model), trajectory.scaling
    if scaling != inverted:
        own, other = f"a {scaling.kind} model", f"one of the kind {inverted.kind}"
        if scaling.kind == inverted.kind:  # EDM's sampling nodes, for example
            own, other = (
                f"{text} (sigma_data {one.sigma_data:g}, noise scale {one.noise_scale:g})"
                for text, one in ((own, scaling), (other, inverted))
            )
        raise ValueError(
            f"model: samples as {own}, but the trajectory was made with {other}. Connect the model the trajectory was "
            "made with, with the same sampling nodes."
        )


def check_method(model: Any, method: str) -> None:
    """Refuse an inversion method that the model cannot use.

    Raises:
        ValueError: an unknown method, a DDIM method with a flow model, or a flow method with another model.
    """
    if method not in METHODS:
        raise ValueError(f"method: {method!r} is not one of {', '.join(METHODS)}.")
    name, flow = type(model.model).__name__, scaling_of_model(model).is_flow
    if flow and method in DDIM_METHODS:
        raise ValueError(
            f"method: {method} reverses DDIM, but {name} is a flow model. Choose "
            f"{method.replace('ddim', 'euler')}, the same step for a flow, or {RF_SOLVER}."
        )
    if not flow and method in FLOW_METHODS:
        same = DDIM_METHODS[0] if method == RF_SOLVER else method.replace("euler", "ddim")
        raise ValueError(
            f"method: {method} is for flow models, but {name} has noise or v prediction. Choose {same}"
            + ("." if method == RF_SOLVER else ", which is the same step for it.")
        )


def training_sigmas(sampling: Any) -> torch.Tensor:
    """(T,) ascending sigmas of the training schedule; of a flow model, its table with its shift.

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


def _reaches_noise(steps: int, total: int) -> bool:
    """Whether ``leading`` comes close to the last timestep: steps · ⌊T / steps⌋ may be far below T, and a single step
    takes timestep 1."""
    return steps > 1 and steps * (total // steps) >= LEADING_REACH * total


def spaced_sigmas(sampling: Any, steps: int, spacing: str = "leading") -> torch.Tensor:
    """(steps + 1,) descending sigmas at whole training timesteps, ending at timestep 0.

    ``leading`` (offset 1) is what both published implementations use: timesteps 1 + i·⌊T / steps⌋. ``trailing`` starts
    at the last timestep; ``linspace`` divides 0 … T-1 evenly. On a flow model, timesteps are positions in its table of
    sigmas: ``trailing`` is then its usual schedule, even in time before the shift and beginning with pure noise.

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
        if not _reaches_noise(steps, total):
            other = next(count for count in (*range(steps, 1, -1), 2) if _reaches_noise(count, total))
            raise ValueError(
                f"steps: {steps} with spacing 'leading' would only reach timestep {reached} of {total} (sigma "
                f"{float(table[reached]):.2f} of {float(table[-1]):.2f}), too little noise to edit in. Choose "
                f"{other} steps, or spacing trailing or linspace."
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

    At sigma 0 there is no noise direction, and no velocity, so an inversion has to start one level above it.

    Raises:
        ValueError: fewer than two levels, levels that do not descend, or a flow's levels above its pure noise.
    """
    levels = sigmas.detach().float().cpu().flatten()
    lowest, scaling = float(sampling.sigma_min), scaling_of(sampling)
    if scaling is not None and scaling.kind == FLOW and float(levels.max()) > 1.0 + 1e-4:
        raise ValueError(
            f"sigmas: begin at {float(levels.max()):.3g}, but this is a flow model, whose pure noise is at sigma 1. "
            "Connect this model to the scheduler node (BasicScheduler), with any shift already applied."
        )
    if levels.numel() and float(levels[-1]) < lowest:
        levels = torch.cat([levels[:-1][levels[:-1] > lowest * (1 + 1e-4)], torch.tensor([lowest])])
    if levels.numel() < 2 or not bool((levels[1:] < levels[:-1]).all()):
        raise ValueError(
            f"sigmas: expected at least two descending levels, got {[round(float(s), 4) for s in sigmas]}. "
            "Use a scheduler node with denoise 1 and two or more steps."
        )
    return levels
