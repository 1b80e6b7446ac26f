"""Scores of candidates, estimated from those of runs: some in full, some short.

A short run's scores differ from the candidate's, more so with longer steps, and alike for neighbours and for runs of
other lengths from the same latent. That is the model of Kennedy and O'Hagan (2000) for a computation at several levels
of accuracy: one Gaussian process for the score over the candidates, one for what short runs get wrong about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from .metric import FLAT
from .short_runs import Run


@dataclass(frozen=True)
class Model:
    """What is assumed of one score, in units of the range of those seen; distances are shares of the last candidate.

    Attributes:
        spread: variance of the score over candidates that lie far apart.
        length: distance over which candidates are alike.
        smooth: whether the score changes smoothly (a squared exponential kernel), or jumps (an exponential one).
        error: deviation of a short run with steps as long as the whole schedule. Euler's method: the error of a run
            grows with the length of its steps.
        late: power of n by which that error grows with the candidate.
        error_length: distance over which these errors are alike.
        noise: deviation of what each short run has of its own, as a share of its error.
        bias: mean of the error.
    """

    spread: float
    length: float
    smooth: bool
    error: float
    late: float
    error_length: float
    noise: float
    bias: float


# Read off recorded searches of the demo model: variograms of full scores, and differences of short and full ones; then
# adjusted so that searches of them succeed. Figures: bench/results/notes.md.
EDIT = Model(spread=0.3, length=0.7, smooth=False, error=0.7, late=0.0, error_length=0.12, noise=0.3, bias=-0.4)
KEEP = Model(spread=0.6, length=0.3, smooth=True, error=0.6, late=2.0, error_length=0.12, noise=0.25, bias=0.0)
# Variance of the score's level, which is not known.
LEVEL = 1.0
# Keeps the equations solvable when runs say the same.
JITTER = 1e-5


@dataclass(frozen=True)
class Estimate:
    """One score of every candidate: mean and standard deviation, (candidates,) float64."""

    mean: torch.Tensor
    deviation: torch.Tensor


def estimate(candidates: Sequence[int], scores: Mapping[Run, float], model: Model) -> Estimate:
    """One score of every candidate from those of the runs so far, at least one.

    Candidates that were run in full have their own score and a deviation of 0. If all scores are alike, so are the
    estimates.
    """
    runs = list(scores)
    values = torch.tensor([scores[run] for run in runs], dtype=torch.float64)
    scale = float(values.max() - values.min())
    if scale <= FLAT * max(1.0, float(values.abs().max())):
        mean = values.mean().expand(len(candidates)).clone()
        return Estimate(mean, torch.zeros_like(mean))
    last = float(max(candidates))
    seen = torch.tensor([run.step for run in runs], dtype=torch.float64) / last
    wanted = torch.tensor(list(candidates), dtype=torch.float64) / last
    # how much longer the steps are than those of the full run, as a share of the schedule
    stretch = torch.tensor([(max(1.0, run.step / run.length) - 1.0) / last for run in runs], dtype=torch.float64)
    error = model.error * stretch * seen**model.late

    known = LEVEL + model.spread * _alike(seen, seen, model.length, model.smooth)
    known += error[:, None] * error * _alike(seen, seen, model.error_length)
    known += torch.diag((model.noise * error) ** 2 + JITTER)
    asked = LEVEL + model.spread * _alike(wanted, seen, model.length, model.smooth)
    weights = torch.linalg.solve(known, asked.T).T
    unbiased = values - model.bias * scale * stretch
    middle = unbiased.mean()
    mean = middle + weights @ (unbiased - middle)
    deviation = scale * (LEVEL + model.spread - (weights * asked).sum(-1)).clamp(min=0.0).sqrt()
    place = {n: k for k, n in enumerate(candidates)}
    for run, value in scores.items():
        if run.full and run.step in place:
            mean[place[run.step]], deviation[place[run.step]] = value, 0.0
    return Estimate(mean, deviation)


def _alike(one: torch.Tensor, other: torch.Tensor, length: float, smooth: bool = False) -> torch.Tensor:
    """Correlation of positions (a,) and (b,): (a, b)."""
    distance = (one[:, None] - other[None]).abs() / length
    return torch.exp(-(distance**2) / 2 if smooth else -distance)
