"""From user inputs (images, masks, a word) to what training takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..encoding import warned_once
from ..mask_inputs import check_shape, mask_batch

_MULTIPLE = 8  # pixels per latent pixel; a VAE crops the remainder, and masks must be cropped the same way


def part_names(text: str, count: int) -> tuple[str, ...]:
    """Names separated by commas, one for each connected mask input.

    Raises:
        ValueError: too few, too many, or the same twice.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if len(names) != count or len(set(names)) != count:
        raise ValueError(
            f"part_names: {text!r} gives {len(set(names))} different names for {count} connected mask inputs. Write "
            "one name per part, separated by commas, all different."
        )
    return names


def paired(
    images: torch.Tensor,
    masks: Sequence[torch.Tensor],
    inputs: Sequence[str] = ("masks", "masks_2", "masks_3", "masks_4"),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and masks of the same size, centre-cropped to whole latent pixels.

    Args:
        images: (N, H, W, 3) from `checked_images`.
        masks: for each part (N, h, w); other resolutions are resized, with the same aspect ratio.
        inputs: what each of them is connected to, for messages.

    Returns:
        (N, H', W', 3) and (N, P, H', W').

    Raises:
        ValueError: counts or aspect ratios differ.
    """
    count, height, width = images.shape[:3]
    resized = []
    for name, mask in zip(inputs, masks, strict=False):
        mask = mask_batch(mask, name)
        if mask.shape[0] != count:
            raise ValueError(f"{name}: expected {count} masks, one per image, got {mask.shape[0]}.")
        check_shape((mask.shape[-2], mask.shape[-1]), (height, width), name, spare=0)
        if tuple(mask.shape[-2:]) != (height, width):
            mask = F.interpolate(mask[None], (height, width), mode="bilinear", antialias=True)[0].clamp(0, 1)
        resized.append(mask)
    new_height, new_width = height // _MULTIPLE * _MULTIPLE, width // _MULTIPLE * _MULTIPLE
    top, left = (height - new_height) // 2, (width - new_width) // 2
    window = (slice(top, top + new_height), slice(left, left + new_width))
    return images[:, window[0], window[1], :3], torch.stack(resized, dim=1)[:, :, window[0], window[1]]


def encode_pictures(vae: Any, images: torch.Tensor, progress: Callable[[int, int], None] | None = None) -> torch.Tensor:
    """(N, C, h, w) latents, encoded one by one, so that many images take no more memory than one."""
    latents = []
    for index, image in enumerate(images):
        if progress is not None:
            progress(index, images.shape[0])
        latents.append(vae.encode(image[None, ..., :3]).cpu())
    return torch.cat(latents)


def word_rows(clip: Any, words: Sequence[str]) -> torch.Tensor:
    """(P, D) text-encoder outputs of words, to start training from; for a word of several tokens, their mean.

    Args:
        clip: a ComfyUI CLIP. words: one per part.
    """
    rows = []
    for word in words:
        with warned_once():
            tokens = clip.tokenize(word)
        content = _content_length(next(iter(tokens.values()))[0], clip)
        states = clip.encode_from_tokens_scheduled(tokens)[0][0]
        rows.append(states[0, 1 : 1 + content].float().cpu().mean(dim=0))
    return torch.stack(rows)


def _content_length(row: Sequence[tuple[Any, ...]], clip: Any) -> int:
    """Number of tokens between the start token and the padding: those that differ from the row of an empty text."""
    empty = next(iter(clip.tokenize("").values()))[0]
    numbers, plain = ([entry[0] for entry in tokens] for tokens in (row, empty))
    end = plain[1]
    length = next((index for index, number in enumerate(numbers[1:]) if number == end), len(numbers) - 1)
    return max(1, length)
