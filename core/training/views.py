"""A training run as it can be looked at while it goes on: curves of few points, part maps over small images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from .plots import overlays, smoothed
from .settings import TrainingReport

# Evaluated images that are shown while training goes on.
VIEWS = 4
# Longest side of a shown image, in pixels; points of a shown curve.
SIDE, POINTS = 256, 200


@dataclass(frozen=True)
class TrainingView:
    """A run after a step.

    Attributes:
        step: steps taken, of ``steps``.
        report: of the run so far; it grows on with it.
        best_step: whose token would be returned now.
        pictures: indices of the evaluated images, `VIEWS` at most.
        maps: (n, P, h, w) part maps of these images on the CPU, 0..1; None if this step was not evaluated.
    """

    step: int
    steps: int
    report: TrainingReport
    best_step: int
    pictures: list[int]
    maps: torch.Tensor | None


Watch = Callable[[TrainingView], None]


def curves(report: TrainingReport, most: int = POINTS) -> dict[str, Any]:
    """The curves of a run, for a page.

    Returns:
        ``losses``: [step, smoothed loss], ``evaluations``: [step, training IoU, held-out IoU or None]; ``most`` points
        at most of each, evenly spaced, the last among them.
    """
    losses = smoothed(list(report.losses))
    evaluations = list(report.evaluations)
    return {
        "losses": [[place + 1, losses[place]] for place in _spread(len(losses), most)],
        "evaluations": [list(evaluations[place]) for place in _spread(len(evaluations), most)],
    }


def _spread(count: int, most: int) -> list[int]:
    """Places of at most ``most`` of ``count`` entries, counted back from the last."""
    every = max(1, -(-count // most))
    return list(range(count - 1, -1, -every))[::-1]


class SmallOverlays:
    """Evaluated images, shrunk once; `draw` lays part maps over them.

    Args:
        images: (N, H, W, 3), 0..1. masks: (N, P, H, W).
    """

    def __init__(self, images: torch.Tensor, masks: torch.Tensor) -> None:
        self._images, self._masks = images, masks
        self._small: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def draw(self, chosen: Sequence[int], maps: torch.Tensor) -> torch.Tensor:
        """(n, h, w, 3); see `plots.overlays`. ``maps``: (n, P, h, w) of the chosen images."""
        for index in chosen:
            if index not in self._small:
                self._small[index] = self._shrunk(index)
        small = [self._small[index] for index in chosen]
        return overlays([image for image, _ in small], maps, torch.stack([mask for _, mask in small]))

    def _shrunk(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self._images[index, ..., :3].detach().float().cpu().movedim(-1, 0)[None]
        mask = self._masks[index].detach().float().cpu()[None]
        by = SIDE / max(image.shape[-2:])
        if by < 1:
            size = tuple(max(1, round(side * by)) for side in image.shape[-2:])
            image, mask = F.interpolate(image, size, mode="area"), F.interpolate(mask, size, mode="area")
        return image[0].movedim(0, -1), mask[0]
