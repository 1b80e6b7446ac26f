"""A run as it can be looked at while it goes on: masks and predicted images of each step, as small pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..latents import process_latent_in
from ..pictures import encoded

# Edited images that are shown; a run of more shows the first ones.
VIEWS = 8
# Longest side of a shown mask and of a predicted image, in pixels; a latent of SDXL's standard size has 128.
SIDE = 128
# Masks kept for one edited image: a longer run keeps every second, every third step and so on.
KEPT = 100

# Lower end, Otsu's k (or what stands for it), upper end of the soft range of a mask, in units of the part map.
Band = tuple[float, float, float]


@dataclass(frozen=True)
class StepView:
    """A step that has been evaluated.

    Attributes:
        step, steps: of this pass, counted from 0.
        first: number of the first edit of this pass.
        edits: N of the whole run.
        masks: (n, B, H, W) masks after this step, 0 … 1 on the CPU; None while there are none.
        bands: for each of the n edits and B images, where the mask is soft; None for a mask that was given.
        x0: ((1 + n)·B, C, h, w) predicted latents in model space, source rows first.
    """

    step: int
    steps: int
    first: int
    edits: int
    masks: torch.Tensor | None
    bands: list[list[Band | None]]
    x0: torch.Tensor

    @property
    def batch(self) -> int:
        """B."""
        return self.x0.shape[0] // (1 + len(self.bands))


Watch = Callable[[StepView], None]


@dataclass(frozen=True)
class Snapshot:
    """A step as small pictures, uint8.

    Attributes:
        places, bands: of the edited images shown.
        masks: (h, w) of each, or empty.
        images: (h, w, 3) predicted image of each; None where the latent format has no preview colours.
    """

    places: list[int]
    bands: list[Band | None]
    masks: list[np.ndarray]
    images: list[np.ndarray] | None

    def encoded(self) -> dict[str, Any]:
        """For a page: the masks as one PNG and the images as one JPEG, side by side; None where there are none."""
        return {
            "places": self.places,
            "bands": self.bands,
            "mask": encoded(np.concatenate(self.masks, axis=1), "PNG") if self.masks else None,
            "image": encoded(np.concatenate(self.images, axis=1), "JPEG") if self.images else None,
        }


@dataclass
class _Kept:
    steps: list[int] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    bands: list[Band | None] = field(default_factory=list)

    def add(self, step: int, mask: np.ndarray, band: Band | None, every: int, last: bool) -> None:
        if self.steps and self.steps[-1] == step:
            for column in (self.steps, self.masks, self.bands):
                column.pop()
        if step % every == 0 or last:
            self.steps.append(step)
            self.masks.append(mask)
            self.bands.append(band)


class StepPictures:
    """Collects the masks of a run and turns steps into pictures.

    An edited image is called by its place, edit by edit: edit e of image b of B has place e·B + b.

    Args:
        model: a ``ModelPatcher``; its latent format tells how a latent looks.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        form = model.get_model_object("latent_format")
        self._factors, self._bias = form.latent_rgb_factors, getattr(form, "latent_rgb_factors_bias", None)
        self._kept: dict[int, _Kept] = {}

    def add(self, view: StepView) -> None:
        """Keep the masks of a step."""
        every, last = math.ceil(view.steps / KEPT), view.step + 1 == view.steps
        for place, mask, band in self._masks(view):
            self._kept.setdefault(place, _Kept()).add(view.step, mask, band, every, last)

    def snapshot(self, view: StepView) -> Snapshot:
        """What a page is shown of this step, in plain numbers, so that `Snapshot.encoded` can run in another thread."""
        masks = list(self._masks(view))
        places = [place for place, _, _ in masks] or list(_places(view))
        rows = [view.batch + place - view.first * view.batch for place in places]
        colours = self._colours(view.x0[rows]) if rows else None
        bands = [band for _, _, band in masks] or [None] * len(places)
        return Snapshot(places, bands, [mask for _, mask, _ in masks], None if colours is None else list(colours))

    def strip(self) -> dict[str, Any] | None:
        """All masks of the run in one picture; None for a run without masks.

        Returns:
            mask: PNG bytes, a row for each step and a column for each edited image; steps: their numbers, from 0;
            bands: for each step and edited image; size: (width, height) of one mask.
        """
        columns = [self._kept[place] for place in sorted(self._kept)]
        if not columns or not columns[0].masks:
            return None
        count = min(len(column.masks) for column in columns)
        rows = [np.concatenate([column.masks[row] for column in columns], axis=1) for row in range(count)]
        height, width = columns[0].masks[0].shape
        return {
            "mask": encoded(np.concatenate(rows), "PNG"),
            "steps": columns[0].steps[:count],
            "bands": [[column.bands[row] for column in columns] for row in range(count)],
            "size": [width, height],
        }

    def latent_pictures(self, latent: torch.Tensor) -> torch.Tensor | None:
        """LATENT samples (n, C, h, w) in preview colours, (n, h, w, 3) in 0 … 1; None where the format has none."""
        if self._factors is None:
            return None
        return self._rgb(process_latent_in(self._model, latent))

    def _masks(self, view: StepView) -> list[tuple[int, np.ndarray, Band | None]]:
        if view.masks is None:
            return []
        flat = view.masks.flatten(0, 1)[: len(_places(view))].float().clamp(0, 1)
        shown = (_shrunk(flat[:, None])[:, 0] * 255).round().to(torch.uint8).numpy()
        bands = [band for edit in view.bands for band in edit]
        return list(zip(_places(view), shown, bands))

    def _colours(self, latent: torch.Tensor) -> np.ndarray | None:
        if self._factors is None:
            return None
        rgb = self._rgb(latent.float())
        shrunk = _shrunk(rgb.movedim(-1, 1)).movedim(1, -1)
        return (shrunk * 255).round().to(torch.uint8).cpu().numpy()

    def _rgb(self, latent: torch.Tensor) -> torch.Tensor:
        weight = torch.tensor(self._factors, dtype=latent.dtype, device=latent.device).T
        bias = None if self._bias is None else torch.tensor(self._bias, dtype=latent.dtype, device=latent.device)
        rgb = torch.nn.functional.linear(latent.movedim(1, -1), weight, bias)
        return ((rgb + 1) / 2).nan_to_num().clamp(0, 1)


def _places(view: StepView) -> range:
    start = view.first * view.batch
    return range(start, max(start, min(start + len(view.bands) * view.batch, VIEWS)))


def _shrunk(pictures: torch.Tensor) -> torch.Tensor:
    """(n, C, h, w) with no side above SIDE."""
    height, width = pictures.shape[-2:]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return pictures
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return torch.nn.functional.interpolate(pictures, size=size, mode="area")


def band_of(threshold: str, omega: float, level: float) -> Band | None:
    """Where `masks.threshold` leaves a mask soft, from the threshold it gave back; None for ``none``."""
    if threshold == "none" or not math.isfinite(level):
        return None
    return (level / 2, level, omega * level) if threshold == "adaptive" else (level, level, level)


def bands_of(levels: Sequence[Sequence[float]], threshold: str, omega: float) -> list[list[Band | None]]:
    """`band_of` for each group of parts and each image."""
    return [[band_of(threshold, omega, level) for level in group] for group in levels]
