"""Pictures of a search: a contact sheet of the candidates and a plot of the scores over the inversion steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..charts import (
    AMBER,
    BACKGROUND,
    BLUE,
    GREEN,
    MUTED,
    PINK,
    TEXT,
    WHITE,
    Axis,
    Curve,
    Panel,
    draw,
    font,
    to_image,
    whole_ticks,
)
from .memory import Scored
from .metric import combine
from .types import PairSearch, StepSearch

BEST = GREEN
MANUAL = AMBER
CURVES = (("S", WHITE, "circle"), ("S_e", BLUE, "square"), ("S_ne", PINK, "diamond"))


class Thumbnails:
    """Small pictures of the candidates, kept while the full ones are thrown away, unless those are kept, too.

    Args:
        size: longest side of a thumbnail, in pixels.
        keep: keep the full pictures as well.
    """

    def __init__(self, size: int = 192, keep: bool = False) -> None:
        self.size, self.keep = size, keep
        self._pictures: dict[tuple[int, int], Image.Image] = {}
        self._full: dict[tuple[int, int], torch.Tensor] = {}

    def add(self, pair: int, step: int, picture: torch.Tensor) -> Image.Image:
        """Keep candidate ``step`` of pair number ``pair``; ``picture`` is (H, W, 3) in 0 … 1. Returns its thumbnail."""
        if self.keep:
            self._full[pair, step] = picture
        pixels = (picture.detach().float().cpu().clamp(0, 1).numpy() * 255.0 + 0.5).astype(np.uint8)
        image = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
        image.thumbnail((self.size, self.size), Image.Resampling.LANCZOS)
        self._pictures[pair, step] = image
        return image

    def recall(self, pair: int, step: int, thumbnail: Image.Image | None, decode: Callable[[], torch.Tensor]) -> None:
        """Keep a candidate of an earlier search by its ``thumbnail``, and decode it if more is needed."""
        if thumbnail is None or self.keep:
            self.add(pair, step, decode())
        else:
            self._pictures[pair, step] = thumbnail

    def full(self, pair: int, step: int) -> torch.Tensor | None:
        """The full picture (H, W, 3), or None if it was not kept."""
        return self._full.get((pair, step))

    def all_full(self) -> torch.Tensor:
        """All full pictures as a batch (candidates, H, W, 3), pair by pair, steps ascending; they are handed over."""
        order = sorted(self._full)
        batch = torch.empty(len(order), *self._full[order[0]].shape)
        for place, key in enumerate(order):
            batch[place] = self._full.pop(key)
        return batch

    def get(self, pair: int, step: int) -> Image.Image | None:
        """The thumbnail, or None if the candidate was not looked at."""
        return self._pictures.get((pair, step))


def _title(entry: PairSearch, position: int) -> str:
    how = "set by hand" if entry.manual else f"best of {len(entry.candidates)}"
    return f"{position + 1}: {' > '.join(entry.pair.shown_phrases)}   step {entry.chosen} ({how})"


def contact_sheet(search: StepSearch, thumbnails: Thumbnails, columns: int = 8) -> torch.Tensor:
    """All candidates that were looked at, pair by pair, with their step and score; the chosen one is framed.

    Returns:
        IMAGE (1, H, W, 3). A pair without candidates has its title only.
    """
    tiles = [[(n, thumbnails.get(k, n)) for n in entry.candidates] for k, entry in enumerate(search.pairs)]
    shown = [picture for row in tiles for _, picture in row if picture is not None]
    width = max((p.width for p in shown), default=thumbnails.size)
    height = max((p.height for p in shown), default=thumbnails.size)
    caption, title, gap = 20, 30, 8
    columns = max(1, min(columns, max((len(row) for row in tiles), default=1)))
    cell_width, cell_height = width + gap, height + caption + gap
    sheet_height = sum(title + math.ceil(len(row) / columns) * cell_height for row in tiles) + gap
    sheet = Image.new("RGB", (max(columns * cell_width + gap, 420), sheet_height), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    top = 0
    for position, (entry, row) in enumerate(zip(search.pairs, tiles, strict=True)):
        pen.text((gap, top + 7), _title(entry, position), fill=TEXT, font=font(15))
        top += title
        for i, (n, picture) in enumerate(row):
            left, y = gap + (i % columns) * cell_width, top + (i // columns) * cell_height
            if picture is not None:
                sheet.paste(picture, (left, y))
            chosen = n == entry.chosen
            colour = MANUAL if entry.manual else BEST
            # a single candidate has nothing to be compared with
            caption_text = f"n = {n}" if entry.manual else f"n = {n}   S {entry.metric.total[i]:.2f}"
            pen.text((left + 2, y + height + 2), caption_text, fill=colour if chosen else MUTED, font=font(13))
            if chosen:
                pen.rectangle((left - 3, y - 3, left + width + 2, y + height + caption), outline=colour, width=3)
        top += math.ceil(len(row) / columns) * cell_height
    return to_image(sheet)


def curves(search: StepSearch) -> list[dict[str, Any]]:
    """Plain data for the plot in the node: x, series by name, the chosen step and a title, one entry a pair."""
    return [
        {
            "title": entry.pair.label,
            "x": list(entry.candidates),
            "series": {
                "S": list(entry.metric.total),
                "S_e": list(entry.metric.edit_norm),
                "S_ne": list(entry.metric.keep_norm),
            },
            "best": entry.chosen,
        }
        for entry in search.pairs
    ]


def board(search: StepSearch, known: Sequence[Mapping[int, Scored]]) -> list[dict[str, Any]]:
    """Plain data for choosing among candidates in the node: one entry per pair.

    Args:
        known: for each pair the candidates with their scores, by step; more than `PairSearch.candidates` where a step
            is set by hand and an earlier search has scored others.

    Returns:
        label, chosen, found, manual; candidates: n, and S with both parts after min-max over all that are known.
    """
    shown = []
    for entry, scored in zip(search.pairs, known, strict=True):
        steps = sorted(scored)
        metric = combine(
            [scored[n].edit for n in steps], [scored[n].keep for n in steps], edit_weight=search.edit_weight
        )
        rows = zip(steps, metric.total, metric.edit_norm, metric.keep_norm, strict=True)
        shown.append(
            {
                "label": entry.pair.label,
                "chosen": entry.chosen,
                "found": entry.found,
                "manual": entry.manual,
                "candidates": [{"n": n, "total": s, "edit": edit, "keep": keep} for n, s, edit, keep in rows],
            }
        )
    return shown


def summary(search: StepSearch) -> str:
    """The chosen steps and what they cost, one line a pair and one for the UNet rows."""
    lines = [
        f"{entry.pair.label}: step {entry.chosen} "
        + ("(set by hand)" if entry.manual else f"of {', '.join(map(str, entry.candidates))}")
        for entry in search.pairs
    ]
    rows = f"{search.unet_rows} UNet rows"
    if remembered := sum(entry.remembered for entry in search.pairs):
        rows += f", {remembered} candidates from an earlier search"
    if search.exhaustive_rows:
        rows += f", exhaustive {search.exhaustive_rows}"
    return "\n".join([*lines, rows])


def score_plot(search: StepSearch, width: int = 720, height: int = 300) -> torch.Tensor:
    """S, S_e and S_ne (both after min-max) over the inversion steps, one panel a pair, up to the largest S possible.

    Returns:
        IMAGE (1, panels · height, width, 3).
    """
    highest = search.edit_weight + 1.0
    x = Axis(0, max(1, search.steps), [(n, str(n)) for n in whole_ticks(search.steps)], "inversion step n")
    y = Axis(0, highest, [(0.5 * tick, f"{0.5 * tick:.1f}") for tick in whole_ticks(int(2 * highest), 8)])
    panels = []
    for position, entry in enumerate(search.pairs):
        series = (entry.metric.total, entry.metric.edit_norm, entry.metric.keep_norm)
        curves = [
            Curve(name, list(zip(entry.candidates, values, strict=True)), colour, marker)
            for (name, colour, marker), values in zip(CURVES, series, strict=True)
        ]
        mark = (entry.chosen, MANUAL if entry.manual else BEST)
        panels.append(Panel(_title(entry, position), x, y, curves, [mark]))
    return draw(panels, width, height)
