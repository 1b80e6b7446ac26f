"""Optimal inversion step search (Yang et al. 2023): which z_n gives the best edit of a pair?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_management
import comfy.utils
import torch

from ..decoding import Decode
from ..inversion.memory import auto_batch_size
from ..inversion.trajectory import Trajectory
from .checks import check_inputs
from .making import make_runs
from .memory import Scored, SearchMemory
from .metric import Scorer, keep_score
from .pair_state import PairState
from .search_settings import SearchSettings
from .short_runs import Run
from .types import Pair, StepSearch


def search_steps(
    model: Any,
    trajectory: Trajectory,
    pairs: Sequence[Pair],
    decode: Decode,
    scorer: Scorer,
    settings: SearchSettings,
    *,
    on_candidate: Callable[[int, Run, torch.Tensor], Any] | None = None,
    on_remembered: Callable[[int, Run, Any, Callable[[], torch.Tensor]], None] | None = None,
    on_scored: Callable[[int, Run, Scored], None] | None = None,
    memory: SearchMemory | None = None,
) -> StepSearch:
    """Find the inversion step of every pair.

    Args:
        decode: LATENT samples (1, C, h, w) → picture (H, W, 3) in 0 … 1 on the CPU. One candidate is decoded at a time.
        scorer: gives S_e.
        on_candidate: gets the pair's position, the run and the picture of every candidate and short run, to draw
            thumbnails.
        on_remembered: gets, of a run that ``memory`` knows, the pair's position, the run, what ``on_candidate`` had
            returned for it, and a function that decodes it once more.
        on_scored: gets the pair's position, the run and the scores of every one looked at. Of a pair whose step is set
            by hand, first those in the range that earlier searches have scored.
        memory: what earlier searches made, and where this one leaves what it makes.

    Raises:
        ValueError: an input that cannot work, before anything is sampled.
    """
    check_inputs(model, trajectory, pairs, cfg=settings.cfg)
    settings.check(len(pairs), trajectory.steps)
    source = decode(trajectory.latent_image)
    overrides = settings.overrides or [None] * len(pairs)
    states = [
        PairState.start(pair, override, settings, trajectory, source.shape[:2])
        for pair, override in zip(pairs, overrides, strict=True)
    ]
    for state in states:
        if memory is not None:
            state.recall(memory, model, trajectory, decode, scorer, settings)
        # whatever the scorer has against a text or a mask, it says before the model runs
        scorer.score(source, settings.scored_text(state.pair), mask=state.mask, mode=settings.mask_mode)
    search = _Search(
        model,
        trajectory,
        decode,
        scorer,
        settings,
        states,
        source,
        on_candidate or _ignore,
        on_remembered or _ignore,
        on_scored or _ignore,
    )
    search.report_known()
    # All pairs take a turn before the next choice, so the UNet leaves the memory once a turn and not once a pair.
    while any(turn := [state.todo() for state in states]):
        search.make(turn)
        search.score(turn)
    return StepSearch(
        tuple(state.finish() for state in states),
        steps=trajectory.steps,
        strategy="manual" if all(state.manual for state in states) else settings.strategy,
        cfg=settings.cfg,
        exhaustive_rows=sum(state.exhaustive_rows(settings.published_first) for state in states),
        edit_weight=settings.edit_weight,
        score_text=settings.score_text,
    )


def _ignore(*_: Any) -> None:
    """Nobody wants to hear it."""


@dataclass
class _Search:
    """A search that runs: what it works with, and who is told; a turn is a list of runs for every pair."""

    model: Any
    trajectory: Trajectory
    decode: Decode
    scorer: Scorer
    settings: SearchSettings
    states: Sequence[PairState]
    source: torch.Tensor
    on_candidate: Callable[[int, Run, torch.Tensor], Any]
    on_remembered: Callable[[int, Run, Any, Callable[[], torch.Tensor]], None]
    on_scored: Callable[[int, Run, Scored], None]

    def __post_init__(self) -> None:
        self.batch_size = self.settings.batch_size or auto_batch_size(
            self.model, self.trajectory.latent_image.shape, 1 if self.settings.cfg == 1.0 else 2
        )
        self.progress = comfy.utils.ProgressBar(sum(state.expected_work() for state in self.states))

    def report_known(self) -> None:
        """Tell what earlier searches have scored in the range of pairs whose step is set by hand."""
        for position, state in enumerate(self.states):
            for run in state.known() if state.manual else ():
                if run.step not in state.candidates:
                    self.on_scored(position, run, state.scored[run])

    def make(self, turn: Sequence[Sequence[Run]]) -> None:
        """Run the model for those runs that are not known yet."""
        new = [[run for run in runs if run not in state.latents] for state, runs in zip(self.states, turn, strict=True)]
        work = sum(sum(run.length for run in runs) for runs in new) + sum(len(runs) for runs in turn)
        self.progress.total = max(self.progress.total, self.progress.current + work)
        for state, runs in zip(self.states, new, strict=True):
            made, rows, passes = make_runs(
                self.model,
                self.trajectory,
                state.pair,
                runs,
                cfg=self.settings.cfg,
                batch_size=self.batch_size,
                published_first=self.settings.published_first,
                on_pass=self.progress.update,
            )
            state.latents.update(made)
            state.made.update(made)
            state.rows += rows
            state.passes += passes

    def score(self, turn: Sequence[Sequence[Run]]) -> None:
        """Score the runs of a turn, all of which have been made."""
        for position, (state, runs) in enumerate(zip(self.states, turn, strict=True)):
            for run in sorted(runs):
                comfy.model_management.throw_exception_if_processing_interrupted()
                if run in state.scored:
                    note = state.scored[run].note
                    self.on_remembered(position, run, note, partial(self.decode, state.latents[run]))
                else:
                    state.scored[run] = self._scored(position, state, run)
                found = state.scored[run]
                state.scores[run] = found.edit, found.keep
                self.on_scored(position, run, found)
                self.progress.update(1)

    def _scored(self, position: int, state: PairState, run: Run) -> Scored:
        """Decode and score a new run. Its picture is gone before the next one is decoded."""
        picture = self.decode(state.latents[run])
        if not bool(torch.isfinite(picture).all()):
            raise ValueError(
                f"pairs: candidate {run.step} of {state.pair.label} holds NaN or infinite values. The model or "
                "the VAE overflows in half precision. Start ComfyUI with --fp32-vae or --force-fp32, or load "
                "another VAE."
            )
        text = self.settings.scored_text(state.pair)
        edit = float(self.scorer.score(picture, text, mask=state.mask, mode=self.settings.mask_mode))
        keep = keep_score(picture, self.source, state.mask)
        return Scored(edit, keep, self.on_candidate(position, run, picture))
