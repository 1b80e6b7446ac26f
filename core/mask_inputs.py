"""Masks as users connect them, in one form: one per image, values 0 … 1, the image's aspect ratio.

Every node that takes a MASK uses `mask_batch`; nodes that apply it to images use `picture_masks`.
"""

from __future__ import annotations

import logging

import torch

# A mask whose values are all below half a step of 8 bits is empty; values closer than that are equal.
EMPTY = 1 / 512
# Resizing filters overshoot and sums of masks exceed 1: such values are clamped. Larger ones mean another scale (255).
LARGEST = 10.0
# Two sizes belong to the same image if their aspect ratios agree within this fraction (rounding at low resolutions).
ASPECT_TOLERANCE = 0.03
# Pixels per latent pixel of most VAEs, which crop the remainder, half on each side.
CELL = 8
# How to fix an empty mask; the first sentence is how most people get one.
HOW_TO_FILL = (
    "Load Image gives an empty 64×64 mask for an image without transparency: paint one (right-click the image, Open in "
    "MaskEditor), or connect a mask from a segmentation node"
)


def mask_batch(mask: torch.Tensor, name: str) -> torch.Tensor:
    """A MASK input as (M, H, W) float32 in 0 … 1 on the CPU, whatever its dtype and device.

    Args:
        mask: (H, W), (M, H, W) or (M, 1, H, W). Values outside 0 … 1 are clamped.
        name: the input, for messages.

    Raises:
        ValueError: wrong shape, no pixels, values that are not finite, or values on another scale.
    """
    if not isinstance(mask, torch.Tensor):
        raise ValueError(f"{name}: expected a MASK, got {type(mask).__name__}.")
    given = tuple(mask.shape)
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim != 3 or mask.is_complex():
        raise ValueError(
            f"{name}: expected a MASK of shape (batch, height, width), got {given}. Convert images to masks with "
            "Convert Image to Mask."
        )
    if mask.numel() == 0:
        raise ValueError(
            f"{name}: has no pixels (shape {given}). Connect a mask of the image's size; a segmentation node "
            "that found nothing gives none."
        )
    mask = mask.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(mask).all()):
        raise ValueError(f"{name}: contains NaN or infinite values. Check the node that made the mask.")
    low, high = float(mask.min()), float(mask.max())
    if low < -LARGEST or high > LARGEST:
        raise ValueError(
            f"{name}: expected values from 0 to 1, got {low:g} to {high:g}. Divide a 0 to 255 mask by 255."
        )
    return mask.clamp(0.0, 1.0)


def empty_masks(masks: torch.Tensor) -> list[int]:
    """Indices of the empty masks among (M, H, W) in 0 … 1."""
    return [index for index, peak in enumerate(masks.flatten(1).amax(dim=1).tolist()) if peak < EMPTY]


def check_not_empty(masks: torch.Tensor, name: str, effect: str, optional: bool = True) -> None:
    """Refuse masks that select nothing.

    Args:
        masks: (M, H, W) from `mask_batch`; one per image, or one for all.
        effect: the consequence of an empty mask, to follow "so".
        optional: the input may also be left unconnected.

    Raises:
        ValueError: a mask is empty; for a batch, the message names the images.
    """
    empty = empty_masks(masks)
    if not empty:
        return
    if len(masks) == 1:
        which = "the mask is empty"
    else:
        numbers = ", ".join(str(index + 1) for index in empty)
        one = len(empty) == 1
        which = f"the mask of image {numbers} is empty" if one else f"the masks of images {numbers} are empty"
    instead = ", or disconnect this input" if optional else ""
    raise ValueError(f"{name}: {which}, so {effect}. {HOW_TO_FILL}{instead}.")


def check_left(masks: torch.Tensor, small: torch.Tensor, name: str) -> None:
    """Refuse masks of which nothing is left at the latent's size, and warn of those of which little is.

    Args:
        masks: (M, H, W) in 0 … 1 as given. small: (M, h, w), resized.

    Raises:
        ValueError: a mask that is not empty became so.
    """
    before, after = (each.flatten(1).amax(dim=1) for each in (masks, small))
    lost = (before >= EMPTY) & (after < 0.5 * before)
    if not bool(lost.any()):
        return
    number = int(torch.where(lost, after, 2.0).argmin())
    which = "the mask" if len(masks) == 1 else f"mask {number + 1}"
    at = f"at {small.shape[-1]}×{small.shape[-2]}, the size of the latent"
    if float(after[number]) < EMPTY:
        raise ValueError(
            f"{name}: nothing is left of {which} {at}; its region is too small for it. Grow the mask (Grow Mask) or "
            "work on a larger image."
        )
    logging.warning(
        "PartEdit: %s: %s reaches %.0f%% %s, because its region is smaller than a latent pixel, so there is little "
        "effect. Grow the mask (Grow Mask) or work on a larger image.",
        name,
        which,
        100 * float(after[number]),
        at,
    )


def one_per_picture(masks: torch.Tensor, pictures: int, name: str) -> torch.Tensor:
    """Masks (M, H, W), M = 1 or B, as one for each of B images: (B, H, W).

    Raises:
        ValueError: any other number of masks.
    """
    if masks.shape[0] not in (1, pictures):
        raise ValueError(f"{name}: has {masks.shape[0]} masks for {pictures} images. Give one mask, or one per image.")
    return masks.expand(pictures, -1, -1)


def one_per_edit(masks: torch.Tensor, pictures: int, edits: int, name: str) -> torch.Tensor:
    """Masks (M, H, W) as one for each of N edits of B images, (N·B, H, W): grouped by edit, as edited latents are.

    Args:
        masks: M = 1, B, or N·B.

    Raises:
        ValueError: any other number of masks.
    """
    if masks.shape[0] not in (1, pictures, pictures * edits):
        raise ValueError(
            f"{name}: has {masks.shape[0]} masks for {pictures} images with {edits} edits each. Give one mask, one per "
            f"image, or one per edited image ({pictures * edits}, grouped by edit)."
        )
    if masks.shape[0] == pictures * edits:
        return masks
    return masks.expand(pictures, -1, -1).repeat(edits, 1, 1)


def check_shape(mask: tuple[int, int], picture: tuple[int, int], name: str, spare: int = CELL - 1) -> None:
    """Refuse a mask of size ``mask`` (height, width) that would be distorted on an image of size ``picture``.

    Args:
        spare: pixels that may have been cropped from each side of the image since the mask was made.

    Raises:
        ValueError: the aspect ratios differ by more than rounding and a VAE's cropping explain.
    """
    (rows, columns), (height, width) = mask, picture
    close = abs(rows * width - columns * height) <= ASPECT_TOLERANCE * max(rows * width, columns * height)
    cropped = columns * (height + spare) >= rows * width and columns * height <= rows * (width + spare)
    if not (close or cropped):
        raise ValueError(
            f"{name}: the mask is {columns}×{rows} (width × height), but the image is {width}×{height}: another aspect "
            "ratio. Make the mask from the same image, or scale and crop both in the same way."
        )


def crop_as_encoded(masks: torch.Tensor, picture: tuple[int, int], cell: int = CELL) -> torch.Tensor:
    """Crop masks (…, h, w) made for the image before encoding as the VAE cropped the image; others stay as they are.

    Args:
        picture: (height, width) in pixels after encoding.
        cell: pixels per latent pixel.
    """
    rows, columns = masks.shape[-2:]
    height, width = picture
    if (rows, columns) == (height, width) or (rows // cell * cell, columns // cell * cell) != (height, width):
        return masks
    top, left = (rows - height) // 2, (columns - width) // 2
    return masks[..., top : top + height, left : left + width]


def picture_masks(
    mask: torch.Tensor,
    pictures: int,
    size: tuple[int, int],
    name: str,
    if_empty: str = "",
    edits: int = 1,
    cell: int = CELL,
    optional: bool = True,
) -> torch.Tensor:
    """A MASK input as one mask for each of B images, (B, h, w) in 0 … 1, at its own resolution.

    With ``edits``, there may also be one for each edited image: those stay as they are, (N·B, h, w).

    A mask that is the same everywhere (SolidMask) fits images of any size.

    Args:
        pictures: B.
        size: (height, width) of the images in pixels, as encoded.
        if_empty: the consequence of an empty mask, which is then refused; by default, empty masks are accepted.
        edits: N.
        cell: pixels per latent pixel.
        optional: the input may also be left unconnected, for the message of ``if_empty``.

    Raises:
        ValueError: see `mask_batch`, `check_not_empty`, `one_per_picture`, `one_per_edit` and `check_shape`.
    """
    masks = mask_batch(mask, name)
    if if_empty:
        check_not_empty(masks, name, if_empty, optional)
    if edits == 1:
        masks = one_per_picture(masks, pictures, name)
    else:
        one_per_edit(masks[:, :1, :1], pictures, edits, name)
    if float(masks.amax() - masks.amin()) > 0:
        check_shape((masks.shape[-2], masks.shape[-1]), size, name, cell - 1)
    return crop_as_encoded(masks, size, cell)
