"""Masks of editing pairs: resizing them to the latent, and resolving overlaps."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..mask_inputs import CELL, check_not_empty, check_shape, crop_as_encoded, mask_batch

OVERLAPS = ("first", "last", "blend")


def one_mask(mask: torch.Tensor, name: str) -> torch.Tensor:
    """A MASK input as one (H, W) float32 map in 0 … 1 on the CPU.

    Raises:
        ValueError: see `mask_inputs.mask_batch`; or there are several masks, or it is empty.
    """
    masks = mask_batch(mask, name)
    if masks.shape[0] != 1:
        raise ValueError(
            f"{name}: expected one mask of shape (1, height, width), got {tuple(mask.shape)}. "
            "Choose one mask from the batch, or combine them first."
        )
    check_not_empty(masks, name, "there is nothing to edit", optional=False)
    return masks[0]


def resize_mask(
    mask: torch.Tensor, height: int, width: int, name: str, scale: int = 1, cell: int | None = None
) -> torch.Tensor:
    """A (H, W) mask at another resolution of the same image; binary masks stay binary (nearest).

    Args:
        height, width: of the result.
        scale: image pixels per pixel of the result, 8 for most latents' masks.
        cell: image pixels per latent pixel, in whole numbers of which the VAE has cropped the image; ``scale`` for a
            latent's mask, else 8.

    Raises:
        ValueError: the mask has another aspect ratio than the image, or vanishes when downscaled.
    """
    cell = cell or (scale if scale > 1 else CELL)
    picture = (height * scale, width * scale)
    check_shape((mask.shape[0], mask.shape[1]), picture, name, cell - 1)
    mask = crop_as_encoded(mask, picture, cell)
    if tuple(mask.shape) == (height, width):
        return mask
    binary = bool(((mask == 0) | (mask == 1)).all())
    if binary:
        resized = F.interpolate(mask[None, None], size=(height, width), mode="nearest")[0, 0]
    else:
        resized = F.interpolate(
            mask[None, None], size=(height, width), mode="bilinear", align_corners=False, antialias=True
        )[0, 0].clamp(0.0, 1.0)
    if not bool((resized > 0).any()):
        where = f"{width}×{height}" + ("" if scale == 1 else f", the latent of a {picture[1]}×{picture[0]} image")
        raise ValueError(
            f"{name}: nothing is left of the mask at {where}; the object is too small for this resolution. "
            "Grow the mask (Grow Mask) or work on a larger image."
        )
    return resized


def ownership(masks: torch.Tensor, overlap: str = "first") -> tuple[torch.Tensor, torch.Tensor]:
    """Weight of each pair at each pixel; together with the background's they sum to one everywhere.

    Args:
        masks: (K, h, w) in 0 … 1, in the order of the pairs.
        overlap: ``first``: the earlier pair wins; ``last``: the later; ``blend``: they share it in proportion.

    Returns:
        (K, h, w) weights of the pairs and (h, w) of the background.

    Raises:
        ValueError: an unknown ``overlap``.
    """
    if overlap == "blend":
        weights = masks / masks.sum(0).clamp(min=1.0)
        return weights, (1.0 - weights.sum(0)).clamp(min=0.0)
    if overlap not in OVERLAPS:
        raise ValueError(f"overlap: {overlap!r} is not one of {', '.join(OVERLAPS)}.")
    weights = torch.zeros_like(masks)
    free = torch.ones_like(masks[0])
    order = range(len(masks)) if overlap == "first" else reversed(range(len(masks)))
    for k in order:
        weights[k] = masks[k] * free
        free = free * (1.0 - masks[k])
    return weights, free


def feather(mask: torch.Tensor, radius: float) -> torch.Tensor:
    """A (H, W) mask with a soft edge that grows outward by about ``radius`` pixels; values inside do not change."""
    if radius <= 0:
        return mask
    sigma = radius / 2.0
    reach = max(1, int(radius + 0.5))
    # The largest value in a square, by rows and then by columns: a wide edge on a large image would take minutes.
    rows = F.max_pool2d(mask[None, None], (1, 2 * reach + 1), stride=1, padding=(0, reach))
    grown = F.max_pool2d(rows, (2 * reach + 1, 1), stride=1, padding=(reach, 0))
    offsets = torch.arange(-reach, reach + 1, dtype=mask.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(grown, (reach, reach, reach, reach), mode="replicate")
    soft = F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[0, 0]
    return torch.maximum(soft.clamp(0.0, 1.0), mask)
