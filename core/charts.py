"""Plots for node outputs: panels of curves as a ComfyUI IMAGE, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
BACKGROUND: Colour = (24, 24, 27)
TEXT: Colour = (228, 228, 231)
MUTED: Colour = (161, 161, 170)
GRID: Colour = (50, 50, 56)
# Curve colours that colour-blind people can distinguish; curves may also differ in their markers.
WHITE: Colour = (250, 250, 250)
BLUE: Colour = (56, 189, 248)
PINK: Colour = (244, 114, 182)
# Vertical lines: found, and set by hand.
GREEN: Colour = (34, 197, 94)
AMBER: Colour = (245, 158, 11)
# Drawn large and downscaled: smooth lines without a plotting library.
_SCALE = 2
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 20, 44, 40


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high``, with ``ticks`` (value, text) and a label."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    label: str = ""

    def share(self, value: float) -> float:
        """Position of a value, 0 … 1, clamped to the ends."""
        span = self.high - self.low
        return min(max((value - self.low) / span, 0.0), 1.0) if span > 0 else 0.0


@dataclass(frozen=True)
class Curve:
    """Points (x, y) with a line through them. ``marker``: circle, square, diamond, or "" for the line alone.

    Points whose x is among ``hollow`` have the outline of their marker only.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: Colour
    marker: str = "circle"
    hollow: Collection[float] = ()


@dataclass(frozen=True)
class Panel:
    """A title, two axes, curves with their legend, and vertical lines (x, colour)."""

    title: str
    x: Axis
    y: Axis
    curves: Sequence[Curve]
    marks: Sequence[tuple[float, Colour]] = ()


def draw(panels: Sequence[Panel], width: int, height: int) -> torch.Tensor:
    """Panels stacked vertically: IMAGE (1, panels · height, width, 3); an empty one if there is no panel."""
    size = (width * _SCALE, height * _SCALE)
    sheet = Image.new("RGB", (size[0], max(1, len(panels)) * size[1]), BACKGROUND)
    for number, panel in enumerate(panels):
        one = Image.new("RGB", size, BACKGROUND)
        _draw_panel(ImageDraw.Draw(one), panel, size)
        sheet.paste(one, (0, number * size[1]))
    return to_image(sheet.resize((sheet.width // _SCALE, sheet.height // _SCALE), Image.Resampling.LANCZOS))


def font(size: int) -> Any:
    """Pillow's own font; a Pillow without FreeType only has one size."""
    try:
        return ImageFont.load_default(size=size)
    except TypeError:
        return ImageFont.load_default()


def to_image(picture: Image.Image) -> torch.Tensor:
    """A PIL image as a ComfyUI IMAGE (1, H, W, 3)."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0).unsqueeze(0)


def whole_ticks(high: int, most: int = 10) -> list[int]:
    """Whole numbers from 0 to ``high`` at a round spacing, at most about ``most`` of them."""
    steps = (base * 10**power for power in range(10) for base in (1, 2, 5))
    step = next(s for s in steps if high / s <= most)
    return list(range(0, high + 1, step))


def _draw_panel(pen: ImageDraw.ImageDraw, panel: Panel, size: tuple[int, int]) -> None:
    s = _SCALE
    left, right, top, bottom = _LEFT * s, size[0] - _RIGHT * s, _TOP * s, size[1] - _BOTTOM * s
    small, large = font(12 * s), font(15 * s)
    pen.text((left, 10 * s), panel.title, fill=TEXT, font=large)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * panel.x.share(x), bottom - (bottom - top) * panel.y.share(y)

    for value, text in panel.y.ticks:
        y = at(panel.x.low, value)[1]
        pen.line((left, y, right, y), fill=GRID, width=s)
        pen.text((left - 6 * s, y), text, fill=MUTED, font=small, anchor=_anchor(small, "rm"))
    for value, text in panel.x.ticks:
        pen.text((at(value, 0)[0], bottom + 5 * s), text, fill=MUTED, font=small, anchor=_anchor(small, "ma"))
    pen.text(((left + right) // 2, bottom + 20 * s), panel.x.label, fill=MUTED, font=small, anchor=_anchor(small, "ma"))
    for value, colour in panel.marks:
        x = at(value, 0)[0]
        pen.line((x, top, x, bottom), fill=colour, width=2 * s)
    end = right
    for curve in reversed(panel.curves):
        end -= round(pen.textlength(curve.name, font=small)) + 26 * s
        _marker(pen, (end, 34 * s), curve.marker or "square", curve.colour, 3 * s)
        pen.text((end + 8 * s, 27 * s), curve.name, fill=curve.colour, font=small)
    for curve in panel.curves:
        points = [at(x, y) for x, y in curve.points]
        if len(points) > 1:
            pen.line(points, fill=curve.colour, width=2 * s, joint="curve")
        for (x, _), point in zip(curve.points, points) if curve.marker else ():
            _marker(pen, point, curve.marker, curve.colour, 3 * s)
            if x in curve.hollow:
                _marker(pen, point, curve.marker, BACKGROUND, 1.5 * s)


def _anchor(used: Any, place: str) -> str | None:
    """Pillow's bitmap font does not support anchors."""
    return place if isinstance(used, ImageFont.FreeTypeFont) else None


def _marker(pen: ImageDraw.ImageDraw, at: tuple[float, float], kind: str, colour: Colour, r: float) -> None:
    x, y = at
    if kind == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif kind == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=colour)
    else:
        pen.polygon([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fill=colour)
