"""Candidates and short runs of a pair, made by the model."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from ..inversion.engine import Denoiser, effective_negative, run_loop
from ..inversion.trajectory import Trajectory
from ..latents import process_latent_out
from .batching import Job, run_jobs
from .short_runs import Run, full_run, residuals, run_levels
from .types import Pair


def make_candidates(
    model: Any,
    trajectory: Trajectory,
    pair: Pair,
    steps: Sequence[int],
    *,
    cfg: float,
    batch_size: int,
    published_first: bool = False,
) -> tuple[dict[int, torch.Tensor], int, int]:
    """The pair's edit started from z_n for every n in ``steps``, each in full; see :func:`make_runs`.

    Returns:
        n → clean latent (1, C, H, W) as a LATENT holds it, on the CPU; the UNet rows and the UNet calls this took.
    """
    runs = [full_run(n) for n in steps]
    made, rows, passes = make_runs(
        model, trajectory, pair, runs, cfg=cfg, batch_size=batch_size, published_first=published_first
    )
    return {run.step: latent for run, latent in made.items()}, rows, passes


def make_runs(
    model: Any,
    trajectory: Trajectory,
    pair: Pair,
    runs: Sequence[Run],
    *,
    cfg: float,
    batch_size: int,
    published_first: bool = False,
    on_pass: Callable[[int], None] | None = None,
) -> tuple[dict[Run, torch.Tensor], int, int]:
    """The pair's edit started from z_n for every run, in as many steps as the run says.

    Guided prompt against the source prompt as the unconditional branch (none at cfg 1), DDIM with eta = 0; on a flow
    model Euler, or the solver the trajectory was inverted with. The candidate n = 0, and
    n = 1 with ``published_first``, is the image itself.

    Returns:
        run → clean latent (1, C, H, W) as a LATENT holds it, on the CPU; the UNet rows and the UNet calls this took.
    """
    unchanged = {0, 1} if published_first else {0}
    results = {run: trajectory.latent_image for run in runs if run.step in unchanged}
    runs = [run for run in runs if run.step not in unchanged]
    if not runs:
        return results, 0, 0

    def keep(key: Hashable, latent: torch.Tensor) -> None:
        assert isinstance(key, Run)
        results[key] = process_latent_out(model, trajectory.to_image_latent(latent).unsqueeze(0))

    def loop(denoise: Denoiser) -> None:
        levels = [run_levels(run, trajectory.steps) for run in runs]
        jobs = [
            Job(run, trajectory.at(run.step)[0], visited, residuals(trajectory, visited))
            for run, visited in zip(runs, levels, strict=True)
        ]
        run_jobs(denoise, jobs, trajectory.sigmas, batch_size, method=trajectory.method, on_done=keep, on_pass=on_pass)

    _, used = run_loop(
        model,
        loop,
        positive=pair.conditioning,
        negative=effective_negative(model, cfg, trajectory.conditioning),
        cfg=cfg,
        latent_image=trajectory.latent_image,
        rows=min(batch_size, len(runs)),
        sigmas=trajectory.sigmas,
    )
    return results, used.rows, used.calls
