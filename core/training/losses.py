"""Losses between attention maps and masks: per layer and summed (paper), or on their mean map (pack)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from ..partedit.masks import normalise
from .maps import cached_part_and_other_maps, layer_maps
from .query_cache import QueryCache
from .settings import TrainingSettings

TINY = 1e-30  # keeps the logarithm finite where a probability is 0


def masks_by_grid(cache: QueryCache, masks: torch.Tensor) -> dict[tuple[int, int], torch.Tensor]:
    """Masks (N, P, H, W) resized by area to the grid of each layer in the cache: {(h, w): (N, P, h, w)}."""
    return {grid: F.interpolate(masks, size=grid, mode="area") for grid in sorted(set(cache.grids.values()))}


def token_loss(
    cache: QueryCache,
    rows: torch.Tensor,
    targets: Mapping[tuple[int, int], torch.Tensor],
    chosen: Sequence[int],
    settings: TrainingSettings,
    text: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of rows (1 + P, D) on some images, by ``settings.recipe``; see `TrainingSettings`.

    Args:
        targets: see `masks_by_grid`. chosen: indices of the images.
        text: (L, D) embedding of the prompt, for the paddings that need it.
    """
    padding, index = settings.trained_padding, list(chosen)
    if settings.recipe == "pack":
        maps, others = cached_part_and_other_maps(cache, rows, index, padding, text=text)
        return map_loss(maps, others, targets[cache.finest_grid][index], settings.loss)
    total = rows.new_zeros(())
    for layer, maps, others in layer_maps(cache, rows, index, padding, text):
        levels = maps.shape[1]
        target = targets[cache.grids[layer]][index].repeat_interleave(levels, dim=0)
        # The mean over images and levels, times the levels: the sum over levels of the mean over images.
        total = total + levels * map_loss(maps.flatten(0, 1), others.flatten(0, 1), target, settings.loss)
    return total


def map_loss(maps: torch.Tensor, others: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
    """Mean loss of maps p, their complements 1 - p, and masks, all (n, P, h, w).

    Args:
        kind: one of `settings.LOSSES`.
    """
    if kind == "l2":
        return F.mse_loss(maps, target)
    # torch's own cross-entropy has no gradient below 1e-12, so a token that once missed could not recover.
    loss = -(target * (maps + TINY).log() + (1 - target) * (others + TINY).log()).mean()
    return loss + dice_loss(normalise(maps), target) if kind == "bce_dice" else loss


def dice_loss(maps: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 − soft Dice overlap (Milletari et al. 2016, V-Net; linear), the mean over maps (n, P, h, w) in 0..1.

    A small part counts as much as a large one; the 1 keeps the loss defined for an empty mask.
    """
    overlap = (maps * target).sum(dim=(-2, -1))
    return (1 - (2 * overlap + 1) / (maps.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1)) + 1)).mean()
