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

    def evaluate(runs):
        assert all(run.full for run in runs)
        turns.append([run.step for run in runs])
        return {run: scores[run.step] for run in runs}

    seen = choice.search_runs(sorted(scores), strategy, evaluate, weight)
    return {run.step: score for run, score in seen.items()}, turns


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
        with pytest.raises(ValueError, match=r"first_step, last_step, stride: .* do not fit a trajectory of 10 steps"):
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


@pytest.mark.parametrize("count, mean, often", [(10, 0.98, 0.8), (20, 0.98, 0.85), (50, 0.999, 1.0)])
def test_coarse_to_fine_finds_the_best_of_what_models_give(choice, count, mean, often):
    """With few candidates a jump lies between two of them, and each missed one costs much."""
    shares = []
    for at, width, fall, power in CURVES:
        scores = switch(count, at * count, width * count, fall, power)
        shares.append(reached(scores, look(choice, scores)[0]))
    assert sum(shares) >= mean * len(shares) and sum(share >= 0.98 for share in shares) >= often * len(shares)


@pytest.mark.parametrize("count, share", [(10, 0.53), (16, 0.42), (20, 0.4), (25, 0.37), (50, 0.3)])
def test_coarse_to_fine_costs_less_with_many_candidates_and_never_more_than_its_share(choice, count, share):
    shares = [
        sum(look(choice, switch(count, at * count, width * count, fall, power))[0]) / sum(range(count + 1))
        for at, width, fall, power in CURVES
    ]
    most = choice.row_limit(range(1, count + 1)) / sum(range(count + 1))
    assert sum(shares) / len(shares) <= share and max(shares) <= most


@pytest.mark.parametrize("count, limit", [(4, 12.0), (10, 33.0), (25, 146.25), (50, 573.75)])
def test_a_few_candidates_may_take_more_of_the_rows(choice, count, limit):
    """The first four take two fifths of ten candidates' rows, and a search that ends with them finds little."""
    assert choice.row_limit(range(1, count + 1)) == pytest.approx(limit)


@pytest.mark.parametrize("steps", [range(3, 4), range(1, 3), range(1, 51), range(5, 51, 5), range(30, 51)])
def test_it_begins_with_both_ends_and_the_thirds_between(choice, steps):
    first = choice.next_candidates(steps, {}, "coarse-to-fine")
    assert first == sorted(set(first)) and {steps[0], steps[-1]} <= set(first) <= set(steps)
    places = [steps.index(n) for n in first]
    gaps = [after - before for before, after in zip(places, places[1:])]
    assert len(first) == min(4, len(steps)) and (not gaps or max(gaps) - min(gaps) <= 1)


def test_an_edit_that_only_does_harm_is_dropped_soon(choice):
    """S_e falls together with S_ne: hardly a gap can hold anything better than the first candidate."""
    scores = {n: (-0.01 * n, -0.001 * n) for n in range(1, 51)}
    seen, _ = look(choice, scores)
    assert sum(seen) < 0.1 * sum(scores) and max(n for n in seen if n != 50) == 34


def test_scores_that_say_nothing_end_the_search(choice):
    seen, _ = look(choice, dict.fromkeys(range(1, 51), (0.25, -0.5)))
    assert sorted(seen) == [1, 17, 34, 50]


@pytest.mark.parametrize("flat", [0, 1])
def test_one_half_may_be_flat(choice, flat):
    """A target phrase that fits nothing, or a mask of the whole picture: the other half decides."""
    scores = {n: tuple(0.0 if k == flat else s for k, s in enumerate(both)) for n, both in switch(20, 9, 1.0).items()}
    seen, _ = look(choice, scores)
    assert reached(scores, seen) >= 0.98 and sum(seen) <= choice.row_limit(range(1, 21))


@pytest.mark.parametrize("at, above", [(5, False), (17, True)])
def test_it_looks_where_the_edit_switches(choice, at, above):
    """Dear candidates above the second third only if the edit comes no earlier."""
    _, (first, *later) = look(choice, switch(20, at, 0.2))
    assert first == [1, 7, 14, 20] and any(n > 14 for turn in later for n in turn) == above


def test_the_expected_gain_by_hand(choice):
    """Halfway between equal totals the line meets the best, so the gain is the deviation over √(2π)."""
    from partedit_oir.core.oir.metric import combine

    metric = combine([0.0, 1.0], [0.0, -1.0])
    assert metric.total == (1.0, 1.0)
    # S_e: 0.5 · √(0.36 + 1²), S_ne: 1
    deviation = 0.5 * math.hypot(0.5 * math.sqrt(1.36), 1.0)
    assert choice._expected_gain(metric, 0, 0.5, 0.36, 1.0) == pytest.approx(deviation / math.sqrt(2 * math.pi))
    # a quarter of the way the deviation shrinks by √(3/16) : ½
    shrunk = choice._expected_gain(metric, 0, 0.25, 0.36, 1.0)
    assert shrunk == pytest.approx(deviation * math.sqrt(0.75) / math.sqrt(2 * math.pi))


def test_the_expected_gain_is_the_mean_of_what_random_paths_add(choice):
    from partedit_oir.core.oir.metric import combine

    metric = combine([0.0, 0.2, 1.0], [0.0, -0.3, -1.0], edit_weight=2.0)
    at, width = 0.3, 0.5
    mean = 0.7 * metric.total[0] + 0.3 * metric.total[1]
    deviation = math.sqrt(at * (1 - at)) * math.hypot(2 * choice.ROUGHNESS * math.sqrt(width + 0.2**2), 0.3)
    draw, best = random.Random(1), metric.total[2]
    drawn = [max(0.0, draw.gauss(mean, deviation) - best) for _ in range(200_000)]
    assert choice._expected_gain(metric, 0, at, width, 2.0) == pytest.approx(sum(drawn) / len(drawn), rel=0.1)


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
        with pytest.raises(ValueError, match="is not an inversion step"):
            choice.parse_steps(bad, 1)
