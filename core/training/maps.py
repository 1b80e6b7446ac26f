"""Attention maps of token rows, computed from cached queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from ..partedit.masks import normalise, threshold
from ..partedit.tokens import padded_rows
from ..unet import LayerKey
from .query_cache import QueryCache


def part_logits(cache: QueryCache, rows: torch.Tensor, pictures: Sequence[int]) -> Iterator[torch.Tensor]:
    """For each layer, q·k / √d of the token rows (R, D): (n, T, heads, R, h·w)."""
    for layer in cache.layers:
        stored = cache.queries[layer]
        index = torch.as_tensor(list(pictures), device=stored.device)
        queries = stored.index_select(0, index).to(rows.device, non_blocking=True).float()
        queries = queries.unflatten(-1, (cache.heads[layer], -1))
        keys = (rows @ cache.key_weights[layer].to(rows.device)).unflatten(-1, (cache.heads[layer], -1))
        yield torch.einsum("ntqhd,rhd->nthrq", queries, keys) * queries.shape[-1] ** -0.5


def layer_maps(
    cache: QueryCache,
    rows: torch.Tensor,
    pictures: Sequence[int],
    padding: str = "background",
    text: torch.Tensor | None = None,
) -> Iterator[tuple[LayerKey, torch.Tensor, torch.Tensor]]:
    """For each layer, its key and the maps of the parts and of everything else at each noise level.

    softmax(q·kᵀ/√d) over the context's rows, averaged over heads: p, the part columns, and 1 - p, each
    (n, T, P, h, w) on the layer's own grid. 1 - p is summed from the other columns instead of subtracted, so that it is
    exact near 0, where its logarithm is taken.

    Args:
        rows: (1 + P, D), background first.
        padding, text: the context's other rows, see `padded_rows`; ``text`` is (L, D).
    """
    context, log_counts = padded_rows(rows, padding, text)
    shift, parts = log_counts.to(rows)[:, None], slice(1, rows.shape[0])
    others = 1 - torch.eye(context.shape[0], device=rows.device)[parts]
    for layer, logits in zip(cache.layers, part_logits(cache, context, pictures), strict=True):
        probability = torch.softmax(logits + shift, dim=-2).mean(dim=2)
        grid = cache.grids[layer]
        yield layer, probability[:, :, parts].unflatten(-1, grid), (others @ probability).unflatten(-1, grid)


def cached_part_maps(
    cache: QueryCache,
    rows: torch.Tensor,
    pictures: Sequence[int],
    padding: str = "background",
    size: tuple[int, int] | None = None,
    text: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention maps of the part rows: (n, P, h, w), each value a probability; see `cached_part_and_other_maps`."""
    return cached_part_and_other_maps(cache, rows, pictures, padding, size, text)[0]


def cached_part_and_other_maps(
    cache: QueryCache,
    rows: torch.Tensor,
    pictures: Sequence[int],
    padding: str = "background",
    size: tuple[int, int] | None = None,
    text: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention maps of the part rows, and of everything but them: p and 1 - p, each (n, P, h, w).

    Those of `layer_maps`, averaged over noise levels, resized (bilinear) to ``size`` (the finest layer's grid by
    default) and averaged over layers.
    """
    size = size or cache.finest_grid
    total: torch.Tensor | None = None
    for layer, parts, others in layer_maps(cache, rows, pictures, padding, text):
        both = torch.cat([parts, others], dim=2).mean(dim=1)
        if cache.grids[layer] != size:
            both = F.interpolate(both, size=size, mode="bilinear", align_corners=False)
        total = both if total is None else total + both
    assert total is not None
    parts, rest = (total / len(cache.layers)).chunk(2, dim=1)
    return parts, rest


def otsu_regions(maps: torch.Tensor) -> torch.Tensor:
    """Where each map of (…, H, W) shows its part: (…, H, W) bool, by Otsu's threshold of the normalised map."""
    return (threshold(normalise(maps.float()).flatten(0, -3), "otsu")[0] > 0.5).view(maps.shape)


def map_iou(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """IoU per part (P,) of maps (n, P, h, w) with masks (n, P, H, W); see `otsu_regions`."""
    resized = F.interpolate(maps.float(), size=masks.shape[-2:], mode="bilinear", align_corners=False).cpu()
    regions, truth = otsu_regions(resized), masks.cpu() > 0.5
    result = torch.zeros(masks.shape[:2])
    for picture in range(masks.shape[0]):
        for part in range(masks.shape[1]):
            found, wanted = regions[picture, part], truth[picture, part]
            union = (found | wanted).sum()
            result[picture, part] = 1.0 if union == 0 else (found & wanted).sum() / union
    return result.mean(dim=0)


def best_seen(maps: torch.Tensor, masks: torch.Tensor) -> int:
    """The picture on which the maps (n, P, h, w) agree best with the masks (n, P, H, W), by `map_iou`."""
    return max(range(len(maps)), key=lambda n: float(map_iou(maps[n : n + 1], masks[n : n + 1]).mean()))
