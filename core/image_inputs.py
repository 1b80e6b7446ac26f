"""Checks for every IMAGE input."""

from __future__ import annotations

from typing import Any

import torch

# Resizing overshoots 0 … 1 a little; only values on a 0 … 255 scale reach this.
_HIGHEST = 16.0
# Allowed numbers of channels, and the channels that become RGB.
_COLOURS = {1: (0, 0, 0), 3: (0, 1, 2), 4: (0, 1, 2)}


def checked_images(images: Any, name: str) -> Any:
    """An IMAGE as (B, H, W, 3) float32 on the CPU; None stays None.

    Greyscale images get three channels, and alpha is dropped, as in ComfyUI's own nodes.

    Args:
        images: (B, H, W, C) floats, 0 … 1.
        name: the input, for messages.

    Raises:
        ValueError: not an IMAGE, an empty batch, a wrong number of channels, or values out of range.
    """
    if images is None:
        return None
    if not isinstance(images, torch.Tensor) or images.ndim != 4:
        got = f"shape {tuple(images.shape)}" if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(f"{name}: expected an IMAGE of shape (batch, height, width, channels), got {got}.")
    count, height, width, channels = images.shape
    if 0 in (count, height, width):
        raise ValueError(
            f"{name}: is empty ({count} images of {width} x {height} pixels). Connect at least one image; an earlier "
            "node may have filtered out all of them."
        )
    if channels not in _COLOURS:
        raise ValueError(
            f"{name}: has {channels} channels; expected 3 (RGB), 4 (RGBA, alpha is ignored) or 1 (grey). Convert it to "
            "RGB first."
        )
    if not images.is_floating_point():
        raise ValueError(
            f"{name}: contains {images.dtype} values, but an IMAGE has floats from 0 to 1. Divide it by 255 first."
        )
    images = images.detach().float().cpu()
    for number, image in enumerate(images, start=1):
        which = f"{name}: " if count == 1 else f"{name}: image {number} of {count} "
        if not bool(torch.isfinite(image).all()):
            raise ValueError(
                f"{which}contains NaN or infinite values. The node that made it failed, often a VAE in half precision: "
                "start ComfyUI with --fp32-vae, or use another VAE."
            )
        if float(image.abs().amax()) > _HIGHEST:
            raise ValueError(
                f"{which}contains values from {float(image.min()):g} to {float(image.max()):g}, but an IMAGE has "
                "values from 0 to 1. Divide it by 255 first."
            )
    return images if channels == 3 else images[..., _COLOURS[channels]]
