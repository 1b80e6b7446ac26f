"""Which inversion steps a search looks at: all of a range, or the few that can still win.

A candidate that starts at z_n costs n denoising steps, so which ones are looked at decides what a search costs. The
choice depends on scores alone; what gives the scores, a model or a record of an earlier search, is the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist

from .metric import Metric, combine

STRATEGIES = ("coarse-to-fine", "exhaustive")
# What the rows of all candidates are worth, in S. A candidate that is expected to gain less than its own rows are worth
# is not looked at.
PRICE = 0.3
# No candidate is added beyond this share of all rows.
ROW_SHARE = 0.45
# How far S_e strays between two candidates; 0 would be a straight line.
ROUGHNESS = 0.5
# What coarse-to-fine search takes of all rows, about: two fifths with 20 candidates, a third with 25, a fourth with 50.
EXPECTED_SHARE = 0.3

# Raw S_e and S_ne of a candidate.
Scores = Mapping[int, tuple[float, float]]


def candidate_steps(steps: int, first: int, last: int, stride: int) -> list[int]:
    """Inversion steps to choose from.

    Raises:
        ValueError: the range is empty or leaves the trajectory.
    """
    last = last or steps
    if not 1 <= first <= last <= steps or stride < 1:
        raise ValueError(
            f"first_step {first}, last_step {last} and stride {stride} do not fit a trajectory of {steps} steps; "
            f"needed: 1 ≤ first_step ≤ last_step ≤ {steps} and stride ≥ 1 (last_step 0 means {steps})."
        )
    return list(range(first, last + 1, stride))


def next_candidates(candidates: Sequence[int], scores: Scores, strategy: str, edit_weight: float = 1.0) -> list[int]:
    """The candidates to look at next, given the scores so far; none when the search is finished.

    Coarse-to-fine begins with both ends, which fix the normalisation, and the two candidates that cut the range in
    thirds. Then it looks, one at a time, at the candidate with the largest expected gain over the best so far, less
    what its rows are worth, until none is left (Bayesian optimisation: the scores between two known ones are taken for
    a random path, Kushner 1964; expected improvement, Jones et al. 1998).

    Measured with the demo checkpoint on 120 pairs, against the rows and the best S of an exhaustive search: 25
    candidates took 34 % of the rows and reached 98 % of the best S in 92 % of the pairs (``bench object_edits``). The
    curves of an earlier checkpoint with 16 candidates: 41 %, 85 %; 25 drawn over 50: 24 %, 97 %. The constants were
    chosen on scores of an earlier CLIP scorer. Where few candidates leave S with narrow peaks, nothing but the
    exhaustive search is sure to find the best.

    Args:
        candidates: inversion steps to choose from, ascending.
        scores: raw S_e and S_ne of those looked at so far.
        edit_weight: weight of S_e in S, the one that the winner is chosen with.
    """
    if strategy == "exhaustive":
        return [n for n in candidates if n not in scores]
    if not scores:
        last = len(candidates) - 1
        return [candidates[k] for k in sorted({round(third * last / 3) for third in range(4)})]
    seen = [n for n in candidates if n in scores]
    metric = combine(*zip(*(scores[n] for n in seen), strict=True), edit_weight=edit_weight)
    if metric.total[metric.best] == 0.0:
        return []  # scores that are all alike decide nothing, and more of them would not either
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
    """What a candidate between the known ones k and k + 1 is expected to add to the best S (expected improvement).

    Its S is taken as normally distributed: around the straight line between its neighbours, with a variance that is 0
    at both and largest in the middle. S_ne falls somewhere in the gap, so it strays the more the further it falls; so
    does S_e, which besides may leave the range of its ends, the more the wider the gap.

    Args:
        at: place between the two, 0 … 1.
        width: their distance as a share of the whole range.
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
    """Ask ``evaluate`` for the scores of one choice of candidates after the other, until the search is finished."""
    scores: dict[int, tuple[float, float]] = {}
    while chosen := next_candidates(candidates, scores, strategy, edit_weight):
        scores.update(evaluate(chosen))
    return scores


def parse_steps(text: str, pairs: int) -> list[int | None]:
    """Steps set by hand, one a pair: numbers, or "auto" or nothing for a pair that is searched.

    Raises:
        ValueError: something else stands there, or not one entry a pair.
    """
    if not text.strip():
        return [None] * pairs
    entries = [entry.strip().lower() for entry in text.replace(";", ",").split(",")]
    if len(entries) != pairs:
        raise ValueError(
            f"overrides: {text!r} has {len(entries)} entries for {pairs} editing pairs. Give one a pair, separated by "
            "commas, with 'auto' for those that shall be searched."
        )
    for entry in entries:
        if entry not in ("", "auto") and not entry.isdecimal():
            raise ValueError(f"overrides: {entry!r} in {text!r} is no inversion step; write a whole number or 'auto'.")
    return [None if entry in ("", "auto") else int(entry) for entry in entries]
