"""Checks for LATENT inputs, and conversion between them and the space in which the model samples."""

from __future__ import annotations

from typing import Any

import torch


def check_latent(name: str, model: Any, latent: Any) -> None:
    """Refuse a latent that the model cannot use, before the model is loaded.

    Args:
        name: the input, for messages.
        model: a ``ModelPatcher``; its ``latent_format`` may be a patch.
        latent: samples of a LATENT, expected as (B, C, H, W), or with one frame (B, C, 1, H, W) if the model's latents
            have a time axis (Qwen-Image).

    Raises:
        ValueError: not an image latent, a wrong number of channels, no pixels, or values that are not finite.
    """
    latent_format = model.get_model_object("latent_format")
    plain = isinstance(latent, torch.Tensor) and not getattr(latent, "is_nested", False)
    shape = tuple(latent.shape) if plain else type(latent).__name__
    frames = _time_axis(model)
    if frames and plain and latent.ndim == 5 and latent.shape[2] > 1:
        raise ValueError(
            f"{name}: holds {latent.shape[2]} frames (shape {shape}). Only single images can be edited; connect one of "
            "them."
        )
    sound = getattr(latent_format, "latent_dimensions", 2) == 1
    if sound or not plain or latent.ndim not in ((4, 5) if frames else (4,)):
        axes = "4 dimensions (batch, channels, height, width)"
        if frames:
            axes = "4 or 5 dimensions (batch, channels, 1, height, width)"
        raise ValueError(
            f"{name}: expected an image latent of {axes}, got {shape}. Video and audio latents are not supported."
        )
    if 0 in latent.shape:
        raise ValueError(f"{name}: is empty (shape {tuple(latent.shape)}). Connect VAE Encode or Empty Latent Image.")
    channels = latent_format.latent_channels
    if latent.shape[1] != channels:
        raise ValueError(
            f"{name}: has {latent.shape[1]} channels, but this model uses {channels}. Encode the image "
            "with the model's own VAE."
        )
    if not bool(torch.isfinite(latent).all()):
        raise ValueError(f"{name}: contains NaN or infinite values. Check the image, and the VAE that encoded it.")


def check_sampled(latent: torch.Tensor, where: str) -> None:
    """Refuse what a model made if it holds NaN or infinite values, which would only show as a black image.

    Args:
        where: what was made, for the message.

    Raises:
        ValueError: a value is not finite.
    """
    if not bool(torch.isfinite(latent).all()):
        raise ValueError(
            f"model: {where} holds NaN or infinite values. The model overflows in half precision: start ComfyUI with "
            "--bf16-unet or --fp32-unet, or load another file of the model."
        )


def _time_axis(model: Any) -> bool:
    """Whether the model's latents have a time axis, though it makes images."""
    return getattr(model.get_model_object("latent_format"), "latent_dimensions", 2) == 3


def with_time_axis(model: Any, latent: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) samples with the time axis that the model needs, as ComfyUI's own samplers add it."""
    return latent.unsqueeze(2) if _time_axis(model) and latent.ndim == 4 else latent


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
