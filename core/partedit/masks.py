"""From attention maps to masks: aggregation over layers, normalisation, thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..latents import check_sampled
from ..mask_inputs import EMPTY, mask_batch, one_per_picture

THRESHOLDS = ("adaptive", "otsu", "fixed", "none")
OTSU_BINS = 256
# The published code resizes every map to this size before thresholding.
PUBLISHED_SIZE = 1024
_EPS = 1e-6
# Fraction of a map's peak by which it must vary. Less is rounding, or a token whose rows are all equal.
LEAST_CONTRAST = 1e-3


class MapSum:
    """Sums part maps over layers, at each layer's own resolution.

    Bilinear resizing is linear, so summing first and resizing each resolution once equals resizing every layer.

    With several parts, each layer's maps are normalised jointly: shifted by their own minimum and divided by
    (joint maximum − own minimum), so that a part with weak attention is not drowned out and one with none is not
    boosted. Where only some parts are read in a layer, they are normalised among themselves.

    Args:
        parts: P.
    """

    def __init__(self, parts: int) -> None:
        self._sums: dict[tuple[int, int], torch.Tensor] = {}
        self._layers = [0] * parts

    @property
    def complete(self) -> bool:
        """Whether every part has been read in at least one layer."""
        return all(self._layers)

    def add(self, maps: torch.Tensor, parts: Sequence[int]) -> None:
        """``maps``: (B, p, h, w) of one layer, already summed over heads; ``parts``: the indices of these p parts."""
        count = len(self._layers)
        if count > 1:
            low = maps.amin(dim=(2, 3), keepdim=True)
            high = maps.amax(dim=(1, 2, 3), keepdim=True)
            maps = (maps - low) / (high - low + _EPS)
        grid = (maps.shape[-2], maps.shape[-1])
        if len(parts) < count:
            some, maps = maps, maps.new_zeros(maps.shape[0], count, *grid)
            for number, part in enumerate(parts):
                maps[:, part] = some[:, number]
        self._sums[grid] = self._sums[grid] + maps if grid in self._sums else maps
        for part in parts:
            self._layers[part] += 1

    def mean(self, size: tuple[int, int]) -> torch.Tensor:
        """(B, P, H, W) mean of each part over the layers it was read in, resized to ``size``."""
        total = sum(resize(one, size) for one in self._sums.values())
        return total / torch.tensor(self._layers, dtype=total.dtype, device=total.device)[:, None, None]


def map_size(latent: tuple[int, int], published: bool) -> tuple[int, int]:
    """Size (H, W) at which maps are thresholded: the latent's, or 1024 on the longer side as in the published code."""
    if not published:
        return latent
    longer = max(latent)
    return max(1, round(PUBLISHED_SIZE * latent[0] / longer)), max(1, round(PUBLISHED_SIZE * latent[1] / longer))


def resize(maps: torch.Tensor, size: tuple[int, int], antialias: bool = False) -> torch.Tensor:
    """(B, P, h, w) → (B, P, *size), bilinear.

    With ``antialias`` it runs on the CPU, because Apple's GPUs do not support it.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if not antialias:
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return F.interpolate(maps.cpu(), size=size, mode="bilinear", align_corners=False, antialias=True).to(maps.device)


def normalise(maps: torch.Tensor) -> torch.Tensor:
    """Each map of (…, H, W), scaled from its minimum (0) to its maximum (1)."""
    low = maps.amin(dim=(-2, -1), keepdim=True)
    return (maps - low) / (maps.amax(dim=(-2, -1), keepdim=True) - low + _EPS)


def flat(maps: torch.Tensor) -> torch.Tensor:
    """(…, 1, 1) bool: which maps (…, H, W) in 0 … 1 are constant, to within half a step of 8 bits."""
    return maps.amax(dim=(-2, -1), keepdim=True) - maps.amin(dim=(-2, -1), keepdim=True) < EMPTY


def stretch(masks: torch.Tensor) -> torch.Tensor:
    """Like `normalise`, but a flat mask, which has no contrast to stretch, keeps its value."""
    return torch.where(flat(masks), masks, normalise(masks))


def otsu(values: torch.Tensor) -> float:
    """Otsu's threshold k of one map (any shape), 256 bins (Otsu 1979, by scikit-image). A flat map gives its value."""
    from skimage.filters import threshold_otsu

    low, high = float(values.min()), float(values.max())
    if high <= low:
        return low
    # Counted on the map's device: a 1024² map need not be copied to host memory at every step.
    counts = torch.histc(values.float(), bins=OTSU_BINS, min=low, max=high).cpu().numpy()
    edges = np.linspace(low, high, OTSU_BINS + 1)
    return float(threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2)))


def threshold(
    maps: torch.Tensor, method: str, omega: float = 1.5, fixed: float = 0.5
) -> tuple[torch.Tensor, list[float]]:
    """Turn soft maps into masks, each on its own.

    A flat map has no two classes to separate, so no Otsu threshold: ``adaptive`` leaves it as it is, ``otsu`` rounds it
    at one half. With every method, an empty map stays empty and a full one full.

    Args:
        maps: (B, H, W) in 0 … 1.
        method: ``adaptive``: 0 below k/2, the map's own value between, 1 from ωk on, with Otsu's k (PartEdit, Eq. 5);
            ``otsu``: 1 from k on; ``fixed``: 1 from ``fixed`` on; ``none``: the map as it is. A value at
            the threshold belongs to the part, as in the paper; 0 never does.
        omega: ω ≥ 0.5. Larger keeps more of the part soft.
        fixed: threshold of ``fixed``.

    Returns:
        The masks (B, H, W), and each map's threshold: Otsu's k, or for a flat map its value (``adaptive``) or one half
        (``otsu``); ``fixed``; 0 for ``none``.

    Raises:
        ValueError: an unknown method or an ω below 0.5.
    """
    if method not in THRESHOLDS:
        raise ValueError(f"threshold: {method!r} is not one of {', '.join(THRESHOLDS)}.")
    check_omega(method, omega)
    if method == "none":
        return maps, [0.0] * maps.shape[0]
    even = flat(maps)
    if method == "fixed":
        levels = [fixed] * maps.shape[0]
    else:
        of_flat = [0.5] * maps.shape[0] if method == "otsu" else maps.flatten(1).mean(dim=1).tolist()
        levels = [value if same else otsu(one) for one, same, value in zip(maps, even.flatten().tolist(), of_flat)]
    k = torch.tensor(levels, dtype=maps.dtype, device=maps.device).reshape(-1, 1, 1)
    if method == "adaptive":
        found = torch.where(maps < k / 2, torch.zeros_like(maps), maps)
        found = torch.where((maps >= omega * k) & ~even, torch.ones_like(maps), found)
    else:
        found = ((maps >= k) & (maps > 0)).to(maps.dtype)
    found = torch.where(even & (maps < EMPTY), torch.zeros_like(maps), found)
    return torch.where(even & (maps > 1 - EMPTY), torch.ones_like(maps), found), levels


def check_found(maps: torch.Tensor, within: str = "") -> None:
    """Refuse part maps in which a token found nothing: after stretching, their rounding noise would pass for a part.
    And maps of a model that overflows, which have no threshold.

    Args:
        maps: (B, H, W), not normalised, all values ≥ 0.
        within: the input they were multiplied with, if any.

    Raises:
        ValueError: a map is constant, and the message names the image; or it is not finite.
    """
    low, high = torch.stack([maps.amin(dim=(-2, -1)), maps.amax(dim=(-2, -1))]).cpu()  # together: one wait
    check_sampled(high - low, "the attention to the part token")
    nothing = [number for number, even in enumerate((high - low <= LEAST_CONTRAST * high).tolist(), start=1) if even]
    if nothing:
        where = f" inside {within}" if within else ""
        grow = f"Grow {within}, use" if within else "Use"
        raise ValueError(
            f"part_token: found nothing{where} in image {', '.join(map(str, nothing))} of {len(maps)}: its attention "
            f"is the same everywhere. {grow} other layers or another token, or give a mask instead."
        )


def check_omega(method: str, omega: float) -> None:
    """Raise a ValueError for an ω that the adaptive threshold cannot use."""
    if method == "adaptive" and omega < 0.5:
        raise ValueError(
            f"omega: {omega} is below 0.5, so the upper threshold omega·k would be below the lower one, k/2. Give 0.5 "
            "or more."
        )


def fit_mask(mask: torch.Tensor, batch: int, size: tuple[int, int], name: str) -> torch.Tensor:
    """A ComfyUI MASK as (batch, 1, *size) on the CPU: resized, and repeated if it is a single mask.

    Raises:
        ValueError: see `mask_inputs.mask_batch` and `mask_inputs.one_per_picture`.
    """
    masks = one_per_picture(mask_batch(mask, name), batch, name)
    return resize(masks[:, None], size, antialias=True).clamp(0, 1)


def union(masks: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    """Sum of masks, limited to 1."""
    total = sum(masks[1:], masks[0])
    return total.clamp(max=1.0)
