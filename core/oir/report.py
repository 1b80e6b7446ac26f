"""Pictures of a search: a contact sheet of the candidates and a plot of the scores over the inversion steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .types import PairSearch, StepSearch

BACKGROUND = (24, 24, 27)
TEXT = (228, 228, 231)
MUTED = (161, 161, 170)
BEST = (34, 197, 94)
MANUAL = (245, 158, 11)
# Readable for colour-blind eyes, too: the three lines also differ in their markers.
CURVES = (("S", (250, 250, 250), "circle"), ("S_e", (56, 189, 248), "square"), ("S_ne", (244, 114, 182), "diamond"))


class Thumbnails:
    """Small pictures of the candidates, kept while the full ones are thrown away."""

    def __init__(self, size: int = 192) -> None:
        self.size = size
        self._pictures: dict[tuple[int, int], Image.Image] = {}

    def add(self, pair: int, step: int, picture: torch.Tensor) -> None:
        """Keep candidate ``step`` of pair number ``pair``; ``picture`` is (H, W, 3) in 0 … 1."""
        pixels = (picture.detach().float().cpu().clamp(0, 1).numpy() * 255.0 + 0.5).astype(np.uint8)
        image = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
        image.thumbnail((self.size, self.size), Image.Resampling.LANCZOS)
        self._pictures[pair, step] = image

    def get(self, pair: int, step: int) -> Image.Image | None:
        """The thumbnail, or None if the candidate was not looked at."""
        return self._pictures.get((pair, step))


def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size=size)
    except TypeError:  # a Pillow without FreeType has one size only
        return ImageFont.load_default()


def _to_image(picture: Image.Image) -> torch.Tensor:
    """A PIL picture as a ComfyUI IMAGE (1, H, W, 3)."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0).unsqueeze(0)


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
    draw = ImageDraw.Draw(sheet)
    top = 0
    for position, (entry, row) in enumerate(zip(search.pairs, tiles, strict=True)):
        draw.text((gap, top + 7), _title(entry, position), fill=TEXT, font=_font(15))
        top += title
        for i, (n, picture) in enumerate(row):
            left, y = gap + (i % columns) * cell_width, top + (i // columns) * cell_height
            if picture is not None:
                sheet.paste(picture, (left, y))
            chosen = n == entry.chosen
            colour = MANUAL if entry.manual else BEST
            # a single candidate has nothing to be compared with
            caption_text = f"n = {n}" if entry.manual else f"n = {n}   S {entry.metric.total[i]:.2f}"
            draw.text((left + 2, y + height + 2), caption_text, fill=colour if chosen else MUTED, font=_font(13))
            if chosen:
                draw.rectangle((left - 3, y - 3, left + width + 2, y + height + caption), outline=colour, width=3)
        top += math.ceil(len(row) / columns) * cell_height
    return _to_image(sheet)


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


def summary(search: StepSearch) -> str:
    """The chosen steps and what they cost, one line a pair and one for the UNet rows."""
    lines = [
        f"{entry.pair.label}: step {entry.chosen} "
        + ("(set by hand)" if entry.manual else f"of {', '.join(map(str, entry.candidates))}")
        for entry in search.pairs
    ]
    rows = f"{search.unet_rows} UNet rows"
    if search.exhaustive_rows:
        rows += f", exhaustive {search.exhaustive_rows}"
    return "\n".join([*lines, rows])


def score_plot(search: StepSearch, width: int = 720, height: int = 300) -> torch.Tensor:
    """S, S_e and S_ne (both after min-max) over the inversion steps, one panel a pair, up to the largest S possible.

    Returns:
        IMAGE (1, panels · height, width, 3).
    """
    scale = 2  # drawn large and made smaller: smooth lines without a plotting library
    sheet = Image.new("RGB", (width * scale, max(1, len(search.pairs)) * height * scale), BACKGROUND)
    for position, entry in enumerate(search.pairs):
        panel = Image.new("RGB", (width * scale, height * scale), BACKGROUND)
        _panel(ImageDraw.Draw(panel), entry, position, search, (width * scale, height * scale), scale)
        sheet.paste(panel, (0, position * height * scale))
    return _to_image(sheet.resize((sheet.width // scale, sheet.height // scale), Image.Resampling.LANCZOS))


def _panel(
    draw: ImageDraw.ImageDraw, entry: PairSearch, position: int, search: StepSearch, size: tuple[int, int], scale: int
) -> None:
    left, right, top, bottom = 48 * scale, size[0] - 20 * scale, 44 * scale, size[1] - 40 * scale
    small, large = _font(12 * scale), _font(15 * scale)
    draw.text((left, 10 * scale), _title(entry, position), fill=TEXT, font=large)

    steps, highest = search.steps, search.edit_weight + 1.0

    def x_of(n: float) -> float:
        return left + (right - left) * n / max(1, steps)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * value / highest

    for value in (0.5 * tick for tick in _ticks(int(2 * highest), 8)):
        draw.line((left, y_of(value), right, y_of(value)), fill=(50, 50, 56), width=scale)
        draw.text((left - 30 * scale, y_of(value) - 7 * scale), f"{value:.1f}", fill=MUTED, font=small)
    for n in _ticks(steps):
        draw.text((x_of(n) - 6 * scale, bottom + 5 * scale), str(n), fill=MUTED, font=small)
    draw.text(((left + right) // 2 - 45 * scale, bottom + 20 * scale), "inversion step n", fill=MUTED, font=small)

    at = x_of(entry.chosen)
    draw.line((at, top, at, bottom), fill=MANUAL if entry.manual else BEST, width=2 * scale)
    series: Sequence[tuple[float, ...]] = (entry.metric.total, entry.metric.edit_norm, entry.metric.keep_norm)
    for i, ((name, colour, marker), values) in enumerate(zip(CURVES, series, strict=True)):
        points = [(x_of(n), y_of(v)) for n, v in zip(entry.candidates, values, strict=True)]
        if len(points) > 1:
            draw.line(points, fill=colour, width=2 * scale, joint="curve")
        for point in points:
            _marker(draw, point, marker, colour, 3 * scale)
        x = right - (len(CURVES) - i) * 62 * scale
        _marker(draw, (x, 34 * scale), marker, colour, 3 * scale)
        draw.text((x + 8 * scale, 27 * scale), name, fill=colour, font=small)


def _ticks(steps: int, most: int = 10) -> list[int]:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if steps / s <= most)
    return list(range(0, steps + 1, step))


def _marker(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], kind: str, colour: tuple[int, int, int], r: float
) -> None:
    x, y = at
    if kind == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif kind == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), fill=colour)
    else:
        draw.polygon([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fill=colour)
