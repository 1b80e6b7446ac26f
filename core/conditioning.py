"""Checks on CONDITIONING before the model runs: not empty, the model's width, and covering the whole image where
maps are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.samplers
import comfy.utils
import torch

# CONDITIONING as ComfyUI passes it: entries [text embedding (1 or B, L, D), options].
Conditioning = list[Any]


def check_conditioning(name: str, conditioning: Any, width: int | None) -> None:
    """Refuse CONDITIONING that is empty or was made for another kind of model, before a matrix product fails.

    Args:
        name: the input, for messages.
        width: width D of the model's text conditioning; None: unknown, any width passes.

    Raises:
        ValueError: no entry, a malformed entry, or a text embedding (…, D) of another width.
    """
    if not conditioning:
        raise ValueError(f"{name}: is empty. Connect a prompt, for example from CLIP Text Encode.")
    for entry in conditioning:
        if not isinstance(entry, (list, tuple)) or len(entry) != 2 or not isinstance(entry[1], dict):
            raise ValueError(
                f"{name}: expected CONDITIONING, a list of [embedding, options], got an entry of type "
                f"{type(entry).__name__}. Connect the output of CLIP Text Encode or of a node that modifies it."
            )
        text = entry[0]
        if width is not None and isinstance(text, torch.Tensor) and text.shape[-1] != width:
            raise ValueError(
                f"{name}: its text embedding is {text.shape[-1]} wide, but the model takes {width}. "
                "Use the CLIP that belongs to the model."
            )


def partial_area(options: dict[str, Any], latent: tuple[int, int]) -> tuple[int, ...]:
    """The (height, width, top, left) in latent pixels that an entry is limited to; () if it covers the whole image.

    Args:
        options: of an entry, or an entry in ComfyUI's internal form.
        latent: (h, w) of the latent.
    """
    # A mask limits the area only where its bounds are meant; otherwise it need not be resized to be looked at.
    keys = ("area", "mask", "set_area_to_bounds") if options.get("set_area_to_bounds") else ("area",)
    resolved = [{key: options[key] for key in keys if key in options}]
    # ComfyUI's own arithmetic for percentages and the bounds of a mask.
    comfy.samplers.resolve_areas_and_cond_masks_multidim(resolved, latent, torch.device("cpu"))
    area = resolved[0].get("area")
    if not area:
        return ()
    top, left = int(area[-2]), int(area[-1])
    # ComfyUI cuts off what reaches beyond the image.
    height, width = min(latent[0] - top, int(area[-4])), min(latent[1] - left, int(area[-3]))
    return () if (height, width, top, left) == (*latent, 0, 0) else (height, width, top, left)


def is_active(options: dict[str, Any], sampling: Any, sigma: float) -> bool:
    """Whether an entry's timestep range includes ``sigma`` (ComfyUI's rule, both ends included).

    Args:
        sampling: the model's ``model_sampling``.
    """
    # A schedule of the text encoder's hooks gives each of its entries a range, too.
    starts, ends = ([options.get(name + key) for name in ("", "clip_")] for key in ("start_percent", "end_percent"))
    return all(start is None or sigma <= float(sampling.percent_to_sigma(start)) for start in starts) and all(
        end is None or sigma >= float(sampling.percent_to_sigma(end)) for end in ends
    )


def check_levels(name: str, conditioning: Conditioning, sampling: Any, sigmas: Sequence[float]) -> None:
    """Refuse CONDITIONING without any active entry at one of the levels, where ComfyUI takes 0 for the prediction.

    Raises:
        ValueError: the timestep ranges of the entries leave a gap.
    """
    entries = [options for _, options in conditioning]
    if (sigma := _gap(entries, sampling, sigmas)) is not None:
        raise ValueError(
            f"{name}: no entry is active at sigma {sigma:.3g}; the timestep ranges are {_ranges(entries)}. Remove the "
            "range, or combine it with an entry for the other steps (Conditioning (Combine))."
        )


def check_active(
    name: str,
    conditioning: Conditioning,
    sampling: Any,
    sigmas: Sequence[float],
    pictures: int,
    latent: tuple[int, int],
) -> None:
    """Refuse CONDITIONING that at one of the levels leaves the image, or part of it, without any active entry: ComfyUI
    takes 0 for the prediction there, and an inversion, or an edit from it, goes on from that without a word.

    Args:
        name: the input, for messages.
        sampling: the model's ``model_sampling``.
        sigmas: levels at which the model is called.
        pictures: B. latent: (h, w) of the latent.

    Raises:
        ValueError: the timestep ranges of the entries leave a gap, or their areas and masks do.
    """
    check_levels(name, conditioning, sampling, sigmas)
    entries = [options for _, options in conditioning]
    if not any(options.keys() & _LIMITS for options in entries):
        return
    covered = [_covered(options, pictures, latent) for options in entries]
    seen: set[tuple[int, ...]] = set()
    for sigma in sigmas:
        active = tuple(n for n, options in enumerate(entries) if is_active(options, sampling, sigma))
        if active in seen:
            continue
        seen.add(active)
        together = torch.zeros(pictures, *latent, dtype=torch.bool)
        for n in active:
            together |= covered[n]
        share, worst = together.flatten(1).float().mean(dim=1).min(dim=0)
        if float(share) < 1.0:
            where = "the image" if pictures == 1 else f"image {int(worst) + 1}"
            raise ValueError(
                f"{name}: its areas and masks leave {1 - float(share):.0%} of {where} without a prompt at sigma "
                f"{sigma:.3g}, so the model would predict nothing there. Combine them with a prompt for the whole "
                "image (Conditioning (Combine))."
            )


# What limits an entry to part of the image, or takes it out.
_LIMITS = {"area", "mask", "strength", "mask_strength"}


def _covered(options: dict[str, Any], pictures: int, latent: tuple[int, int]) -> torch.Tensor:
    """(1 or B, h, w) bool: where an entry has any weight in ComfyUI's mean over the entries."""
    found = torch.zeros(1, *latent, dtype=torch.bool)
    height, width, top, left = partial_area(options, latent) or (*latent, 0, 0)
    found[:, top : top + height, left : left + width] = options.get("strength", 1.0) != 0
    if "mask" in options:
        resolved = [{"mask": options["mask"]}]
        comfy.samplers.resolve_areas_and_cond_masks_multidim(resolved, latent, torch.device("cpu"))
        mask = resolved[0]["mask"].reshape(-1, *latent) * options.get("mask_strength", 1.0)
        found = found & comfy.utils.repeat_to_batch_size(mask != 0, pictures)
    return found


def _gap(entries: Sequence[dict[str, Any]], sampling: Any, sigmas: Sequence[float]) -> float | None:
    """The first level at which no entry is active."""
    return next((sigma for sigma in sigmas if not any(is_active(one, sampling, sigma) for one in entries)), None)


def _ranges(entries: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{o.get('start_percent', 0.0):g} to {o.get('end_percent', 1.0):g}" for o in entries)


def check_sees_picture(
    name: str, conditioning: Conditioning, latent: tuple[int, int], sampling: Any, sigmas: Sequence[float], why: str
) -> None:
    """Refuse CONDITIONING with which the maps of a part token could not be read.

    Args:
        name: the input, for messages.
        latent: (h, w) of the latent.
        sampling: the model's ``model_sampling``.
        sigmas: levels at which maps are read.
        why: what reads the maps and what to do instead; the end of the message.

    Raises:
        ValueError: at one of the levels, no entry that covers the whole image is active.
    """
    areas = [partial_area(options, latent) for _, options in conditioning]
    whole = [options for (_, options), area in zip(conditioning, areas) if not area]
    if not whole:
        height, width, top, left = areas[0]
        raise ValueError(
            f"{name}: covers only part of the image ({width} x {height} of {latent[1]} x {latent[0]} latent "
            f"pixels, from {left}, {top}). {why}"
        )
    if (sigma := _gap(whole, sampling, sigmas)) is not None:
        raise ValueError(
            f"{name}: is not active at sigma {sigma:.3g}; the timestep ranges of its entries are {_ranges(whole)}. "
            f"Remove the range, or make the entries cover all steps. {why}"
        )
