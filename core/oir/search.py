"""Optimal inversion step search (Yang et al. 2023): which z_n gives the best edit of a pair?"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import comfy.model_management
import comfy.utils
import torch

from ..inversion.engine import Denoiser, run_loop
from ..inversion.memory import auto_batch_size
from ..inversion.trajectory import Trajectory
from ..latents import process_latent_out
from .batching import Job, run_jobs
from .candidates import EXPECTED_SHARE, STRATEGIES, candidate_steps, check_overrides, compare, next_runs, search_runs
from .checks import check_inputs
from .masks import resize_mask
from .memory import Scored, SearchMemory
from .metric import Scorer, check_edit_weight, keep_score
from .short_runs import Run, full_run, residuals, run_levels
from .types import SCORE_TEXTS, Pair, PairSearch, StepSearch

Decode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        cfg: guidance scale of the candidates; 7.5 as published.
        strategy: ``exhaustive`` runs every candidate, ``short-to-full`` and ``coarse-to-fine`` those that can still
            win, the first after a look at short runs; see :func:`.candidates.next_runs`.
        first, last, stride: candidates n = first, first + stride, … up to last; last = 0 means all steps.
        batch_size: rows a UNet call, 0 asks the free memory.
        mask_mode: handed to the scorer: ``masked`` or ``published_bias``.
        published_first: the image itself stands in for the candidate n = 1, as in the published results.
        overrides: for every pair the step set by hand, or None to search; empty searches all.
        edit_weight: weight of S_e in S; 1 is the paper's plain sum.
        score_text: what S_e compares the masked region with: ``target phrase`` (the published code) or
            ``guided prompt`` (the paper, Eq. 1).
    """

    cfg: float = 7.5
    strategy: str = "coarse-to-fine"
    first: int = 1
    last: int = 0
    stride: int = 1
    batch_size: int = 0
    mask_mode: str = "masked"
    published_first: bool = False
    overrides: Sequence[int | None] = ()
    edit_weight: float = 1.0
    score_text: str = SCORE_TEXTS[0]


@dataclass
class _PairState:
    pair: Pair
    mask: torch.Tensor
    candidates: list[int]
    strategy: str
    edit_weight: float = 1.0
    manual: bool = False
    scores: dict[Run, tuple[float, float]] = field(default_factory=dict)
    rows: int = 0
    passes: int = 0
    latents: dict[Run, torch.Tensor] = field(default_factory=dict)
    scored: dict[Run, Scored] = field(default_factory=dict)
    made: set[Run] = field(default_factory=set)
    range: list[int] = field(default_factory=list)  # with a step set by hand: what a search would look at, and how
    searched_by: str = ""

    def known(self) -> list[Run]:
        """Runs in the range that this search or earlier ones have scored; none that the candidate itself replaces."""
        steps = set(self.range or self.candidates)
        known = sorted(run for run in self.scored if run.step in steps)
        best = {run.step: run for run in known}  # the longest of each step comes last
        return [run for run in known if best[run.step] == run]

    def found(self) -> int | None:
        """With a step set by hand: what an earlier search of the same range found; None if there was none."""
        known = {run: (one.edit, one.keep) for run, one in self.scored.items()}
        try:
            scores = search_runs(
                self.range, self.searched_by, lambda runs: {run: known[run] for run in runs}, self.edit_weight
            )
        except KeyError:
            return None
        return compare(self.range, scores, self.edit_weight).chosen

    def todo(self) -> list[Run]:
        return next_runs(self.candidates, self.scores, self.strategy, self.edit_weight)

    def expected_work(self) -> int:
        """Steps and decodes for the progress bar; what a search that chooses takes is only known at the end."""
        everything = sum(self.candidates) + len(self.candidates)
        return int(EXPECTED_SHARE.get(self.strategy, 1.0) * everything)

    def exhaustive_rows(self, published_first: bool) -> int:
        """Rows that all candidates take, from what those that ran really took a step."""
        free = {1} if published_first else set()
        ran = sum(run.length for run in self.made if run.step not in free)
        return round(self.rows * sum(set(self.candidates) - free) / ran) if ran else 0


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
        negative=None if cfg == 1.0 else trajectory.conditioning,
        cfg=cfg,
        latent_image=trajectory.latent_image,
        rows=min(batch_size, len(runs)),
        sigmas=trajectory.sigmas,
    )
    return results, used.rows, used.calls


@dataclass(frozen=True, eq=False)
class PictureDecoder:
    """Decodes LATENT samples (1, C, h, w) to one picture (H, W, 3) in 0 … 1 on the CPU."""

    vae: Any

    def __call__(self, latent: torch.Tensor) -> torch.Tensor:
        picture = self.vae.decode(latent)
        picture = picture.reshape(-1, *picture.shape[-3:])[0]
        return picture[..., :3].detach().float().cpu().clamp(0.0, 1.0)


def picture_decoder(vae: Any) -> PictureDecoder:
    """A decoder of candidates.

    Raises:
        ValueError: there is no VAE.
    """
    if vae is None:
        raise ValueError("vae: is empty. The checkpoint may have none; load one with Load VAE.")
    return PictureDecoder(vae)


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
    if settings.strategy not in STRATEGIES:
        raise ValueError(f"strategy: {settings.strategy!r} is not one of {', '.join(STRATEGIES)}.")
    if settings.score_text not in SCORE_TEXTS:
        raise ValueError(f"score_text: {settings.score_text!r} is not one of {', '.join(SCORE_TEXTS)}.")
    check_edit_weight(settings.edit_weight)
    overrides = list(settings.overrides) or [None] * len(pairs)
    if len(overrides) != len(pairs):
        raise ValueError(
            f"overrides: {len(overrides)} given for {len(pairs)} editing pairs. Give one per pair, or none at all."
        )
    check_overrides(overrides, trajectory.steps)
    candidates = candidate_steps(trajectory.steps, settings.first, settings.last, settings.stride)
    batch_size = settings.batch_size or auto_batch_size(
        model, trajectory.latent_image.shape, 1 if settings.cfg == 1.0 else 2
    )

    source = decode(trajectory.latent_image)
    states = [
        _start(pair, candidates, override, settings, source.shape[:2], trajectory.latents.shape[-2:])
        for pair, override in zip(pairs, overrides, strict=True)
    ]
    for state in states:
        if memory is not None:
            _recall(memory, state, model, trajectory, decode, scorer, settings)
        # whatever the scorer has against a text or a mask, it says before the model runs
        scorer.score(source, scored_text(state.pair, settings), mask=state.mask, mode=settings.mask_mode)
    for position, state in enumerate(states):
        if on_scored is None or not state.manual:
            continue
        for run in state.known():
            if run.step not in state.candidates:
                on_scored(position, run, state.scored[run])
    progress = comfy.utils.ProgressBar(sum(state.expected_work() for state in states))
    # All pairs take a turn before the next choice, so the UNet leaves the memory once a turn and not once a pair.
    while any(turn := [state.todo() for state in states]):
        new = [[run for run in runs if run not in state.latents] for state, runs in zip(states, turn, strict=True)]
        work = sum(sum(run.length for run in runs) for runs in new) + sum(len(runs) for runs in turn)
        progress.total = max(progress.total, progress.current + work)
        for state, runs in zip(states, new, strict=True):
            made, rows, passes = make_runs(
                model,
                trajectory,
                state.pair,
                runs,
                cfg=settings.cfg,
                batch_size=batch_size,
                published_first=settings.published_first,
                on_pass=progress.update,
            )
            state.latents.update(made)
            state.made.update(made)
            state.rows += rows
            state.passes += passes
        for position, (state, runs) in enumerate(zip(states, turn, strict=True)):
            for run in sorted(runs):
                comfy.model_management.throw_exception_if_processing_interrupted()
                if run in state.scored:
                    known = state.scored[run]
                    state.scores[run] = known.edit, known.keep
                    if on_remembered is not None:
                        on_remembered(position, run, known.note, partial(decode, state.latents[run]))
                    if on_scored is not None:
                        on_scored(position, run, known)
                    progress.update(1)
                    continue
                picture = decode(state.latents[run])
                if not bool(torch.isfinite(picture).all()):
                    raise ValueError(
                        f"pairs: candidate {run.step} of {state.pair.label} holds NaN or infinite values. The model or "
                        "the VAE overflows in half precision. Start ComfyUI with --fp32-vae or --force-fp32, or load "
                        "another VAE."
                    )
                text = scored_text(state.pair, settings)
                fit = float(scorer.score(picture, text, mask=state.mask, mode=settings.mask_mode))
                state.scores[run] = fit, keep_score(picture, source, state.mask)
                note = None if on_candidate is None else on_candidate(position, run, picture)
                state.scored[run] = Scored(*state.scores[run], note)
                if on_scored is not None:
                    on_scored(position, run, state.scored[run])
                del picture  # or it would still be held while the next one is decoded
                progress.update(1)

    return StepSearch(
        tuple(_finish(state) for state in states),
        steps=trajectory.steps,
        strategy="manual" if all(s.manual for s in states) else settings.strategy,
        cfg=settings.cfg,
        exhaustive_rows=sum(state.exhaustive_rows(settings.published_first) for state in states),
        edit_weight=settings.edit_weight,
        score_text=settings.score_text,
    )


def _recall(
    memory: SearchMemory,
    state: _PairState,
    model: Any,
    trajectory: Trajectory,
    decode: Decode,
    scorer: Scorer,
    settings: SearchSettings,
) -> None:
    """Give a pair the tables of what earlier searches made and scored under the same conditions."""
    made_with = (getattr(model, "patches_uuid", None), settings.cfg, settings.published_first)
    state.latents = memory.table(state.pair, (model, trajectory), made_with)
    scored_with = (*made_with, settings.mask_mode, scored_text(state.pair, settings))
    owners = (model, trajectory, getattr(decode, "vae", decode), scorer)
    state.scored = memory.table(state.pair, owners, scored_with)
    # a run that was scored and whose latent has gone would have no picture
    for run in [run for run in state.scored if run not in state.latents]:
        del state.scored[run]


def scored_text(pair: Pair, settings: SearchSettings) -> str:
    """The text that S_e compares this pair's region with."""
    return pair.guided_prompt if settings.score_text == "guided prompt" else pair.target_phrase


def _start(
    pair: Pair,
    candidates: list[int],
    override: int | None,
    settings: SearchSettings,
    size: torch.Size,
    latent_size: torch.Size,
) -> _PairState:
    """What is known of a pair before the search; ``size`` of the picture and of its latent are (height, width)."""
    # Reassembly cuts the latent with this mask; better to hear now that it cannot.
    scale = int(size[0]) // int(latent_size[0])
    resize_mask(pair.mask, int(latent_size[0]), int(latent_size[1]), f"mask of {pair.label}", scale)
    mask = resize_mask(pair.mask, int(size[0]), int(size[1]), f"mask of {pair.label}", cell=scale)
    if not bool((mask > 0.5).any()):
        raise ValueError(
            f"mask of {pair.label}: no value lies above 0.5, so there is no region to score. "
            "Strengthen the mask, for example with a threshold."
        )
    if override is not None:
        one = _PairState(pair, mask, [override], "exhaustive", settings.edit_weight, manual=True)
        return replace(one, range=candidates, searched_by=settings.strategy)
    return _PairState(pair, mask, candidates, settings.strategy, settings.edit_weight)


def _finish(state: _PairState) -> PairSearch:
    found = compare(state.candidates, state.scores, state.edit_weight)
    return PairSearch(
        state.pair,
        chosen=found.chosen,
        candidates=found.steps,
        metric=found.metric,
        unet_rows=state.rows,
        passes=state.passes,
        manual=state.manual,
        remembered=sum(run.full and run not in state.made for run in state.scores),
        latent=state.latents[full_run(found.chosen)],
        found=state.found() if state.manual else found.chosen,
        short_runs=found.short,
    )
