"""Which inversion steps a search evaluates: all in a range, or only those that may still win.

A candidate that starts at z_n costs n denoising steps, so the choice of candidates decides the cost of a search. It
depends on scores only; where they come from, a model or a recorded search, is up to the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist

from .metric import Metric, combine

STRATEGIES = ("coarse-to-fine", "exhaustive")
# The price of the rows of all candidates together, in S. A candidate whose expected gain is below the price of its own
# rows is not evaluated.
PRICE = 0.3
# No candidate is added beyond this fraction of all rows.
ROW_SHARE = 0.45
# How far S_e deviates between two candidates; 0 would be a straight line.
ROUGHNESS = 0.5
# Rough fraction of all rows that coarse-to-fine search uses: two fifths with 20 candidates, a third with 25, a quarter
# with 50.
EXPECTED_SHARE = 0.3

# Raw S_e and S_ne of a candidate.
Scores = Mapping[int, tuple[float, float]]


def candidate_steps(steps: int, first: int, last: int, stride: int) -> list[int]:
    """Inversion steps to choose from.

    Raises:
        ValueError: the range is empty or exceeds the trajectory.
    """
    last = last or steps
    if not 1 <= first <= last <= steps or stride < 1:
        raise ValueError(
            f"first_step, last_step, stride: {first}, {last} and {stride} do not fit a trajectory of {steps} steps. "
            f"Give 1 ≤ first_step ≤ last_step ≤ {steps} and stride ≥ 1 (last_step 0 means {steps})."
        )
    return list(range(first, last + 1, stride))


def next_candidates(candidates: Sequence[int], scores: Scores, strategy: str, edit_weight: float = 1.0) -> list[int]:
    """The candidates to evaluate next, given the scores so far; empty when the search is finished.

    Coarse-to-fine starts with both ends, which fix the normalisation, and the two candidates that divide the range into
    thirds. Then it evaluates, one at a time, the candidate with the largest expected gain over the best so far minus
    the price of its rows, until no gain is left (Bayesian optimisation: scores between two known ones are modelled as a
    random path, Kushner 1964; expected improvement, Jones et al. 1998). With few candidates S can have narrow peaks,
    which only an exhaustive search is sure to find. Measurements: bench/results/notes.md.

    Args:
        candidates: inversion steps to choose from, ascending.
        scores: raw S_e and S_ne of those evaluated so far.
        edit_weight: weight of S_e in S, as used to choose the winner.
    """
    if strategy == "exhaustive":
        return [n for n in candidates if n not in scores]
    if not scores:
        last = len(candidates) - 1
        return [candidates[k] for k in sorted({round(third * last / 3) for third in range(4)})]
    seen = [n for n in candidates if n in scores]
    metric = combine(*zip(*(scores[n] for n in seen), strict=True), edit_weight=edit_weight)
    if metric.total[metric.best] == 0.0:
        return []  # equal scores decide nothing, and more of them would not either
    everything = sum(candidates)
    price = PRICE / everything
    most, chosen = 0.0, list[int]()
    for k, (low, high) in enumerate(zip(seen, seen[1:], strict=False)):
        width = (high - low) / (candidates[-1] - candidates[0])
        for n in candidates:
            if low < n < high and sum(seen) + n <= ROW_SHARE * everything:
                gain = _expected_gain(metric, k, (n - low) / (high - low), width, edit_weight)
                if gain - price * n > most:
                    most, chosen = gain - price * n, [n]
    return chosen


def _expected_gain(metric: Metric, k: int, at: float, width: float, edit_weight: float) -> float:
    """Expected improvement of the best S by a candidate between the known candidates k and k + 1.

    Its S is modelled as normally distributed around the straight line between its neighbours, with a variance of 0 at
    both ends and largest in the middle. The variance grows with the change of S_e and of S_ne over the gap; for S_e,
    which may also leave the range of its ends, it grows with the width of the gap too.

    Args:
        at: position between the two, 0 … 1.
        width: their distance as a fraction of the whole range.
    """
    mean = (1 - at) * metric.total[k] + at * metric.total[k + 1]
    rise = metric.edit_norm[k + 1] - metric.edit_norm[k]
    fall = metric.keep_norm[k] - metric.keep_norm[k + 1]
    edit = edit_weight * ROUGHNESS * math.hypot(math.sqrt(width), rise)
    deviation = math.sqrt(at * (1 - at)) * math.hypot(edit, fall)
    distance = (mean - metric.total[metric.best]) / deviation
    return deviation * (distance * NormalDist().cdf(distance) + NormalDist().pdf(distance))


def search_candidates(
    candidates: Sequence[int],
    strategy: str,
    evaluate: Callable[[list[int]], Scores],
    edit_weight: float = 1.0,
) -> dict[int, tuple[float, float]]:
    """Run a search: call ``evaluate`` with the next candidates until it is finished."""
    scores: dict[int, tuple[float, float]] = {}
    while chosen := next_candidates(candidates, scores, strategy, edit_weight):
        scores.update(evaluate(chosen))
    return scores


def parse_steps(text: str, pairs: int) -> list[int | None]:
    """Steps set by hand, one per pair: a number, or "auto" or nothing to search that pair.

    Raises:
        ValueError: an entry is something else, or there is not one entry per pair.
    """
    if not text.strip():
        return [None] * pairs
    entries = [entry.strip().lower() for entry in text.replace(";", ",").split(",")]
    if len(entries) != pairs:
        raise ValueError(
            f"overrides: {text!r} has {len(entries)} entries for {pairs} editing pairs. Give one per pair, separated "
            "by commas, and 'auto' for pairs to search."
        )
    for entry in entries:
        if entry not in ("", "auto") and not entry.isdecimal():
            raise ValueError(
                f"overrides: {entry!r} in {text!r} is not an inversion step. Write a whole number or 'auto'."
            )
    return [None if entry in ("", "auto") else int(entry) for entry in entries]
