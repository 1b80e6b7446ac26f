"""Per-image data of other nodes (masks, latents, hints), laid out for the rows of an edit.

A batch of B images is sampled as rows [source, edit₁ … edit_N] × B, but ComfyUI distributes masks, latents and hints
over rows, not images. So they are first fitted to the images, by ComfyUI's own rule for each, and then repeated for the
edits. Each edit gets the data of its image, and each source what it gets in ordinary sampling.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import comfy.utils
import torch

from .mask_inputs import mask_batch

# Inputs of an inpainting model next to the noisy latent (InpaintModelConditioning).
_CONCAT = ("concat_latent_image", "concat_mask")


def noise_mask_rows(mask: torch.Tensor, pictures: int, rows: int) -> torch.Tensor:
    """A LATENT's own ``noise_mask``, for rows [source, edit₁ … edit_N] × B.

    If there are neither one nor B masks, they are repeated in order, and masks beyond the last image are dropped.

    Args:
        mask: (…, h, w), as a LATENT stores it.
        pictures: B. rows: 1 + N.

    Returns:
        ((1 + N)·B, 1, h, w), clamped to 0 … 1.

    Raises:
        ValueError: see `mask_inputs.mask_batch`.
    """
    if mask.ndim > 3:  # ComfyUI counts masks along all leading axes
        mask = mask.reshape(-1, *mask.shape[-2:])
    masks = mask_batch(mask, "latent_image: noise_mask")
    if masks.shape[0] not in (1, pictures):
        logging.warning(
            "PartEdit: latent_image has %d noise masks for %d images. They are assigned in order, as in ComfyUI's own "
            "samplers. Give one mask, or one per image.",
            masks.shape[0],
            pictures,
        )
    return comfy.utils.repeat_to_batch_size(masks, pictures).repeat(rows, 1, 1)[:, None]


def option_rows(options: dict[str, Any], pictures: int, rows: int, name: str) -> dict[str, Any]:
    """The settings of a CONDITIONING entry, for rows [source, edit₁ … edit_N] × B.

    Masks (ConditioningSetMask), latents and masks of inpainting models, and ControlNet hints are laid out; everything
    else is left as it is.

    Args:
        options: left as they are.
        pictures: B. rows: 1 + N; with 1, data is only fitted to the images.
        name: the input, for messages.

    Raises:
        ValueError: masks that cannot be assigned to the images.
    """
    changed = dict(options)
    mask = options.get("mask")
    if isinstance(mask, torch.Tensor) and mask.ndim > 2 and mask.shape[0] > 1:
        first = mask[:pictures]
        if pictures % first.shape[0]:
            raise ValueError(
                f"{name}: an entry has {mask.shape[0]} masks for {pictures} images. Give one mask, or one per image."
            )
        changed["mask"] = first.repeat(pictures // first.shape[0] * rows, *([1] * (mask.ndim - 1)))
    for key in _CONCAT:
        tensor = options.get(key)
        if isinstance(tensor, torch.Tensor) and tensor.shape[0] > 1:
            fitted = comfy.utils.resize_to_batch_size(tensor, pictures)
            changed[key] = fitted.repeat(rows, *([1] * (tensor.ndim - 1)))
    if "control" in options:
        changed["control"] = _hint_for(options["control"], pictures)
    return changed


def _hint_for(control: Any, pictures: int) -> Any:
    """A ControlNet whose hint has one image or B, which ComfyUI repeats in order; a copy if it had to be fitted."""
    if control is None:
        return None
    hint = getattr(control, "cond_hint_original", None)
    before = getattr(control, "previous_controlnet", None)
    fitted = _hint_for(before, pictures)
    fits = not isinstance(hint, torch.Tensor) or hint.shape[0] in (1, pictures)
    if fits and fitted is before:
        return control
    control = copy.copy(control)
    control.previous_controlnet = fitted
    if not fits:
        control.cond_hint_original = comfy.utils.repeat_to_batch_size(hint, pictures)
        control.cond_hint = None
    return control
