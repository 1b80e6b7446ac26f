"""The cost bench runs, and what a part edit costs now is in the report of every test run."""

from __future__ import annotations

import math

import pytest
import torch

from bench import cost


@pytest.fixture(scope="module")
def bench(pack):
    return cost.demo_bench("cpu", rounds=3, sides=(16, 24))


def test_the_cost_of_an_edit_is_reported(bench, record_property):
    """Not asserted: a number of seconds is no fault. But a change that makes edits dearer is seen."""
    one = bench.subject.at(side=32, steps=3)
    for name, follow in (("", True), (" without prompt-to-prompt", False)):
        prompt = one.edits(1, follow)
        found = bench.clock.ratio(lambda p=prompt: one.edit(p), lambda: one.rows(2), bench.rounds)
        record_property("cost", f"a part edit at 256²{name}: {found['ratio']:.2f} × its UNet rows")
        assert found["lowest"] <= found["ratio"] <= found["highest"] and math.isfinite(found["ratio"])


def test_edit_and_rows_take_the_same_unet_rows(bench):
    """Otherwise their ratio would say nothing."""
    rows = []

    def counted(executor, x, *args, **kwargs):
        rows.append(x.shape[0])
        return executor(x, *args, **kwargs)

    model = bench.subject.model.clone()
    model.add_wrapper_with_key("diffusion_model", "count", counted)
    one = bench.subject.at(side=16, model=model)
    one.edit(one.edits(1))
    edit, rows[:] = list(rows), []
    one.rows(2)
    assert edit == rows == [4] * one.steps


def test_order_alternates_and_the_middle_ratio_counts():
    clock, order = cost.Clock("cpu", torch.device("cpu")), []
    seconds = iter([2.0, 1.0, 1.0, 3.0, 5.0, 1.0])
    clock = type("Told", (cost.Clock,), {"seconds": lambda self, work: (work(), next(seconds))[1]})("cpu", clock.device)
    found = clock.ratio(lambda: order.append("a"), lambda: order.append("b"), 3)
    assert order[2:] == ["a", "b", "b", "a", "a", "b"]
    assert (found["lowest"], found["ratio"], found["highest"]) == (2.0, 3.0, 5.0)


@pytest.mark.slow
@pytest.mark.parametrize("section", ["six_rows", "maps", "training", "decode", "memory"])
def test_sections_give_figures(bench, section):
    quick = cost.Bench(bench.subject, bench.studio, bench.clock, 1, (24,))
    figures = cost.measure(quick, [section])[section]
    assert figures and all(one["ratio"] > 0 for one in figures)
    assert cost.plot({section: figures}).shape[2] == 3
