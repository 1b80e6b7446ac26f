"""Denoising runs of different lengths in one batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

from ..inversion.ddim import solver_step
from ..inversion.engine import Denoiser
from ..inversion.trajectory import DDIM_METHODS


@dataclass
class Job:
    """One run: ``latent`` (C, H, W) is at the first of ``levels`` and visits the others in turn.

    Attributes:
        levels: positions in the sigmas, ascending.
        residuals: (len(levels) - 1, C, H, W), added after the steps of a shortened run, or None; see
            :func:`.short_runs.residuals`.
        done: steps taken so far.
    """

    key: Hashable
    latent: torch.Tensor
    levels: Sequence[int]
    residuals: torch.Tensor | None = None
    done: int = 0

    @property
    def index(self) -> int:
        """Position in the sigmas that the latent is at."""
        return self.levels[self.done]

    @property
    def remaining(self) -> int:
        """Remaining steps."""
        return len(self.levels) - 1 - self.done

    def advance(self, latent: torch.Tensor) -> None:
        """Take the result (C, H, W) of the next step."""
        if self.residuals is not None:
            latent = latent + self.residuals[self.done].to(latent.device)
        self.latent, self.done = latent, self.done + 1


def pick_rows(jobs: list[Job], batch_size: int, mixed_sigmas: bool = True) -> list[Job]:
    """The jobs of the next UNet call.

    The jobs with most steps left go first, and each finished row makes room for the next. No schedule needs fewer
    calls: max(longest run, ceil(all steps / batch_size)). If all rows of a call must share one sigma
    (``mixed_sigmas`` False), only the jobs at the noisiest level take part.
    """
    if not mixed_sigmas:
        noisiest = min(job.index for job in jobs)
        jobs = [job for job in jobs if job.index == noisiest]
    return sorted(jobs, key=lambda job: -job.remaining)[:batch_size]


def run_jobs(
    denoise: Denoiser,
    jobs: list[Job],
    sigmas: torch.Tensor,
    batch_size: int,
    *,
    method: str = DDIM_METHODS[0],
    on_done: Callable[[Hashable, torch.Tensor], None],
    on_pass: Callable[[int], None] | None = None,
) -> None:
    """Denoise all jobs with DDIM (eta = 0) or a flow's own step, several per call even at different noise levels.

    Args:
        sigmas: (S+1,) descending; a job's ``levels`` point into it.
        batch_size: largest number of rows in one call.
        method: the trajectory's, for the order of the steps (`solver_step`).
        on_done: called with a job's key and its latent (C, H, W) on the CPU as soon as it is finished.
        on_pass: called with the number of row-steps after each step of a batch.
    """
    levels = sigmas.to(denoise.device)
    pending = list(jobs)
    while True:
        for job in [job for job in pending if job.remaining <= 0]:
            pending.remove(job)
            on_done(job.key, job.latent.float().cpu())
        if not pending:
            return
        rows = pick_rows(pending, max(1, batch_size), denoise.mixed_sigmas)
        x = torch.stack([job.latent.to(denoise.device) for job in rows])
        at, after = (
            torch.tensor([job.levels[job.done + ahead] for job in rows], device=denoise.device) for ahead in (0, 1)
        )
        x = solver_step(denoise, x, levels[at], levels[after], method)
        for job, latent in zip(rows, x, strict=True):
            job.advance(latent)
        if on_pass is not None:
            on_pass(len(rows))
