"""The benchmark of step searches: it counts what a search takes and compares with the best there is."""

from __future__ import annotations

import json
import math

import pytest

from bench import object_search
from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.oir.metric import combine


def recorded(steps=25, edit=4, at=0.5):
    """S_e rises at a share of the steps, S_ne falls evenly."""
    full = {n: (1 / (1 + math.exp(40 * (at - n / steps))), -n / steps) for n in range(1, steps + 1)}
    edits, keeps = zip(*full.values())
    return {"steps": steps, "edit": edit, "pair": 0, "short": [], "S_e": list(edits), "S_ne": list(keeps)}


def exactly(record, asked):
    def make(runs):
        asked.extend(runs)
        assert not any(run.full for run in runs)
        return {run: (record["S_e"][run.step - 1], record["S_ne"][run.step - 1]) for run in runs}

    return make


def test_a_search_is_counted_and_its_short_runs_are_recorded_once():
    record, asked = recorded(), []
    found = object_search.search(record, "short-to-full", exactly(record, asked))
    assert [run[:2] for run in record["short"]] == sorted([run.step, run.length] for run in asked)
    total = combine(record["S_e"], record["S_ne"]).total
    assert found["share"] == total[found["chosen"] - 1] / max(total) and found["same"] == (found["share"] == 1.0)
    least = sum(run.length for run in asked) + found["chosen"]
    assert least <= found["rows"] < 0.3 * sum(range(1, 26))
    again = object_search.search(json.loads(json.dumps(record)), "short-to-full")
    assert again == found, "from what is recorded, without a model"
    assert object_search.searched([record, recorded()]) == [record]


def test_the_table_keeps_chosen_and_unseen_pairs_apart():
    records = [recorded(edit=4), recorded(edit=7, at=0.3), recorded(edit=9, at=0.7), recorded(10, edit=2)]
    for record in records:
        object_search.search(record, "short-to-full", exactly(record, []))
    table = object_search.table(records)
    assert set(table) == {"10", "25"} and "unseen" not in table["10"]
    assert [table["25"][group]["short-to-full"]["pairs"] for group in ("chosen", "unseen")] == [1, 2]
    shares = [object_search.search(record, "coarse-to-fine")["share"] for record in records[1:3]]
    mean = table["25"]["unseen"]["coarse-to-fine"]["share_of_best_S"]
    assert mean == pytest.approx(sum(shares) / 2, abs=1e-4)
    assert (
        table["25"]["chosen"]["short-to-full"]["short_runs"]
        > 0
        == table["25"]["chosen"]["coarse-to-fine"]["short_runs"]
    )
    assert object_search.plot(records).shape[-1] == 3


def test_what_is_recorded_can_be_searched_again():
    """The figures in the results are those of this version of the search."""
    records = object_search.searched(object_search.load())
    assert records and object_search.table(records) == json.loads(
        (object_search.RESULTS / "object_search.json").read_text("utf-8")
    )
