"""What a LATENT has to be for a model, and the way between it and the space that the model samples in."""

from __future__ import annotations

from typing import Any

import torch


def check_latent(name: str, model: Any, latent: Any) -> None:
    """Refuse a latent that the model cannot work on before it is loaded.

    Args:
        name: the input it came by.
        model: a ``ModelPatcher``; its ``latent_format`` may be a patch.
        latent: samples of a LATENT, wanted as (B, C, H, W).

    Raises:
        ValueError: not a picture latent, another number of channels, no pixels, or values that are no numbers.
    """
    if not isinstance(latent, torch.Tensor) or getattr(latent, "is_nested", False) or latent.ndim != 4:
        plain = isinstance(latent, torch.Tensor) and not getattr(latent, "is_nested", False)
        shape = tuple(latent.shape) if plain else type(latent).__name__
        raise ValueError(
            f"{name}: expected an image latent of 4 dimensions (batch, channels, height, width), got {shape}. "
            "Latents of video and audio cannot be used here."
        )
    if 0 in latent.shape:
        raise ValueError(
            f"{name}: is empty, its shape is {tuple(latent.shape)}. Connect VAEEncode or EmptyLatentImage."
        )
    channels = model.get_model_object("latent_format").latent_channels
    if latent.shape[1] != channels:
        raise ValueError(
            f"{name}: has {latent.shape[1]} channels, but this model works with {channels}. Encode the picture "
            "with the model's own VAE."
        )
    if not bool(torch.isfinite(latent).all()):
        raise ValueError(f"{name}: holds NaN or infinite values. Check the picture, and the VAE that encoded it.")


def process_latent_in(model: Any, latent: torch.Tensor) -> torch.Tensor:
    """A LATENT's samples in model space, as the guider would hand them to a sampler.

    The format is asked of the ``ModelPatcher``: a node may have exchanged it (ModelSamplingContinuousEDM), and the
    model inside knows of that only while it is loaded.
    """
    latent = latent.float()
    return model.get_model_object("latent_format").process_in(latent) if torch.count_nonzero(latent) else latent


def process_latent_out(model: Any, latent: torch.Tensor) -> torch.Tensor:
    """Model space back to what a LATENT holds."""
    return model.get_model_object("latent_format").process_out(latent.float())
