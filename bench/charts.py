"""Charts of benchmark figures, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Told apart by colour-blind eyes too (Okabe and Ito, and two more).
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#787878", "#965a28")
INK = "#1e1e24"


@dataclass(frozen=True)
class Line:
    """A curve: one value a position, and how far its error bar goes to either side."""

    name: str
    values: Sequence[float]
    colour: str
    errors: Sequence[float] | None = None
    thick: bool = False


@dataclass(frozen=True)
class Level:
    """A dashed line at one height across the chart."""

    name: str
    value: float
    colour: str


def chart(
    title: str, below: str, positions: Sequence[str], lines: Sequence[Line], levels: Sequence[Level] = ()
) -> np.ndarray:
    """(600, 1000, 3) uint8: values from 0 to 1 over evenly spaced, named positions.

    Args:
        title: above the chart. below: what the positions are.
    """
    figure = Figure(figsize=(10, 6), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=title, xlabel=below, ylim=(0, 1), yticks=np.linspace(0, 1, 11))
    axes.grid(axis="y", alpha=0.4)
    places = np.arange(len(positions))
    axes.set_xticks(places, positions)
    # The legend's order is that of the curves' ends.
    for line in sorted(lines, key=lambda line: -line.values[-1]):
        width = 3 if line.thick else 1
        label = f"{line.name}  {line.values[-1]:.2f}"
        options: dict[str, Any] = {"label": label, "color": line.colour, "lw": width, "marker": "o"}
        axes.errorbar(places, line.values, line.errors, elinewidth=2, capsize=5, **options)
    for level in sorted(levels, key=lambda level: -level.value):
        axes.axhline(level.value, label=f"{level.name}  {level.value:.2f}", color=level.colour, ls="--", lw=2)
    figure.legend(loc="outside right upper", frameon=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
