"""Charts of benchmark figures, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 1000, 600
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 300, 50, 60
_BACK, _GRID, _TEXT = (255, 255, 255), (222, 222, 226), (40, 40, 46)
# Told apart by colour-blind eyes too (Okabe and Ito).
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
    (120, 120, 120),
    (150, 90, 40),
)


@dataclass(frozen=True)
class Line:
    """A curve: one value a position, and how far its error bar goes to either side."""

    name: str
    values: Sequence[float]
    colour: tuple[int, int, int]
    errors: Sequence[float] | None = None
    thick: bool = False


@dataclass(frozen=True)
class Level:
    """A dashed line at one height across the chart."""

    name: str
    value: float
    colour: tuple[int, int, int]


def chart(
    title: str, below: str, positions: Sequence[str], lines: Sequence[Line], levels: Sequence[Level] = ()
) -> np.ndarray:
    """(600, 1000, 3) uint8: values from 0 to 1 over evenly spaced, named positions.

    Args:
        title: above the chart. below: what the positions are.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), _BACK)
    draw = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(18), ImageFont.load_default(14)
    draw.text((_LEFT, 14), title, fill=_TEXT, font=large)
    for tick in range(11):
        y = _y(tick / 10)
        draw.line([(_LEFT, y), (WIDTH - _RIGHT, y)], fill=_GRID)
        draw.text((_LEFT - 34, y - 8), f"{tick / 10:.1f}", fill=_TEXT, font=small)
    for index, name in enumerate(positions):
        draw.text((_x(index, len(positions)) - 6, HEIGHT - _BOTTOM + 10), name, fill=_TEXT, font=small)
    draw.text((_LEFT, HEIGHT - 28), below, fill=_TEXT, font=small)
    for level in levels:
        y = _y(level.value)
        for x in range(_LEFT, WIDTH - _RIGHT, 12):
            draw.line([(x, y), (x + 6, y)], fill=level.colour, width=2)
    for line in lines:
        _curve(draw, line, len(positions))
    entries = [(line.name, line.values[-1], line.colour) for line in lines]
    entries += [(level.name, level.value, level.colour) for level in levels]
    for row, (name, value, colour) in enumerate(sorted(entries, key=lambda entry: -entry[1])):
        y = _TOP + 24 * row
        draw.line([(WIDTH - _RIGHT + 16, y + 9), (WIDTH - _RIGHT + 36, y + 9)], fill=colour, width=4)
        draw.text((WIDTH - _RIGHT + 44, y), f"{name}  {value:.2f}", fill=_TEXT, font=small)
    return np.asarray(picture)


def _curve(draw: ImageDraw.ImageDraw, line: Line, count: int) -> None:
    points = [(_x(index, count), _y(value)) for index, value in enumerate(line.values)]
    if len(points) > 1:
        draw.line(points, fill=line.colour, width=4 if line.thick else 1)
    radius = 5 if line.thick else 2
    for index, (x, y) in enumerate(points):
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=line.colour)
        if line.errors is not None:
            top, bottom = (_y(line.values[index] + sign * line.errors[index]) for sign in (1, -1))
            draw.line([(x, top), (x, bottom)], fill=line.colour, width=2)
            for end in (top, bottom):
                draw.line([(x - 6, end), (x + 6, end)], fill=line.colour, width=2)


def _x(index: int, count: int) -> float:
    return _LEFT + 30 + index / max(count - 1, 1) * (WIDTH - _LEFT - _RIGHT - 60)


def _y(value: float) -> float:
    return HEIGHT - _BOTTOM - min(max(value, 0.0), 1.0) * (HEIGHT - _TOP - _BOTTOM)
