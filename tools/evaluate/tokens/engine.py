"""Cached queries, training on them, and IoU: what the token laboratory and the benchmarks of tokens measure with.

Pictures are latents (N, C, h, w), masks (N, 1, H, W) or truth (N, H, W) bool. Everything needs the pack to be loaded
(`tools.bootstrap.load_pack`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def iou(found: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """(N,) intersection over union of boolean (N, H, W) masks; 1 where both are empty."""
    union = (found | true).flatten(1).sum(1)
    return torch.where(union == 0, 1.0, (found & true).flatten(1).sum(1) / union.clamp(min=1))


def layers_of(model: Any, choice: str) -> tuple[Any, ...]:
    """Keys of the cross-attention layers that a preset or a list of blocks means."""
    from partedit_oir.core.partedit.layers import choose_layers
    from partedit_oir.core.unet import all_cross_layers

    return choose_layers(all_cross_layers(model), choice)


def queries(
    model: Any,
    cond: Any,
    latents: torch.Tensor,
    layers: Sequence[Any],
    noise: Mapping[str, Any],
    seed: int,
    rows: int = 4,
    progress: Any = None,
) -> Any:
    """QueryCache of latents.

    Args:
        cond: CONDITIONING, the empty prompt as a rule.
        noise: ``noise_low``, ``noise_high`` and ``noise_count`` as in TrainingSettings.
        rows: pictures per pass of the model.
    """
    from partedit_oir.core.training.query_cache import build_query_cache, noise_levels

    sigmas = noise_levels(model, noise["noise_low"], noise["noise_high"], noise["noise_count"])
    return build_query_cache(model, latents, cond, layers, sigmas, seed=seed, rows=rows, progress=progress)


def subset(
    cache: Any, layers: Sequence[Any] | None = None, level: int | None = None, pictures: Sequence[int] | None = None
) -> Any:
    """The same cache with some layers, one noise level or some pictures only."""
    kept = cache.layers if layers is None else layers
    pick = slice(None) if level is None else slice(level, level + 1)
    rows = slice(None) if pictures is None else list(pictures)
    return dataclasses.replace(
        cache,
        queries={layer: cache.queries[layer][rows][:, pick] for layer in kept},
        key_weights={layer: cache.key_weights[layer] for layer in kept},
        heads={layer: cache.heads[layer] for layer in kept},
        grids={layer: cache.grids[layer] for layer in kept},
        sigmas=cache.sigmas[pick],
    )


def train(
    cache: Any, masks: torch.Tensor, scale: float, text: torch.Tensor | None = None, **settings: Any
) -> tuple[torch.Tensor, str]:
    """Rows of a token learned from a whole cache, and the padding that they were trained with.

    Args:
        masks: (N, 1, H, W). scale: spread of the rows' first values, that of the prompt's embedding.
        text: (L, D) the prompt's embedding, for the paddings that need it.
        settings: of TrainingSettings.
    """
    from partedit_oir.core.training.settings import TrainingSettings
    from partedit_oir.core.training.training import train_on_cache

    chosen = TrainingSettings(**{"held_out": 0.0, **settings})
    rows, _ = train_on_cache(cache, masks, chosen, init_scale=scale, text=text)
    return rows, chosen.trained_padding


def part_maps(
    cache: Any, rows: torch.Tensor, padding: str, size: tuple[int, int] | None = None, text: torch.Tensor | None = None
) -> torch.Tensor:
    """Maps (N, 1, h, w) of a token in a cache's pictures, averaged over its levels and layers."""
    from partedit_oir.core.training.maps import cached_part_maps

    with torch.no_grad():
        return cached_part_maps(cache, rows, range(cache.pictures), padding, size, text)


def soft_masks(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, H, W) maps at the masks' size, each from 0 to 1."""
    from partedit_oir.core.partedit.masks import normalise

    return normalise(F.interpolate(maps, size, mode="bicubic").clamp(min=0)[:, 0])


def map_ious(maps: torch.Tensor, truth: torch.Tensor, omega: float | None = None) -> dict[str, torch.Tensor]:
    """{threshold: (N,) IoU} of maps (N, 1, h, w): ``adaptive`` (the part from 0.5 on) and ``otsu``.

    Args:
        omega: of the adaptive threshold; None for the pack's default.
    """
    from partedit_oir.core.partedit.masks import threshold

    soft, more = soft_masks(maps, (truth.shape[-2], truth.shape[-1])), {} if omega is None else {"omega": omega}
    each = {"adaptive": threshold(soft, "adaptive", **more)[0], "otsu": threshold(soft, "otsu")[0]}
    return {name: iou(mask >= 0.5, truth) for name, mask in each.items()}


def scores(maps: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Mean of `map_ious` over the pictures."""
    return {name: float(each.mean()) for name, each in map_ious(maps, truth).items()}


def mean_scores(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def level_scores(
    cache: Any,
    rows: torch.Tensor,
    truth: torch.Tensor,
    padding: str,
    size: tuple[int, int] | None = None,
    text: torch.Tensor | None = None,
) -> list[dict[str, float]]:
    """`scores` at each of a cache's noise levels, noisiest first."""
    levels = (subset(cache, level=level) for level in range(len(cache.sigmas)))
    return [scores(part_maps(one, rows, padding, size, text), truth) for one in levels]


def word_columns(clip: Any, prompt: str, word: str) -> list[int]:
    """Positions of a word in a prompt's context.

    Raises:
        ValueError: the prompt does not hold it.
    """

    def numbers(text: str) -> list[int]:
        return [int(entry[0]) for entry in next(iter(clip.tokenize(text).values()))[0]]

    whole, alone, nothing = numbers(prompt), numbers(word), numbers("")
    # Between start and end: what the empty prompt does not have.
    length = next((k for k in range(1, len(alone)) if alone[k] == nothing[1]), len(alone)) - 1
    wanted = alone[1 : 1 + length]
    columns = [
        place + offset
        for place in range(1, len(whole) - length + 1)
        if length and whole[place : place + length] == wanted
        for offset in range(length)
    ]
    if not columns:
        raise ValueError(f"{prompt!r} does not hold the word {word!r}.")
    return columns


def word_maps(
    model: Any,
    clip: Any,
    latents: torch.Tensor,
    prompts: Sequence[str],
    word: str,
    sigmas: Sequence[float],
    seed: int,
    sets: Mapping[str, Sequence[Any]],
) -> dict[str, torch.Tensor]:
    """A word's own cross-attention in noised pictures (DAAM, Tang et al. 2023), each with its own prompt.

    softmax(q·kᵀ/√d) over the whole context of the prompt, the word's columns, averaged over heads, noise levels and
    layers, each layer resized (bilinear) to the latent's size.

    Args:
        latents: (N, C, h, w). prompts: N. sigmas: noise levels. seed: of the noise, other for each picture and level.
        sets: {name: layers}.

    Returns:
        For each of the sets: (N, 1, h, w).
    """
    from partedit_oir.core.training.query_cache import build_query_cache

    size = (latents.shape[-2], latents.shape[-1])
    every = tuple(dict.fromkeys(layer for layers in sets.values() for layer in layers))
    found: dict[str, list[torch.Tensor]] = {name: [] for name in sets}
    texts: dict[str, Any] = {}
    for index, prompt in enumerate(prompts):
        if prompt not in texts:
            with torch.no_grad():
                texts[prompt] = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        cond = texts[prompt]
        columns = word_columns(clip, prompt, word)
        cache = build_query_cache(model, latents[index : index + 1], cond, every, sigmas, seed=seed + index)
        maps = {}
        for layer in cache.layers:
            heads = cache.heads[layer]
            query = cache.queries[layer][0].float().cpu().unflatten(-1, (heads, -1))
            keys = (cond[0][0][0].float().cpu() @ cache.key_weights[layer].cpu()).unflatten(-1, (heads, -1))
            logits = torch.einsum("tqhd,khd->thqk", query, keys) * query.shape[-1] ** -0.5
            seen = logits.softmax(dim=-1)[..., columns].sum(dim=-1).mean(dim=(0, 1))
            maps[layer] = F.interpolate(seen.view(1, 1, *cache.grids[layer]), size, mode="bilinear")
        for name, layers in sets.items():
            found[name].append(torch.stack([maps[layer] for layer in layers]).mean(dim=0))
    return {name: torch.cat(each) for name, each in found.items()}


def inner_point(mask: torch.Tensor) -> torch.Tensor:
    """(1, 2) x, y in pixels of the point of a bool mask (H, W) that is farthest from its border."""
    from scipy.ndimage import distance_transform_edt

    # The picture's own edge is a border, too.
    depth = distance_transform_edt(np.pad(mask.cpu().numpy(), 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return torch.tensor([[float(x), float(y)]])
