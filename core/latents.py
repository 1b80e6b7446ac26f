"""Checks for LATENT inputs, and conversion between them and the space in which the model samples."""

from __future__ import annotations

from typing import Any

import torch


def check_latent(name: str, model: Any, latent: Any) -> None:
    """Refuse a latent that the model cannot use, before the model is loaded.

    Args:
        name: the input, for messages.
        model: a ``ModelPatcher``; its ``latent_format`` may be a patch.
        latent: samples of a LATENT, expected as (B, C, H, W).

    Raises:
        ValueError: not an image latent, a wrong number of channels, no pixels, or values that are not finite.
    """
    if not isinstance(latent, torch.Tensor) or getattr(latent, "is_nested", False) or latent.ndim != 4:
        plain = isinstance(latent, torch.Tensor) and not getattr(latent, "is_nested", False)
        shape = tuple(latent.shape) if plain else type(latent).__name__
        raise ValueError(
            f"{name}: expected an image latent of 4 dimensions (batch, channels, height, width), got {shape}. "
            "Video and audio latents are not supported."
        )
    if 0 in latent.shape:
        raise ValueError(f"{name}: is empty (shape {tuple(latent.shape)}). Connect VAE Encode or Empty Latent Image.")
    channels = model.get_model_object("latent_format").latent_channels
    if latent.shape[1] != channels:
        raise ValueError(
            f"{name}: has {latent.shape[1]} channels, but this model uses {channels}. Encode the image "
            "with the model's own VAE."
        )
    if not bool(torch.isfinite(latent).all()):
        raise ValueError(f"{name}: contains NaN or infinite values. Check the image, and the VAE that encoded it.")


def process_latent_in(model: Any, latent: torch.Tensor) -> torch.Tensor:
    """A LATENT's samples in model space, as the guider passes them to a sampler.

    The format is read from the ``ModelPatcher``: a node may have replaced it (ModelSamplingContinuousEDM), which the
    model inside only reflects while loaded.
    """
    latent = latent.float()
    return model.get_model_object("latent_format").process_in(latent) if torch.count_nonzero(latent) else latent


def process_latent_out(model: Any, latent: torch.Tensor) -> torch.Tensor:
    """Model space back to the samples of a LATENT."""
    return model.get_model_object("latent_format").process_out(latent.float())
