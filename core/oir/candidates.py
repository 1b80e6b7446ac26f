"""Which inversion steps a search evaluates: all in a range, or only those that may still win.

A candidate that starts at z_n costs n denoising steps, so the choice of candidates decides the cost of a search. It
depends on scores only; where they come from, a model or a recorded search, is up to the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch

from .estimates import EDIT, KEEP, Estimate, estimate
from .metric import FLAT, Metric, combine
from .short_runs import Run, ShortRun, full_run

STRATEGIES = ("short-to-full", "coarse-to-fine", "exhaustive")
# The price of the rows of all candidates together, in S. A candidate whose expected gain is below the price of its own
# rows is not evaluated.
PRICE = 0.3
# No candidate is added beyond this fraction of all rows, but this much is always left to those after the first four:
# of 10 candidates, these alone take two fifths.
ROW_SHARE, LEFT_SHARE = 0.45, 0.2
# How far S_e deviates between two candidates; 0 would be a straight line.
ROUGHNESS = 0.5
# Short runs to begin with, per candidates to the power of 0.3: four of 10, five of 25, six or seven of 50.
LOOKS = 2.0
# UNet steps of a short run, per square root of the last candidate's: two of 10, three of 25, four of 50. A closer look
# takes twice as many.
LOOK_LENGTH = 0.6
# A closer look is taken if S deviates by this much, and if the candidate has this many times the steps.
UNSURE = 0.06
CLOSER_FROM = 2.0
# Share of all rows that a search should spend; of more than 25 candidates less, by this power of their number.
BUDGET, BUDGET_POWER = 0.17, -0.6
# The price of the rows of all candidates together, in S, once the budget is spent; it rises with this power of what is.
RUN_PRICE, PRICE_POWER = 5.0, 4.0
# No run begins that would exceed this many times the budget.
LARGEST = 2.4
# At the end, candidates this far from the best one, as a share of their number, are run in full as well, up to this
# many times the budget.
BESIDE, BESIDE_LIMIT = 0.04, 1.25
# Rough fraction of all rows that a search uses; coarse-to-fine half with 10 candidates, a quarter with 50.
EXPECTED_SHARE = {"coarse-to-fine": 0.33, "short-to-full": 0.18}

# Raw S_e and S_ne of candidates, and of runs.
CandidateScores = Mapping[int, tuple[float, float]]
Scores = Mapping[Run, tuple[float, float]]


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


def next_candidates(
    candidates: Sequence[int], scores: CandidateScores, strategy: str, edit_weight: float = 1.0
) -> list[int]:
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
        return _thirds(candidates)
    seen = [n for n in candidates if n in scores]
    metric = combine(*zip(*(scores[n] for n in seen), strict=True), edit_weight=edit_weight)
    if metric.total[metric.best] == 0.0:
        return []  # equal scores decide nothing, and more of them would not either
    everything = sum(candidates)
    price, limit = PRICE / everything, row_limit(candidates)
    most, chosen = 0.0, list[int]()
    for k, (low, high) in enumerate(zip(seen, seen[1:], strict=False)):
        width = (high - low) / (candidates[-1] - candidates[0])
        for n in candidates:
            if low < n < high and sum(seen) + n <= limit:
                gain = _expected_gain(metric, k, (n - low) / (high - low), width, edit_weight)
                if gain - price * n > most:
                    most, chosen = gain - price * n, [n]
    return chosen


def _thirds(candidates: Sequence[int]) -> list[int]:
    """Both ends, and the two candidates that divide the range into thirds."""
    last = len(candidates) - 1
    return [candidates[k] for k in sorted({round(third * last / 3) for third in range(4)})]


def row_limit(candidates: Sequence[int]) -> float:
    """The most rows (of one image, without guidance) that a coarse-to-fine search takes."""
    everything = sum(candidates)
    return max(ROW_SHARE * everything, sum(_thirds(candidates)) + LEFT_SHARE * everything)


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
    return _improvement(mean - metric.total[metric.best], deviation)


def next_runs(candidates: Sequence[int], scores: Scores, strategy: str, edit_weight: float = 1.0) -> list[Run]:
    """The runs to make next, given the scores so far; empty when the search is finished.

    ``exhaustive`` and ``coarse-to-fine`` run candidates in full, see :func:`next_candidates`. ``short-to-full`` begins
    with short runs spread over the range. From the scores so far it estimates those of all candidates, with how unsure
    they are (:mod:`.estimates`), and makes the run with the largest expected gain over the best candidate so far minus
    its price: a closer look (a run of twice the length) where S is unsure, the candidate itself elsewhere. The price
    rises with the rows that are spent. When no run is worth its price and the candidate with the highest estimate has
    been run in full (multi-fidelity Bayesian optimisation; expected improvement, Jones et al. 1998), those close to the
    best one follow, because S is smooth over a few steps. Only candidates run in full are chosen.

    Args:
        candidates: inversion steps to choose from, ascending.
        scores: raw S_e and S_ne of the runs so far.
        edit_weight: weight of S_e in S, as used to choose the winner.
    """
    if strategy != "short-to-full":
        full = {run.step: score for run, score in scores.items() if run.full}
        return [full_run(n) for n in next_candidates(candidates, full, strategy, edit_weight)]
    return _next_short_to_full(candidates, scores, edit_weight)


@dataclass(frozen=True)
class Comparison:
    """The candidates that were run in full, with their scores, and what short runs say about others.

    Attributes:
        steps: candidates that were run in full, ascending.
        metric: their scores. If others had short runs only, both parts are scaled over the estimates of all candidates.
        short: candidates that had short runs only, by the longest.
    """

    steps: tuple[int, ...]
    metric: Metric
    short: tuple[ShortRun, ...] = ()

    @property
    def chosen(self) -> int:
        """The candidate with the highest S."""
        return self.steps[self.metric.best]


def compare(candidates: Sequence[int], scores: Scores, edit_weight: float = 1.0) -> Comparison:
    """Compare the candidates that were run in full, at least one."""
    full = sorted(run.step for run in scores if run.full)
    edit, keep = zip(*(scores[full_run(n)] for n in full), strict=True)
    short = {run.step: run for run in sorted(scores) if full_run(run.step) not in scores}  # the longest of each step
    if not short:
        return Comparison(tuple(full), combine(edit, keep, edit_weight=edit_weight))
    steps = sorted({*candidates, *full})
    edits, keeps = (one.mean.tolist() for one in _estimates(steps, scores))
    metric = combine(edit, keep, edit_weight=edit_weight, edit_bounds=edits, keep_bounds=keeps)
    every = combine(edits, keeps, edit_weight=edit_weight)
    shown = [
        ShortRun(run.step, run.length, *scores[run], every.edit_norm[k], every.keep_norm[k], every.total[k])
        for run in sorted(short.values())
        for k in [steps.index(run.step)]
    ]
    return Comparison(tuple(full), metric, tuple(shown))


def _estimates(candidates: Sequence[int], scores: Scores) -> tuple[Estimate, Estimate]:
    edit = estimate(candidates, {run: pair[0] for run, pair in scores.items()}, EDIT)
    return edit, estimate(candidates, {run: pair[1] for run, pair in scores.items()}, KEEP)


def first_looks(candidates: Sequence[int]) -> list[Run]:
    """Short runs spread evenly over the candidates, both ends among them; the earliest are short enough to be full."""
    last = len(candidates) - 1
    looks = max(2, round(LOOKS * len(candidates) ** 0.3))
    places = sorted({round(k * last / (looks - 1)) for k in range(looks)})
    return [Run(candidates[k], min(candidates[k], _look_length(candidates))) for k in places]


def _look_length(candidates: Sequence[int]) -> int:
    return max(2, round(LOOK_LENGTH * math.sqrt(candidates[-1])))


def _next_short_to_full(candidates: Sequence[int], scores: Scores, edit_weight: float) -> list[Run]:
    """One run, the one with the largest expected gain minus its price; see :func:`next_runs`."""
    if not scores:
        return first_looks(candidates)
    full = [k for k, n in enumerate(candidates) if full_run(n) in scores]
    edit, keep = _estimates(candidates, scores)
    metric = combine(edit.mean.tolist(), keep.mean.tolist(), edit_weight=edit_weight)
    if metric.total[metric.best] == 0.0:
        # equal scores decide nothing, and more of them would not either
        return [] if full else [full_run(candidates[0])]
    spans = [max(one.mean.max() - one.mean.min(), torch.tensor(FLAT)) for one in (edit, keep)]
    deviations = torch.hypot(edit_weight * edit.deviation / spans[0], keep.deviation / spans[1]).tolist()
    best = max((metric.total[k] for k in full), default=min(metric.total))

    everything, spent = sum(candidates), sum(run.length for run in scores)
    budget = _budget(candidates)
    price = RUN_PRICE * (spent / budget) ** PRICE_POWER / everything
    most, chosen = 0.0, list[Run]()
    for n, total, deviation in zip(candidates, metric.total, deviations, strict=True):
        run = _next_look(n, candidates, scores, deviation)
        if full_run(n) in scores or deviation <= 0.0 or spent + run.length > LARGEST * budget:
            continue
        gain = _improvement(total - best, deviation) - price * run.length
        if gain > most:
            most, chosen = gain, [run]
    if chosen:
        return chosen
    # Nothing is worth another look. What is expected to win has to be there in full.
    n = candidates[metric.best]
    if full_run(n) not in scores and (not full or spent + n <= LARGEST * budget):
        return [full_run(n)]
    # S is smooth over a few steps, so one of the best one's neighbours may be better; the earlier first.
    place, apart = max(full, key=lambda k: metric.total[k]), max(1, round(BESIDE * len(candidates)))
    near = [candidates[k] for k in (place - apart, place + apart) if 0 <= k < len(candidates)]
    left = BESIDE_LIMIT * budget - spent
    return next(([full_run(n)] for n in near if full_run(n) not in scores and n <= left), [])


def _budget(candidates: Sequence[int]) -> float:
    """Rows that a search should spend."""
    return BUDGET * sum(candidates) * max(1.0, len(candidates) / 25) ** BUDGET_POWER


def _next_look(n: int, candidates: Sequence[int], scores: Scores, deviation: float) -> Run:
    """A closer look if the candidate's S is still unsure and that saves rows, or else the candidate itself."""
    closer = Run(n, 2 * _look_length(candidates))
    if deviation >= UNSURE and n >= CLOSER_FROM * closer.length and closer not in scores:
        return closer
    return full_run(n)


def _improvement(ahead: float, deviation: float) -> float:
    """Expected gain over the best by a normally distributed S whose mean is ``ahead`` of it."""
    distance = ahead / deviation
    return deviation * (distance * NormalDist().cdf(distance) + NormalDist().pdf(distance))


def search_runs(
    candidates: Sequence[int],
    strategy: str,
    evaluate: Callable[[list[Run]], Scores],
    edit_weight: float = 1.0,
) -> dict[Run, tuple[float, float]]:
    """Do a search: call ``evaluate`` with the next runs until it is finished."""
    scores: dict[Run, tuple[float, float]] = {}
    while chosen := next_runs(candidates, scores, strategy, edit_weight):
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


def check_overrides(overrides: Sequence[int | None], steps: int) -> None:
    """Raise a ValueError for a step set by hand that a trajectory of ``steps`` steps does not have."""
    for n in overrides:
        if n is not None and not 0 <= n <= steps:
            raise ValueError(
                f"overrides: {n} is outside this trajectory, which has steps 1 to {steps} (0 is the image itself). "
                "Give a step in that range, or 'auto'."
            )
