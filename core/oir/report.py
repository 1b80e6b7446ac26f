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
from .short_runs import Run
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
        self._short: dict[tuple[int, Run], Image.Image] = {}

    def add(self, pair: int, step: int, picture: torch.Tensor) -> Image.Image:
        """Keep candidate ``step`` of pair number ``pair``; ``picture`` is (H, W, 3) in 0 … 1. Returns its thumbnail."""
        if self.keep:
            self._full[pair, step] = picture
        self._pictures[pair, step] = image = self._small(picture)
        return image

    def _small(self, picture: torch.Tensor) -> Image.Image:
        pixels = (picture.detach().float().cpu().clamp(0, 1).numpy() * 255.0 + 0.5).astype(np.uint8)
        image = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
        image.thumbnail((self.size, self.size), Image.Resampling.LANCZOS)
        return image

    def recall(self, pair: int, step: int, thumbnail: Image.Image | None, decode: Callable[[], torch.Tensor]) -> None:
        """Keep a candidate of an earlier search by its ``thumbnail``, and decode it if more is needed."""
        if thumbnail is None or self.keep:
            self.add(pair, step, decode())
        else:
            self._pictures[pair, step] = thumbnail

    def add_run(self, pair: int, run: Run, picture: torch.Tensor) -> Image.Image:
        """Keep a run: :meth:`add` for a candidate; of a short run the thumbnail only, as nobody asks for more."""
        if run.full:
            return self.add(pair, run.step, picture)
        self._short[pair, run] = image = self._small(picture)
        return image

    def recall_run(
        self, pair: int, run: Run, thumbnail: Image.Image | None, decode: Callable[[], torch.Tensor]
    ) -> None:
        """Keep a run of an earlier search; see :meth:`recall`."""
        if run.full:
            self.recall(pair, run.step, thumbnail, decode)
        elif thumbnail is None:
            self.add_run(pair, run, decode())
        else:
            self._short[pair, run] = thumbnail

    def short(self, pair: int, run: Run) -> Image.Image | None:
        """The thumbnail of a short run, or None if there was none."""
        return self._short.get((pair, run))

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
    if entry.short_runs:
        how += f", {len(entry.short_runs)} short runs" if len(entry.short_runs) > 1 else ", 1 short run"
    return f"{position + 1}: {' > '.join(entry.pair.shown_phrases)}   step {entry.chosen} ({how})"


def contact_sheet(search: StepSearch, thumbnails: Thumbnails, columns: int = 8) -> torch.Tensor:
    """All candidates that were looked at, pair by pair, with their step and score; the chosen one is framed.

    A candidate that had a short run only is shown by that, with its number of UNet steps and its estimated score.

    Returns:
        IMAGE (1, H, W, 3). A pair without candidates has its title only.
    """
    tiles = [_tiles(k, entry, thumbnails) for k, entry in enumerate(search.pairs)]
    shown = [picture for row in tiles for _, _, picture in row if picture is not None]
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
        for i, (n, caption_text, picture) in enumerate(row):
            left, y = gap + (i % columns) * cell_width, top + (i // columns) * cell_height
            if picture is not None:
                sheet.paste(picture, (left, y))
            chosen = n == entry.chosen
            colour = MANUAL if entry.manual else BEST
            pen.text((left + 2, y + height + 2), caption_text, fill=colour if chosen else MUTED, font=font(13))
            if chosen:
                pen.rectangle((left - 3, y - 3, left + width + 2, y + height + caption), outline=colour, width=3)
        top += math.ceil(len(row) / columns) * cell_height
    return to_image(sheet)


def _tiles(position: int, entry: PairSearch, thumbnails: Thumbnails) -> list[tuple[int, str, Image.Image | None]]:
    """Step, caption and thumbnail of all that was looked at, steps ascending."""
    # a single candidate has nothing to be compared with
    full = [
        (n, f"n = {n}" if entry.manual else f"n = {n}   S {total:.2f}", thumbnails.get(position, n))
        for n, total in zip(entry.candidates, entry.metric.total, strict=True)
    ]
    short = [
        (one.step, f"n = {one.step}   S ~{one.total:.2f}   ({one.length} steps)", thumbnails.short(position, one.run))
        for one in entry.short_runs
    ]
    return sorted([*full, *short], key=lambda tile: tile[0])


def _series(entry: PairSearch) -> tuple[list[int], dict[str, list[float]]]:
    """Steps, and S, S_e and S_ne at them, of candidates and of what short runs let expect."""
    metric = entry.metric
    points = [*zip(entry.candidates, metric.total, metric.edit_norm, metric.keep_norm, strict=True)]
    points += [(one.step, one.total, one.edit_norm, one.keep_norm) for one in entry.short_runs]
    points.sort()
    names = [name for name, _, _ in CURVES]
    return [p[0] for p in points], {name: [p[k] for p in points] for k, name in enumerate(names, start=1)}


def curves(search: StepSearch) -> list[dict[str, Any]]:
    """Plain data for the plot in the node: x, series by name, the chosen step and a title, one entry a pair."""
    shown = []
    for entry in search.pairs:
        steps, series = _series(entry)
        shown.append({"title": entry.pair.label, "x": steps, "series": series, "best": entry.chosen})
    return shown


def board(search: StepSearch, known: Sequence[Mapping[Run, Scored]]) -> list[dict[str, Any]]:
    """Plain data for choosing among candidates in the node: one entry per pair.

    Args:
        known: for each pair the runs with their scores, one a step; more than the search's own where a step is set by
            hand and an earlier search has scored others.

    Returns:
        label, chosen, found, manual; candidates: n, and S with both parts as in the search, or after min-max over all
        that are known if a step is set by hand; with the ``length`` of the run if it was a short one.
    """
    shown = []
    for entry, scored in zip(search.pairs, known, strict=True):
        runs = sorted(scored)
        steps = [run.step for run in runs]
        if entry.manual:
            edit, keep = ([getattr(scored[run], part) for run in runs] for part in ("edit", "keep"))
            metric = combine(edit, keep, edit_weight=search.edit_weight)
            rows = [*zip(steps, metric.total, metric.edit_norm, metric.keep_norm, strict=True)]
        else:
            at, series = _series(entry)
            every = dict(zip(at, zip(*series.values(), strict=True), strict=True))
            rows = [(n, *every[n]) for n in steps]
        lengths = {run.step: {"length": run.length} for run in runs if not run.full}
        shown.append(
            {
                "label": entry.pair.label,
                "chosen": entry.chosen,
                "found": entry.found,
                "manual": entry.manual,
                "candidates": [
                    {"n": n, "total": s, "edit": edit, "keep": keep, **lengths.get(n, {})} for n, s, edit, keep in rows
                ],
            }
        )
    return shown


def summary(search: StepSearch) -> str:
    """The chosen steps and what they cost, one line a pair and one for the UNet rows."""
    lines = []
    for entry in search.pairs:
        line = f"{entry.pair.label}: step {entry.chosen} "
        line += "(set by hand)" if entry.manual else f"of {', '.join(map(str, entry.candidates))}"
        if entry.short_runs:
            line += f"; short runs of {', '.join(str(one.step) for one in entry.short_runs)}"
        lines.append(line)
    rows = f"{search.unet_rows} UNet rows"
    if remembered := sum(entry.remembered for entry in search.pairs):
        rows += f", {remembered} candidates from an earlier search"
    if search.exhaustive_rows:
        rows += f", exhaustive {search.exhaustive_rows}"
    return "\n".join([*lines, rows])


def score_plot(search: StepSearch, width: int = 720, height: int = 300) -> torch.Tensor:
    """S, S_e and S_ne (both after min-max) over the inversion steps, one panel a pair, up to the largest S possible.

    Hollow points are estimates from short runs.

    Returns:
        IMAGE (1, panels · height, width, 3).
    """
    highest = search.edit_weight + 1.0
    x = Axis(0, max(1, search.steps), [(n, str(n)) for n in whole_ticks(search.steps)], "inversion step n")
    y = Axis(0, highest, [(0.5 * tick, f"{0.5 * tick:.1f}") for tick in whole_ticks(int(2 * highest), 8)])
    panels = []
    for position, entry in enumerate(search.pairs):
        steps, series = _series(entry)
        hollow = {one.step for one in entry.short_runs}
        curves = [
            Curve(name, list(zip(steps, series[name], strict=True)), colour, marker, hollow)
            for name, colour, marker in CURVES
        ]
        mark = (entry.chosen, MANUAL if entry.manual else BEST)
        panels.append(Panel(_title(entry, position), x, y, curves, [mark]))
    return draw(panels, width, height)
