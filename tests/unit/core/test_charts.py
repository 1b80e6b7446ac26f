"""The drawer of plot outputs, and that of the benchmarks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench import charts as bench_charts
from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.charts import BLUE, GREEN, PINK, Axis, Curve, Panel, draw, whole_ticks


def centre(picture: torch.Tensor, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Mean (x, y) of the pixels of a colour."""
    found = ((picture * 255 - torch.tensor(colour)).abs().amax(-1) < 70).nonzero().float().mean(0)
    return float(found[1]), float(found[0])


def test_values_lie_where_the_axes_say():
    x, y = Axis(10, 20, [(10, "10"), (20, "20")]), Axis(-1, 1, [(0, "0")])
    point, beyond = Curve("", [(15, 0.5)], BLUE, "square"), Curve("", [(15, 9)], PINK)
    plot = draw([Panel("title", x, y, [point, beyond], [(20, GREEN)])], 468, 284)
    assert plot.shape == (1, 284, 468, 3) and plot.min() >= 0 and plot.max() <= 1
    # The plot's field runs from 48 to 448 and from 44 to 244; the corner above it is the legend's.
    field = plot[0, 60:]
    assert centre(field, BLUE) == pytest.approx((248, 244 - 150 - 60), abs=1.5)
    assert centre(plot[0, 40:60, :300], PINK)[0] == pytest.approx(248, abs=1.5), "beyond the end: on it"
    assert centre(field, GREEN)[0] == pytest.approx(448, abs=1.5)


def test_panels_stand_below_each_other_and_a_flat_axis_is_no_error():
    flat = Panel("", Axis(0, 0, []), Axis(2, 2, []), [Curve("loss", [(0, 2)], BLUE, "")])
    assert draw([flat, flat], 300, 120).shape == (1, 240, 300, 3)
    assert draw([], 300, 120).shape == (1, 120, 300, 3)


@pytest.mark.parametrize("high, expected", [(0, [0]), (8, list(range(9))), (50, list(range(0, 51, 5)))])
def test_ticks_are_round(high, expected):
    assert whole_ticks(high) == expected
    assert all(len(whole_ticks(n)) <= 11 for n in range(1, 5000, 37))


def test_the_benchmarks_chart_has_its_curves_and_levels():
    lines = [bench_charts.Line("head", [0.2, 0.9], "#ff0000", errors=[0.05, 0.05], thick=True)]
    picture = bench_charts.chart("IoU", "pictures", ["1", "20"], lines, [bench_charts.Level("word", 0.5, "#0000ff")])
    assert picture.shape == (600, 1000, 3) and picture.dtype == np.uint8
    for colour in ((255, 0, 0), (0, 0, 255)):
        assert (np.abs(picture.astype(int) - colour).max(axis=-1) < 40).sum() > 200
