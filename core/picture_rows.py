"""Data that other nodes made for a batch of pictures, laid out for a batch of rows: who gets what.

A batch of B pictures is sampled as rows [source, edit₁ … edit_N] × B, and the host deals masks, latents and hints out
to rows, not to pictures. So they are fitted to the pictures first, by the host's own rule for each, and then repeated
for the edits: an edit has its picture's data, and a source has what it has in ordinary sampling.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import comfy.utils
import torch

from .mask_inputs import mask_batch

# What an inpainting model sees beside the noisy latent (InpaintModelConditioning).
_CONCAT = ("concat_latent_image", "concat_mask")


def noise_mask_rows(mask: torch.Tensor, pictures: int, rows: int) -> torch.Tensor:
    """A LATENT's own ``noise_mask``, for rows [source, edit₁ … edit_N] × B.

    Masks that are not one or B are counted through in turn, and those behind the last picture are left out.

    Args:
        mask: (…, h, w), as a LATENT holds it.
        pictures: B. rows: 1 + N.

    Returns:
        ((1 + N)·B, 1, h, w), clamped to 0 … 1.

    Raises:
        ValueError: see `mask_inputs.mask_batch`.
    """
    if mask.ndim > 3:  # the host counts masks along all leading axes
        mask = mask.reshape(-1, *mask.shape[-2:])
    masks = mask_batch(mask, "latent_image: noise_mask")
    if masks.shape[0] not in (1, pictures):
        logging.warning(
            "PartEdit: latent_image holds %d noise masks for %d pictures. They are dealt out in turn, as in ComfyUI's "
            "own samplers; give one mask, or one for each picture.",
            masks.shape[0],
            pictures,
        )
    return comfy.utils.repeat_to_batch_size(masks, pictures).repeat(rows, 1, 1)[:, None]


def option_rows(options: dict[str, Any], pictures: int, rows: int, name: str) -> dict[str, Any]:
    """The settings of a CONDITIONING entry, for rows [source, edit₁ … edit_N] × B.

    Masks (ConditioningSetMask), latents and masks for inpainting models, and ControlNet hints are laid out; everything
    else stays as it is.

    Args:
        options: left as they are.
        pictures: B. rows: 1 + N; with 1, data is fitted to the pictures only.
        name: the input, for messages.

    Raises:
        ValueError: masks that cannot be dealt out to the pictures.
    """
    changed = dict(options)
    mask = options.get("mask")
    if isinstance(mask, torch.Tensor) and mask.ndim > 2 and mask.shape[0] > 1:
        first = mask[:pictures]
        if pictures % first.shape[0]:
            raise ValueError(
                f"{name}: an entry has {mask.shape[0]} masks for {pictures} pictures. Give one mask, or one for each "
                "picture."
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
    """A ControlNet whose hint holds one picture or B, which the host then repeats in turn; a copy where it does not."""
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
