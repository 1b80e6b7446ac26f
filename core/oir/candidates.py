"""Which inversion steps a search looks at: all of a range, or the few that can still win.

A candidate that starts at z_n costs n denoising steps, so which ones are looked at decides what a search costs. The
choice depends on scores alone; what gives the scores, a model or a record of an earlier search, is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .metric import combine

STRATEGIES = ("coarse-to-fine", "exhaustive")
# A gap is left alone when it promises less than this share more than the best candidate so far.
WORTHWHILE = 0.02
# How much S_e may rise above both ends of a gap as wide as the whole range; less in a narrow one.
WAVINESS = 0.1
# The neighbours of the winner are looked at last, as long as the whole search stays below this share of all rows.
NEIGHBOUR_SHARE = 0.25
# What coarse-to-fine search takes of all rows, about, with 20 steps; a fifth with 50.
EXPECTED_SHARE = 1 / 3

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

    Coarse-to-fine begins with both ends and the middle, and then halves, one at a time, the gap between two neighbours
    that promises most. S_ne falls as steps rise, and S_e mostly switches from the source's value to the edit's
    somewhere; so the best that a gap can hold is the better S_e of its ends together with the S_ne at its lower end.
    Gaps that promise nothing over the best candidate are never looked into. At the end come the winner's neighbours.

    Args:
        candidates: inversion steps to choose from, ascending.
        scores: raw S_e and S_ne of those looked at so far.
        edit_weight: weight of S_e in S, the one that the winner is chosen with.
    """
    count = len(candidates)
    if strategy == "exhaustive":
        return [n for n in candidates if n not in scores]
    if not scores:
        return [candidates[at] for at in sorted({0, (count - 1) // 2, count - 1})]
    seen = [at for at in range(count) if candidates[at] in scores]
    metric = combine(*zip(*(scores[candidates[at]] for at in seen), strict=True), edit_weight=edit_weight)
    best = metric.total[metric.best]
    if best == 0.0:
        return []  # scores that are all alike decide nothing, and more of them would not either
    promises: list[tuple[float, int]] = []
    for k, (low, high) in enumerate(zip(seen, seen[1:], strict=False)):
        if high - low == 1:
            continue
        slope = (metric.keep_norm[k + 1] - metric.keep_norm[k]) / (high - low)
        keep = max(metric.keep_norm[k] + slope, metric.keep_norm[k + 1] - slope)
        wave = WAVINESS * (high - low - 1) / (count - 1)
        promises.append((edit_weight * (max(metric.edit_norm[k : k + 2]) + wave) + keep, (low + high + 1) // 2))
    promise, middle = max(promises, default=(0.0, 0))
    if promise > best + WORTHWHILE * max(best, 1.0):
        return [candidates[middle]]
    return _neighbours(candidates, scores, seen[metric.best])


def _neighbours(candidates: Sequence[int], scores: Scores, winner: int) -> list[int]:
    found: list[int] = []
    for at in (winner - 1, winner + 1):
        if 0 <= at < len(candidates) and candidates[at] not in scores:
            cost = sum(scores) + sum(found) + candidates[at]
            if cost <= NEIGHBOUR_SHARE * sum(candidates):
                found.append(candidates[at])
    return found


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
