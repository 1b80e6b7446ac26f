"""Candidates in a few UNet steps: what they are, and what they say about the candidates themselves.

A candidate that starts at z_n takes n steps. Its *short run* starts at the same latent and visits fewer levels, so it
costs a fraction and lands near it. Which levels: more of the noisy ones, where an edit is decided. What a step skips
is corrected by what the inversion skipped there, see :func:`residuals`.

What their scores say about the candidates: :mod:`.estimates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..inversion.trajectory import RF_SOLVER, Trajectory

# A short run covers the fraction (k / length) ** BEND of its inversion steps with its first k steps.
BEND = 1.5


@dataclass(frozen=True, order=True)
class Run:
    """One look at candidate ``step``: it takes ``length`` UNet steps, ``step`` of them if it is run in full."""

    step: int
    length: int

    @property
    def full(self) -> bool:
        """Whether this is the candidate itself."""
        return self.length >= self.step


@dataclass(frozen=True)
class ShortRun:
    """A candidate that was only looked at in a short run.

    Attributes:
        step: inversion step n.
        length: UNet steps of the run, fewer than n.
        edit, keep: raw S_e and S_ne of the short run.
        edit_norm, keep_norm, total: what they let expect of the candidate itself, scaled as the search's metric.
    """

    step: int
    length: int
    edit: float
    keep: float
    edit_norm: float
    keep_norm: float
    total: float

    @property
    def run(self) -> Run:
        """The run."""
        return Run(self.step, self.length)


def full_run(step: int) -> Run:
    """The candidate itself."""
    return Run(step, step)


def run_levels(run: Run, steps: int) -> list[int]:
    """Positions of a run's levels in a schedule of ``steps`` steps, from ``steps - run.step`` to ``steps``."""
    if run.full:
        return list(range(steps - run.step, steps + 1))
    covered = [round(run.step * (k / run.length) ** BEND) for k in range(run.length + 1)]
    for k in range(1, run.length):  # every step goes on by one level at least, and leaves one to each that follows
        covered[k] = min(max(covered[k], covered[k - 1] + 1), run.step - (run.length - k))
    return [steps - run.step + n for n in covered]


def residuals(trajectory: Trajectory, levels: Sequence[int]) -> torch.Tensor | None:
    """What to add after each step of a short run, so that one that changes nothing stays on the trajectory.

    From level i to j > i the inverted image moves from z_i to z_j. A single step moves it by (σ_j - σ_i) · ε(z_i), and
    the inversion's own step between the levels i and i + 1 gives that ε:
    (z_{i+1} - z_i) / (σ_{i+1} - σ_i). The difference is what the skipped levels did to the image. A step to the next
    level has none. On flow models the same holds for the velocity in place of ε. Steps of second order (``rf_solver``)
    look between the levels themselves and need no help.

    Returns:
        (len(levels) - 1, C, H, W), or None if no level is skipped: a full run takes the method's plain steps.
    """
    if trajectory.method == RF_SOLVER or all(j == i + 1 for i, j in zip(levels, levels[1:])):
        return None
    z, sigmas = trajectory.latents[:, 0], trajectory.sigmas
    steps = []
    for i, j in zip(levels, levels[1:]):
        if j == i + 1:
            steps.append(torch.zeros_like(z[i]))
        else:
            noise = (z[i + 1] - z[i]) / (sigmas[i + 1] - sigmas[i])
            steps.append(z[j] - z[i] - (sigmas[j] - sigmas[i]) * noise)
    return torch.stack(steps)
