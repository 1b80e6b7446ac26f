"""What Train Part Token shows of its run, and the button that ends it early."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import torch

from ..core.pictures import jpeg
from ..core.training.settings import TrainingReport
from ..core.training.views import SmallOverlays, TrainingView, curves
from .live import Page, watching
from .stops import close_stop, open_stop

# Images that are shown at the end, and their longest side in pixels.
SHOWN, SIDE = 8, 512
# Seconds between two messages with overlays.
PAUSE = 0.5


class TrainingBoard:
    """Shows a training; without a page that listens it does nothing. To be used in a ``with`` block.

    Args:
        names: of the parts.
        images: (N, H, W, 3). masks: (N, P, H, W).
    """

    def __init__(self, names: Sequence[str], images: torch.Tensor, masks: torch.Tensor) -> None:
        self._page: Page | None = watching()
        self._names, self._small = list(names), SmallOverlays(images, masks)
        self._maps: tuple[list[int], torch.Tensor] | None = None
        self._drawn = 0.0
        self._asked: threading.Event | None = None

    def __enter__(self) -> TrainingBoard:
        return self

    def __exit__(self, *error: object) -> None:
        if self._page is not None:
            close_stop(*self._page.ids)

    @property
    def watch(self) -> Any:
        """To be called after each step, or None."""
        return None if self._page is None else self._step

    @property
    def stop(self) -> Any:
        """Says whether the training shall end, or None."""
        return None if self._page is None else self._stopped

    def _stopped(self) -> bool:
        return self._asked is not None and self._asked.is_set()

    def _step(self, view: TrainingView) -> None:
        assert self._page is not None
        if self._asked is None:  # not before there is a token to keep
            self._asked = open_stop(*self._page.ids)
        if view.maps is not None:
            self._maps = (view.pictures, view.maps)
        if not self._page.free():
            return
        maps = None
        if time.monotonic() - self._drawn >= PAUSE:
            maps, self._maps = self._maps, None
        if maps is not None:
            self._drawn = time.monotonic()
        about = {"step": view.step, "steps": view.steps, "best": view.best_step, "parts": self._names}
        self._page.send("training", lambda: {**about, **curves(view.report), "pictures": self._encoded(maps)})

    def _encoded(self, maps: tuple[list[int], torch.Tensor] | None) -> list[bytes] | None:
        return None if maps is None else [jpeg(picture, SIDE) for picture in self._small.draw(*maps)]

    def output(self, report: TrainingReport, shown: torch.Tensor) -> list[dict[str, Any]]:
        """For the ``ui`` output of the node, in a list as ComfyUI wants it; empty if nobody looks.

        Args:
            shown: the overlays (n, H, W, 3).
        """
        if self._page is None:
            return []
        self._page.finish()
        files = [self._page.save(jpeg(picture, SIDE), "jpg") for picture in shown[:SHOWN]]
        figures = {
            "step": report.stopped_at,
            "best": report.best_step,
            "stopped_by": report.stopped_by,
            "part_iou": [[name, value] for name, value in report.part_iou.items()],
            "held_out": bool(report.held_out),
        }
        return [{**figures, **curves(report), "pictures": files, "left_out": max(0, len(shown) - SHOWN)}]
