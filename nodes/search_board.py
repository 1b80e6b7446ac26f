"""What Inversion Step Search shows of its candidates: each as it comes, and afterwards all of them to choose from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.oir.memory import Scored
from ..core.oir.report import Thumbnails, board
from ..core.oir.short_runs import Run
from ..core.oir.types import Pair, StepSearch
from ..core.pictures import jpeg, jpeg_of
from .live import Page, watching

# Longest side of a candidate that is shown large, in pixels.
SIDE = 512


@dataclass(eq=False)
class _Note:
    """What is remembered of a candidate's picture: its thumbnail, and the file that the page shows."""

    thumbnail: Any
    file: dict[str, str] | None = None


class SearchBoard:
    """Follows a search; without a page that listens it only keeps the thumbnails.

    Args:
        pairs: that are searched.
        steps: S of the trajectory.
        edit_weight: of the search.
        thumbnails: where the small pictures go.
    """

    def __init__(self, pairs: Sequence[Pair], steps: int, edit_weight: float, thumbnails: Thumbnails) -> None:
        self._page: Page | None = watching()
        self._thumbnails = thumbnails
        self._known: list[dict[Run, Scored]] = [{} for _ in pairs]
        self._opening = {"pairs": [pair.label for pair in pairs], "steps": steps, "edit_weight": edit_weight}
        if self._page is not None:
            self._page.send("search", lambda: self._opening)

    def add(self, pair: int, run: Run, picture: torch.Tensor) -> _Note:
        """Keep a new candidate or short run; see `search_steps`, ``on_candidate``."""
        note = _Note(self._thumbnails.add_run(pair, run, picture))
        if self._page is not None:
            note.file = self._page.save(jpeg(picture, SIDE), "jpg")
        return note

    def recall(self, pair: int, run: Run, note: _Note, decode: Callable[[], torch.Tensor]) -> None:
        """Keep a candidate or short run of an earlier search; see `search_steps`, ``on_remembered``."""
        self._thumbnails.recall_run(pair, run, note.thumbnail, decode)

    def scored(self, pair: int, run: Run, scored: Scored) -> None:
        """Show a candidate or short run; see `search_steps`, ``on_scored``."""
        known = self._known[pair]
        for shorter in [other for other in known if other.step == run.step and other < run]:
            del known[shorter]
        known[run] = scored
        if self._page is None or not scored.finite:
            return
        if not self._page.holds(scored.note.file):  # nobody looked when it was made, or it is gone
            scored.note.file = self._page.save(jpeg_of(scored.note.thumbnail), "jpg")
        # A page that was loaded meanwhile knows nothing of the search: each message has all of it.
        earlier = [
            _shown(place, other, one)
            for place, known in enumerate(self._known)
            for other, one in known.items()
            if one is not scored and one.finite
        ]
        newest = _shown(pair, run, scored)
        self._page.send("candidate", lambda: {**self._opening, **newest, "earlier": earlier})

    def output(self, search: StepSearch) -> list[dict[str, Any]]:
        """For the ``ui`` output of the node, in a list as ComfyUI wants it; empty if nobody looks."""
        if self._page is None:
            return []
        self._page.finish()
        pairs = board(search, self._known)
        for pair, known in zip(pairs, self._known, strict=True):
            files = {run.step: scored.note.file for run, scored in known.items()}
            for candidate in pair["candidates"]:
                candidate["file"] = files[candidate["n"]]
        return [{"steps": search.steps, "pairs": pairs}]


def _shown(pair: int, run: Run, scored: Scored) -> dict[str, Any]:
    """What the page is sent of a candidate or short run."""
    shown = {"pair": pair, "n": run.step, "edit": scored.edit, "keep": scored.keep, "file": scored.note.file}
    return shown if run.full else {**shown, "length": run.length}
