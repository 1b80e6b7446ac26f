"""What Inversion Step Search shows of its candidates: each as it comes, and afterwards all of them to choose from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.oir.memory import Scored
from ..core.oir.report import Thumbnails, board
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
        self._known: list[dict[int, Scored]] = [{} for _ in pairs]
        if self._page is not None:
            opening = {"pairs": [pair.label for pair in pairs], "steps": steps, "edit_weight": edit_weight}
            self._page.send("search", lambda: opening)

    def add(self, pair: int, step: int, picture: torch.Tensor) -> _Note:
        """Keep a new candidate; see `search_steps`, ``on_candidate``."""
        note = _Note(self._thumbnails.add(pair, step, picture))
        if self._page is not None:
            note.file = self._page.save(jpeg(picture, SIDE), "jpg")
        return note

    def recall(self, pair: int, step: int, note: _Note, decode: Callable[[], torch.Tensor]) -> None:
        """Keep a candidate of an earlier search; see `search_steps`, ``on_remembered``."""
        self._thumbnails.recall(pair, step, note.thumbnail, decode)

    def scored(self, pair: int, step: int, scored: Scored) -> None:
        """Show a candidate; see `search_steps`, ``on_scored``."""
        self._known[pair][step] = scored
        if self._page is None or not scored.finite:
            return
        if scored.note.file is None:  # nobody looked when it was made
            scored.note.file = self._page.save(jpeg_of(scored.note.thumbnail), "jpg")
        shown = {"pair": pair, "n": step, "edit": scored.edit, "keep": scored.keep, "file": scored.note.file}
        self._page.send("candidate", lambda: shown)

    def output(self, search: StepSearch) -> list[dict[str, Any]]:
        """For the ``ui`` output of the node, in a list as ComfyUI wants it; empty if nobody looks."""
        if self._page is None:
            return []
        self._page.finish()
        pairs = board(search, self._known)
        for pair, known in zip(pairs, self._known, strict=True):
            for candidate in pair["candidates"]:
                candidate["file"] = known[candidate["n"]].note.file
        return [{"steps": search.steps, "pairs": pairs}]
