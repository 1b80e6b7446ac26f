"""Which candidates a search looks at: from scores alone, without a model."""

from __future__ import annotations

import math
import random

import pytest


@pytest.fixture(scope="module")
def choice(pack):
    from partedit_oir.core.oir import candidates

    return candidates


def switch(count, at, width, fall=0.0, keep_power=2.0):
    """Scores of 1 … count as a model gives them: S_e rises around ``at`` and may fall after it, S_ne falls."""
    scores = {}
    for n in range(1, count + 1):
        edit = 1 / (1 + math.exp(min(50.0, (at - n) / width))) - fall * max(0, n - at) / count
        scores[n] = (0.2 + 0.1 * edit, -0.05 * (n / count) ** keep_power)
    return scores


def totals(scores, weight=1.0):
    from partedit_oir.core.oir.metric import combine

    steps = sorted(scores)
    return dict(zip(steps, combine(*zip(*(scores[n] for n in steps)), edit_weight=weight).total))


def look(choice, scores, strategy="coarse-to-fine", weight=1.0):
    """What a search looks at: the scores that it asked for, and its turns."""
    turns = []

    def evaluate(steps):
        turns.append(steps)
        return {n: scores[n] for n in steps}

    return choice.search_candidates(sorted(scores), strategy, evaluate, weight), turns


def reached(scores, seen, weight=1.0):
    """S of the chosen candidate as a share of the best, both by all scores."""
    own = totals(seen, weight)
    full = totals(scores, weight)
    return full[max(sorted(own), key=lambda n: own[n])] / max(full.values())


CURVES = [
    (at, width, fall, power)
    for at in (0.1, 0.3, 0.5, 0.7, 0.9)
    for width in (0.01, 0.05)
    for fall in (0.0, 0.5)
    for power in (1.0, 2.0, 4.0)
]


def test_candidate_ranges(choice):
    assert choice.candidate_steps(10, 1, 0, 1) == list(range(1, 11))
    assert choice.candidate_steps(10, 2, 9, 3) == [2, 5, 8]
    for bad in ((0, 5, 1), (6, 5, 1), (1, 11, 1), (1, 5, 0)):
        with pytest.raises(ValueError, match=r"first_step .* do not fit a trajectory of 10 steps"):
            choice.candidate_steps(10, *bad)


def test_exhaustive_looks_at_all_at_once(choice):
    scores = switch(9, 4, 1)
    seen, turns = look(choice, scores, "exhaustive")
    assert seen == scores and turns == [list(range(1, 10))]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 20, 50])
def test_coarse_to_fine_ends_and_asks_for_nothing_twice(choice, count):
    shuffled = random.Random(count)
    for _ in range(20):
        scores = {n: (shuffled.random(), -shuffled.random()) for n in range(1, count + 1)}
        seen, turns = look(choice, scores)
        asked = [n for turn in turns for n in turn]
        assert len(asked) == len(set(asked)) and all(turns)
        assert {1, count} <= set(seen) <= set(scores)


@pytest.mark.parametrize("count", [20, 50])
def test_coarse_to_fine_finds_the_best_of_what_models_give(choice, count):
    shares = []
    for at, width, fall, power in CURVES:
        scores = switch(count, at * count, width * count, fall, power)
        shares.append(reached(scores, look(choice, scores)[0]))
    assert min(shares) >= 0.95 and sum(share >= 0.98 for share in shares) >= 0.9 * len(shares)


@pytest.mark.parametrize("count, share", [(20, 0.35), (50, 0.25)])
def test_coarse_to_fine_costs_at_most_about_a_third(choice, count, share):
    shares = [
        sum(look(choice, switch(count, at * count, width * count, fall, power))[0]) / sum(range(count + 1))
        for at, width, fall, power in CURVES
    ]
    assert sum(shares) / len(shares) <= share and max(shares) <= 0.6


def test_an_edit_that_only_does_harm_is_dropped_at_once(choice):
    """S_e falls together with S_ne: no gap can hold anything better than the first candidate."""
    scores = {n: (-0.01 * n, -0.001 * n) for n in range(1, 21)}
    seen, _ = look(choice, scores)
    assert sorted(seen) == [1, 2, 10, 20]


def test_scores_that_say_nothing_end_the_search(choice):
    seen, _ = look(choice, dict.fromkeys(range(1, 51), (0.25, -0.5)))
    assert sorted(seen) == [1, 25, 50]


def test_the_gap_that_promises_most_is_halved_first(choice):
    """S_e switches between the middle and the end, so the upper gap is looked into and the lower one never."""
    scores = switch(20, 15, 0.2)
    _, turns = look(choice, scores)
    assert turns[0] == [1, 10, 20]
    assert all(n > 10 for turn in turns[1:] for n in turn)


def test_the_winner_s_neighbours_come_last_and_only_while_they_are_cheap(choice):
    early, late = switch(20, 4, 0.2), switch(20, 18, 0.2)
    seen, _ = look(choice, early)
    best = max(seen, key=totals(seen).get)
    assert {best - 1, best + 1} <= set(seen)
    seen, _ = look(choice, late)
    before = sum(seen) / 210
    assert before > choice.NEIGHBOUR_SHARE and 20 in seen


@pytest.mark.parametrize("weight", [0.1, 1.0, 3.0])
def test_the_weight_of_the_edit_steers_the_search(choice, weight):
    """S_e jumps at step 6 and again at 16: which is better depends on the weight, and so does where is looked."""
    scores = {n: (edit + 0.03 * (n >= 16), keep) for n, (edit, keep) in switch(20, 6, 0.5).items()}
    seen, _ = look(choice, scores, weight=weight)
    assert reached(scores, seen, weight) >= 0.97
    assert (max(seen, key=totals(seen, weight).get) >= 16) == (weight > 1)


def test_overrides_as_text(choice):
    assert choice.parse_steps("", 3) == [None] * 3
    assert choice.parse_steps("24, auto; ,7", 4) == [24, None, None, 7]
    with pytest.raises(ValueError, match="2 entries for 3 editing pairs"):
        choice.parse_steps("1,2", 3)
    for bad in ("x", "-1", "2.5"):
        with pytest.raises(ValueError, match="is no inversion step"):
            choice.parse_steps(bad, 1)
