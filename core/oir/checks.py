"""Checks on the inputs of search and reassembly, before the model runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..conditioning import Conditioning, check_active, check_conditioning
from ..inversion.schedule import check_same_kind, model_sampling_of
from ..inversion.trajectory import Trajectory
from ..unet import declared_text_width, takes_guidance
from .prompts import check_source_prompt
from .types import Pair


def check_inputs(
    model: Any,
    trajectory: Trajectory,
    pairs: Sequence[Pair],
    target: Conditioning | None = None,
    cfg: float = 1.0,
) -> None:
    """Raise ValueError unless OIR can edit these pairs from this trajectory with this model."""
    check_trajectory(trajectory)
    check_source_prompt(pairs, trajectory.source_prompt)
    check_same_kind(model, trajectory)
    channels, inverted = model.get_model_object("latent_format").latent_channels, trajectory.latents.shape[2]
    if channels != inverted:
        raise ValueError(
            f"model: uses {channels} latent channels, but the trajectory has {inverted}. Connect the model the "
            "trajectory was made with."
        )
    width, sampling, levels = declared_text_width(model), model_sampling_of(model), trajectory.sigmas[:-1].tolist()
    try:
        check_conditioning("trajectory", trajectory.conditioning, width)
    except ValueError as error:
        raise ValueError(f"model: is not the one the trajectory was made with. {error}") from None
    for pair in pairs:
        check_conditioning(f"pairs: {pair.label}", pair.conditioning, width)
        check_active(f"pairs: {pair.label}", pair.conditioning, sampling, levels, 1, trajectory.size)
    if target is not None:
        check_conditioning("target", target, width)
    if cfg > 1.0 and takes_guidance(model):
        logging.warning(
            "OIR: %s takes its guidance from the conditioning (FluxGuidance), and cfg %g adds classifier-free guidance "
            "to it, at twice the cost. Such models are meant for cfg 1.",
            type(model.model).__name__,
            cfg,
        )


def check_trajectory(trajectory: Trajectory) -> None:
    """Raise ValueError unless the trajectory is one path, without noise maps, of one image with its conditioning."""
    if not trajectory.is_deterministic:
        fitting = "an euler method or rf_solver" if trajectory.scaling.is_flow else "a ddim method"
        raise ValueError(
            f"trajectory: was inverted with {trajectory.method}, whose latents are not on one path from the image to "
            "noise. OIR starts from any of them and denoises without noise maps. Choose "
            f"{fitting} in Invert Latent."
        )
    if trajectory.latents.shape[1] != 1:
        raise ValueError(
            f"trajectory: has {trajectory.latents.shape[1]} images, but OIR edits one at a time. Invert a single image."
        )
    if not trajectory.conditioning:
        raise ValueError("trajectory: has no source conditioning. Give Invert Latent a source prompt.")
