"""From attention maps to masks: aggregation over layers, normalisation, thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

THRESHOLDS = ("adaptive", "otsu", "fixed", "none")
OTSU_BINS = 256
# The published code resizes every map to this size before it looks for a threshold.
PUBLISHED_SIZE = 1024
_EPS = 1e-6


class MapSum:
    """Sums part maps over layers, at each layer's own resolution.

    Bilinear resizing is linear, so summing first and resizing each resolution once equals resizing every layer.

    With several parts, each layer's maps are normalised jointly: shifted by their own minimum and divided by
    (joint maximum − own minimum), so that a part with weak attention is not drowned and one with none does not grow.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int], torch.Tensor] = {}
        self.layers = 0

    def add(self, maps: torch.Tensor) -> None:
        """``maps``: (B, P, h, w) of one layer, already summed over heads."""
        if maps.shape[1] > 1:
            low = maps.amin(dim=(2, 3), keepdim=True)
            high = maps.amax(dim=(1, 2, 3), keepdim=True)
            maps = (maps - low) / (high - low + _EPS)
        grid = (maps.shape[-2], maps.shape[-1])
        self._sums[grid] = self._sums[grid] + maps if grid in self._sums else maps
        self.layers += 1

    def mean(self, size: tuple[int, int]) -> torch.Tensor:
        """(B, P, H, W) mean over the layers, resized to ``size``."""
        return sum(resize(total, size) for total in self._sums.values()) / self.layers


def map_size(latent: tuple[int, int], published: bool) -> tuple[int, int]:
    """Size (H, W) at which maps are thresholded: the latent's, or 1024 on the longer side as in the published code."""
    if not published:
        return latent
    longer = max(latent)
    return max(1, round(PUBLISHED_SIZE * latent[0] / longer)), max(1, round(PUBLISHED_SIZE * latent[1] / longer))


def resize(maps: torch.Tensor, size: tuple[int, int], antialias: bool = False) -> torch.Tensor:
    """(B, P, h, w) → (B, P, *size), bilinear."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=antialias)


def normalise(maps: torch.Tensor) -> torch.Tensor:
    """Each map of (…, H, W) from its minimum (0) to its maximum (1)."""
    low = maps.amin(dim=(-2, -1), keepdim=True)
    return (maps - low) / (maps.amax(dim=(-2, -1), keepdim=True) - low + _EPS)


def otsu(values: torch.Tensor) -> float:
    """Otsu's threshold k of one map (any shape), 256 bins (Otsu 1979, by scikit-image). A flat map gives its value."""
    from skimage.filters import threshold_otsu

    low, high = float(values.min()), float(values.max())
    if high <= low:
        return low
    # Counted where the map lies: a 1024² map need not travel to host memory at every step.
    counts = torch.histc(values.float(), bins=OTSU_BINS, min=low, max=high).cpu().numpy()
    edges = np.linspace(low, high, OTSU_BINS + 1)
    return float(threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2)))


def threshold(
    maps: torch.Tensor, method: str, omega: float = 1.5, fixed: float = 0.5
) -> tuple[torch.Tensor, list[float]]:
    """Turn soft maps into masks.

    Args:
        maps: (B, H, W) in 0 … 1.
        method: ``adaptive``: 0 below k/2, the map's own value between, 1 from ωk on, with Otsu's k (PartEdit, Eq. 6);
            ``otsu``: 1 above k; ``fixed``: 1 above ``fixed``; ``none``: the map as it is.
        omega: ω ≥ 0.5. Larger keeps more of the part soft.
        fixed: threshold of ``fixed``.

    Returns:
        The masks (B, H, W), and each map's threshold (k, or ``fixed``; 0 for ``none``).

    Raises:
        ValueError: an unknown method or an ω below 0.5.
    """
    if method not in THRESHOLDS:
        raise ValueError(f"threshold: {method!r} is not one of {', '.join(THRESHOLDS)}.")
    check_omega(method, omega)
    if method == "none":
        return maps, [0.0] * maps.shape[0]
    if method == "fixed":
        return (maps > fixed).to(maps.dtype), [fixed] * maps.shape[0]
    levels = [otsu(one) for one in maps]
    k = torch.tensor(levels, dtype=maps.dtype, device=maps.device).reshape(-1, 1, 1)
    if method == "otsu":
        return (maps > k).to(maps.dtype), levels
    soft = torch.where(maps < k / 2, torch.zeros_like(maps), maps)
    return torch.where(maps >= omega * k, torch.ones_like(maps), soft), levels


def check_omega(method: str, omega: float) -> None:
    """Raise a ValueError for an ω that the adaptive threshold cannot work with."""
    if method == "adaptive" and omega < 0.5:
        raise ValueError(f"omega: {omega} is below 0.5, where 'certainly the part' would begin below 'certainly not'.")


def fit_mask(mask: torch.Tensor, batch: int, size: tuple[int, int], name: str) -> torch.Tensor:
    """A ComfyUI MASK as (batch, 1, *size): resized, and repeated when it holds a single mask.

    Raises:
        ValueError: not a mask, values outside 0 … 1, or a number of masks that fits neither 1 nor the batch.
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim != 3:
        raise ValueError(f"{name}: expected a MASK of shape (batch, height, width), got {tuple(mask.shape)}.")
    if mask.shape[0] not in (1, batch):
        raise ValueError(
            f"{name}: holds {mask.shape[0]} masks for {batch} pictures. Give one mask, or one for each picture."
        )
    mask = mask.float()
    if not bool(torch.isfinite(mask).all()) or float(mask.min()) < 0 or float(mask.max()) > 1:
        raise ValueError(f"{name}: values must lie between 0 and 1, got {float(mask.min())} to {float(mask.max())}.")
    return resize(mask.expand(batch, -1, -1)[:, None], size, antialias=True).clamp(0, 1)


def union(masks: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    """Sum of masks, limited to 1."""
    total = sum(masks[1:], masks[0])
    return total.clamp(max=1.0)
