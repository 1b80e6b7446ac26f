"""What two-object success takes: each rule takes the candidate that it says, and shares are over the right edits."""

from __future__ import annotations

import pytest

from bench.object_limits import CANDIDATES, WHOLE, rules, summary


def record(what="colour"):
    """An object whose second best S_e is the edited one, and which keeps 20 dB up to the fifth candidate."""
    count = len(CANDIDATES)
    return {
        "change": [what, "a red cat", "a blue cat"],
        "candidates": list(CANDIDATES),
        "S_e": [0.0, 0.1, 0.2, 0.3, 0.8, 0.7, 0.6, 0.9, 1.0],
        "S_ne": [-0.001 * k for k in range(count)],
        "S_e_guided": [1.0] + [0.0] * (count - 1),
        "edited": [False] * 6 + [True] * 3,
        "kept_db": [30.0, 28.0, 26.0, 24.0, 21.0, 19.0, 18.0, 17.0, 16.0],
    }


def test_each_rule_takes_its_candidate(pack):
    taken = {name: CANDIDATES[rule(record())] for name, rule in rules().items()}
    # With equal weight, S is 0.8 + 0.5 at the fifth; with a large one, the highest S_e wins.
    assert taken["S, weight 1"] == CANDIDATES[4] and taken["S, weight 5"] == CANDIDATES[8]
    assert taken["guided prompt"] == 1
    # The first candidate that shows the object: it keeps most among those that do.
    assert taken["judge's S_e"] == CANDIDATES[6]
    assert taken["best S_e of 20 dB"] == CANDIDATES[4] and taken["fixed 25"] == 25
    never = {**record(), "kept_db": [19.0, 19.5, *[10.0] * 7]}
    assert CANDIDATES[rules()["best S_e of 20 dB"](never)] == CANDIDATES[1]


def test_shares_are_over_objects_and_over_whole_edits(pack):
    good = {"steps": [1, 1], "edited": [True, True], "kept_db": 25.0}
    half = {"steps": [1, 1], "edited": [True, False], "kept_db": 15.0}
    records = [
        {"number": 0, "pairs": [record(), record("kind")], "whole": dict.fromkeys(WHOLE, good)},
        {"number": 1, "pairs": [record(), record()], "whole": dict.fromkeys(WHOLE, half)},
    ]
    found = summary(records)
    assert found["objects"]["all"]["objects"] == 4 and found["objects"]["kind"]["objects"] == 1
    assert found["objects"]["all"]["any"] == 1 and found["objects"]["all"]["any_kept"] == 0
    assert (
        found["objects"]["all"]["judge's S_e"]["edited"] == 1 and found["objects"]["all"]["S, weight 1"]["edited"] == 0
    )
    assert found["reassembled"]["OIR"] == {
        "both": 0.5,
        "both_kept": 0.5,
        "objects": 0.75,
        "kept_db": pytest.approx(20.0),
    }
