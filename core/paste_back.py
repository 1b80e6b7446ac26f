"""Restoring the original outside the final mask of an edit: in the latent after sampling, in the pixels, or both."""

from __future__ import annotations

from dataclasses import dataclass

import torch

CHOICES = ("off", "latent", "pixels")


@dataclass(frozen=True)
class PasteBack:
    """Where the original is restored. Pixels are exact, but a seam may show; in the latent, the VAE smooths it."""

    latent: bool = False
    pixels: bool = False

    @classmethod
    def of(cls, choice: str) -> PasteBack:
        """One of ``CHOICES``.

        Raises:
            ValueError: any other value.
        """
        if choice not in CHOICES:
            raise ValueError(f"paste_back: {choice!r} is not one of {', '.join(CHOICES)}.")
        return cls(choice == "latent", choice == "pixels")


def paste_latents(edited: torch.Tensor, sources: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Edited latents, with the sources' outside the masks.

    Args:
        edited: (N·B, C, h, w) or with a time axis, edit by edit.
        sources: (B, C, h, w) or with a time axis.
        masks: (N·B, h, w) in 0 … 1.
    """
    return _paste(edited, sources, masks.reshape(-1, *[1] * (edited.ndim - 3), *masks.shape[-2:]))


def paste_pixels(edited: torch.Tensor, originals: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Edited images, with the originals' pixels outside the masks.

    Args:
        edited: (N·B, H, W, 3), edit by edit.
        originals: (B, H, W, 3 or more).
        masks: (N·B, H, W) in 0 … 1.
    """
    return _paste(edited, originals[..., :3], masks[..., None])


def _paste(edited: torch.Tensor, sources: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    masks = masks.to(edited)
    sources = sources.to(edited).repeat(edited.shape[0] // sources.shape[0], *[1] * (edited.ndim - 1))
    return masks * edited + (1 - masks) * sources


def check_originals(images: torch.Tensor, batch: int, size: tuple[int, int]) -> None:
    """Raise a ValueError unless ``images`` are the originals of ``batch`` source images of ``size`` (H, W)."""
    if images.ndim != 4 or images.shape[0] != batch:
        raise ValueError(f"image: expected {batch} image(s), one per source image, got a batch of {images.shape[0]}.")
    height, width = images.shape[1:3]
    if (height, width) != tuple(size):
        raise ValueError(
            f"image: the original is {width}×{height}, but the edit is {size[1]}×{size[0]} (width × height). Connect "
            "the image as it was encoded (with sides that are multiples of 8, or the VAE crops it)."
        )
