"""Masks of editing pairs: from pictures to latents, and who owns a pixel that several pairs claim."""

from __future__ import annotations

import torch
import torch.nn.functional as F

OVERLAPS = ("first", "last", "blend")
# Two shapes count as the same picture when their aspect ratios agree within this share (rounding to multiples of 8).
ASPECT_TOLERANCE = 0.03


def one_mask(mask: torch.Tensor, name: str) -> torch.Tensor:
    """A MASK input as one (H, W) float32 map in 0 … 1 on the CPU.

    Raises:
        ValueError: it holds several masks, numbers that are not finite, or nothing at all.
    """
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim == 2:
        mask = mask.unsqueeze(0)
    if mask.ndim != 3 or mask.shape[0] != 1:
        raise ValueError(
            f"{name}: expected one mask of shape (1, height, width), got {tuple(mask.shape)}. "
            "Choose one mask of the batch, or combine them first."
        )
    mask = mask[0].detach().float().cpu()
    if not bool(torch.isfinite(mask).all()):
        raise ValueError(f"{name}: the mask holds values that are not finite.")
    mask = mask.clamp(0.0, 1.0)
    if not bool((mask > 0).any()):
        raise ValueError(f"{name}: the mask is empty, so there is nothing to edit. Paint or detect the object first.")
    return mask


def resize_mask(mask: torch.Tensor, height: int, width: int, name: str) -> torch.Tensor:
    """A (H, W) mask at another resolution of the same picture; binary masks stay binary (nearest).

    Raises:
        ValueError: the mask has another shape than the picture, or vanishes when made smaller.
    """
    rows, columns = mask.shape
    if abs(rows * width - columns * height) > ASPECT_TOLERANCE * max(rows * width, columns * height):
        raise ValueError(
            f"{name}: the mask is {columns}×{rows} (width × height), which is not the shape of a {width}×{height} "
            "picture. Make the mask from the same picture, without cropping it."
        )
    if (rows, columns) == (height, width):
        return mask
    binary = bool(((mask == 0) | (mask == 1)).all())
    if binary:
        resized = F.interpolate(mask[None, None], size=(height, width), mode="nearest")[0, 0]
    else:
        resized = F.interpolate(
            mask[None, None], size=(height, width), mode="bilinear", align_corners=False, antialias=True
        )[0, 0].clamp(0.0, 1.0)
    if not bool((resized > 0).any()):
        raise ValueError(
            f"{name}: nothing is left of the mask at {width}×{height}; the object is too small for this resolution. "
            "Grow the mask (GrowMask) or work on a larger picture."
        )
    return resized


def ownership(masks: torch.Tensor, overlap: str = "first") -> tuple[torch.Tensor, torch.Tensor]:
    """Weights that say how much of a pixel each pair owns; with the background's they sum to one everywhere.

    Args:
        masks: (K, h, w) in 0 … 1, in the order of the pairs.
        overlap: ``first``: the earlier pair wins; ``last``: the later; ``blend``: they share in proportion.

    Returns:
        (K, h, w) weights of the pairs and (h, w) of the background.

    Raises:
        ValueError: an unknown way to overlap.
    """
    if overlap == "blend":
        weights = masks / masks.sum(0).clamp(min=1.0)
        return weights, (1.0 - weights.sum(0)).clamp(min=0.0)
    if overlap not in OVERLAPS:
        raise ValueError(f"overlap is {overlap!r}; choose one of {', '.join(OVERLAPS)}.")
    weights = torch.zeros_like(masks)
    free = torch.ones_like(masks[0])
    order = range(len(masks)) if overlap == "first" else reversed(range(len(masks)))
    for k in order:
        weights[k] = masks[k] * free
        free = free * (1.0 - masks[k])
    return weights, free


def feather(mask: torch.Tensor, radius: float) -> torch.Tensor:
    """A (H, W) mask with a soft edge that grows outward by about ``radius`` pixels; the inside stays at its value."""
    if radius <= 0:
        return mask
    sigma = radius / 2.0
    reach = max(1, int(radius + 0.5))
    grown = F.max_pool2d(mask[None, None], 2 * reach + 1, stride=1, padding=reach)
    offsets = torch.arange(-reach, reach + 1, dtype=mask.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(grown, (reach, reach, reach, reach), mode="replicate")
    soft = F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[0, 0]
    return torch.maximum(soft.clamp(0.0, 1.0), mask)
