"""What search and reassembly can work from; everything here is checked before the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..inversion.schedule import model_sampling_of
from ..inversion.trajectory import Trajectory
from .prompts import check_source_prompt
from .types import EditingPair


def check_inputs(model: Any, trajectory: Trajectory, pairs: Sequence[EditingPair]) -> None:
    """Raise ValueError unless OIR can edit these pairs from this trajectory with this model."""
    check_trajectory(trajectory)
    check_source_prompt(pairs, trajectory.source_prompt)
    model_sampling_of(model)
    channels, inverted = model.get_model_object("latent_format").latent_channels, trajectory.latents.shape[2]
    if channels != inverted:
        raise ValueError(
            f"model: it works with {channels} latent channels, but the trajectory has {inverted}. "
            "Connect the model that the trajectory was made with."
        )
    wanted = model.model.model_config.unet_config.get("context_dim")
    width = text_width(trajectory.conditioning)
    if isinstance(wanted, int) and width not in (None, wanted):
        raise ValueError(
            f"model: it reads text embeddings {wanted} wide, but those of the trajectory are {width} wide. "
            "Connect the model that the trajectory was made with."
        )
    for pair in pairs:
        check_text(f"pairs: {pair.label}", pair.conditioning, trajectory)


def check_trajectory(trajectory: Trajectory) -> None:
    """Raise ValueError unless the trajectory is of one picture, without noise maps, with its source conditioning."""
    if not trajectory.is_ddim:
        raise ValueError(
            f"trajectory: it was inverted with {trajectory.method}; OIR denoises and re-inverts without noise maps. "
            "Choose one of the ddim methods in InvertLatent."
        )
    if trajectory.latents.shape[1] != 1:
        raise ValueError(f"trajectory: OIR edits one image at a time, this one holds {trajectory.latents.shape[1]}.")
    if not trajectory.conditioning:
        raise ValueError("trajectory: it carries no source conditioning. Give InvertLatent a source prompt.")


def check_text(name: str, conditioning: Any, trajectory: Trajectory) -> None:
    """Raise ValueError when a conditioning comes from another kind of text encoder than the source prompt's."""
    width, source = text_width(conditioning), text_width(trajectory.conditioning)
    if width != source:
        raise ValueError(
            f"{name}: its text embedding is {width} wide, the source prompt's {source}. "
            "Connect the CLIP that InvertLatent has, the checkpoint's own."
        )


def text_width(conditioning: Any) -> int | None:
    """Numbers a token of a ComfyUI CONDITIONING; None when it holds no tensor."""
    shape = getattr(conditioning[0][0], "shape", None) if conditioning else None
    return int(shape[-1]) if shape else None
