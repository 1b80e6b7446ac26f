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
from .candidates import EXPECTED_SHARE, STRATEGIES, candidate_steps, next_candidates
from .checks import check_inputs
from .masks import resize_mask
from .memory import Scored, SearchMemory
from .metric import Scorer, check_edit_weight, combine, keep_score
from .types import SCORE_TEXTS, Pair, PairSearch, StepSearch

Decode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        cfg: guidance scale of the candidates; 7.5 as published.
        strategy: ``exhaustive`` looks at every candidate, ``coarse-to-fine`` at those that can still win; see
            :func:`.candidates.next_candidates`.
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
    scores: dict[int, tuple[float, float]] = field(default_factory=dict)
    rows: int = 0
    passes: int = 0
    latents: dict[int, torch.Tensor] = field(default_factory=dict)
    scored: dict[int, Scored] = field(default_factory=dict)
    made: set[int] = field(default_factory=set)
    range: list[int] = field(default_factory=list)  # with a step set by hand: what a search would look at, and how
    searched_by: str = ""

    def known(self) -> dict[int, tuple[float, float]]:
        """Scores in the range, of this search or earlier ones."""
        return {n: (one.edit, one.keep) for n, one in self.scored.items() if n in (self.range or self.candidates)}

    def found(self) -> int | None:
        """With a step set by hand: what an earlier search of the same range found; None if there was none."""
        known = self.known()
        if not known or next_candidates(self.range, known, self.searched_by, self.edit_weight):
            return None
        steps = sorted(known)
        edit, keep = zip(*(known[n] for n in steps), strict=True)
        return steps[combine(edit, keep, edit_weight=self.edit_weight).best]

    def todo(self) -> list[int]:
        return next_candidates(self.candidates, self.scores, self.strategy, self.edit_weight)

    def expected_work(self) -> int:
        """Steps and decodes for the progress bar; what coarse-to-fine takes is only known at the end."""
        everything = sum(self.candidates) + len(self.candidates)
        return everything if self.strategy == "exhaustive" else int(EXPECTED_SHARE * everything)

    def exhaustive_rows(self, published_first: bool) -> int:
        """Rows that all candidates take, from what those that ran really took a step."""
        free = {1} if published_first else set()
        ran, everything = sum(self.made - free), sum(set(self.candidates) - free)
        return round(self.rows * everything / ran) if ran else 0


def make_candidates(
    model: Any,
    trajectory: Trajectory,
    pair: Pair,
    steps: Sequence[int],
    *,
    cfg: float,
    batch_size: int,
    published_first: bool = False,
    on_pass: Callable[[int], None] | None = None,
) -> tuple[dict[int, torch.Tensor], int, int]:
    """The pair's edit started from z_n for every n in ``steps``.

    Guided prompt against the source prompt as the unconditional branch (none at cfg 1), DDIM with eta = 0; on a flow
    model Euler, or the solver the trajectory was inverted with. The candidate n = 0, and
    n = 1 with ``published_first``, is the image itself.

    Returns:
        n → clean latent (1, C, H, W) as a LATENT holds it, on the CPU; the UNet rows and the UNet calls this took.
    """
    unchanged = {0, 1} if published_first else {0}
    results = {n: trajectory.latent_image for n in steps if n in unchanged}
    steps = [n for n in steps if n not in unchanged]
    if not steps:
        return results, 0, 0

    def keep(key: Hashable, latent: torch.Tensor) -> None:
        assert isinstance(key, int)
        results[key] = process_latent_out(model, trajectory.to_image_latent(latent).unsqueeze(0))

    def loop(denoise: Denoiser) -> int:
        jobs = [Job(n, trajectory.at(n)[0], trajectory.index(n), trajectory.steps) for n in steps]
        return run_jobs(
            denoise, jobs, trajectory.sigmas, batch_size, method=trajectory.method, on_done=keep, on_pass=on_pass
        )

    passes, rows = run_loop(
        model,
        loop,
        positive=pair.conditioning,
        negative=None if cfg == 1.0 else trajectory.conditioning,
        cfg=cfg,
        latent_image=trajectory.latent_image,
        rows=min(batch_size, len(steps)),
        sigmas=trajectory.sigmas,
    )
    return results, rows, passes


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
    on_candidate: Callable[[int, int, torch.Tensor], Any] | None = None,
    on_remembered: Callable[[int, int, Any, Callable[[], torch.Tensor]], None] | None = None,
    on_scored: Callable[[int, int, Scored], None] | None = None,
    memory: SearchMemory | None = None,
) -> StepSearch:
    """Find the inversion step of every pair.

    Args:
        decode: LATENT samples (1, C, h, w) → picture (H, W, 3) in 0 … 1 on the CPU. One candidate is decoded at a time.
        scorer: gives S_e.
        on_candidate: gets the pair's position, n and the picture of every candidate, to draw thumbnails.
        on_remembered: gets, of a candidate that ``memory`` knows, the pair's position, n, what ``on_candidate`` had
            returned for it, and a function that decodes it once more.
        on_scored: gets the pair's position, n and the scores of every candidate looked at. Of a pair whose step is set
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
    for n in overrides:
        if n is not None:
            trajectory.index(n)
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
        for n in sorted(state.known()):
            if n not in state.candidates:
                on_scored(position, n, state.scored[n])
    progress = comfy.utils.ProgressBar(sum(state.expected_work() for state in states))
    # All pairs take a turn before the next choice, so the UNet leaves the memory once a turn and not once a pair.
    while any(turn := [state.todo() for state in states]):
        new = [[n for n in steps if n not in state.latents] for state, steps in zip(states, turn, strict=True)]
        work = sum(sum(steps) for steps in new) + sum(len(steps) for steps in turn)
        progress.total = max(progress.total, progress.current + work)
        for state, steps in zip(states, new, strict=True):
            made, rows, passes = make_candidates(
                model,
                trajectory,
                state.pair,
                steps,
                cfg=settings.cfg,
                batch_size=batch_size,
                published_first=settings.published_first,
                on_pass=progress.update,
            )
            state.latents.update(made)
            state.made.update(made)
            state.rows += rows
            state.passes += passes
        for position, (state, steps) in enumerate(zip(states, turn, strict=True)):
            for n in sorted(steps):
                comfy.model_management.throw_exception_if_processing_interrupted()
                if n in state.scored:
                    known = state.scored[n]
                    state.scores[n] = known.edit, known.keep
                    if on_remembered is not None:
                        on_remembered(position, n, known.note, partial(decode, state.latents[n]))
                    if on_scored is not None:
                        on_scored(position, n, known)
                    progress.update(1)
                    continue
                picture = decode(state.latents[n])
                if not bool(torch.isfinite(picture).all()):
                    raise ValueError(
                        f"pairs: candidate {n} of {state.pair.label} holds NaN or infinite values. The model or the "
                        "VAE overflows in half precision. Start ComfyUI with --fp32-vae or --force-fp32, or load "
                        "another VAE."
                    )
                text = scored_text(state.pair, settings)
                fit = float(scorer.score(picture, text, mask=state.mask, mode=settings.mask_mode))
                state.scores[n] = fit, keep_score(picture, source, state.mask)
                note = None if on_candidate is None else on_candidate(position, n, picture)
                state.scored[n] = Scored(*state.scores[n], note)
                if on_scored is not None:
                    on_scored(position, n, state.scored[n])
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
    # a candidate that was scored and whose latent has gone would have no picture
    for n in [n for n in state.scored if n not in state.latents]:
        del state.scored[n]


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
    steps = sorted(state.scores)
    edit, keep = zip(*(state.scores[n] for n in steps), strict=True)
    metric = combine(edit, keep, edit_weight=state.edit_weight)
    best = steps[metric.best]
    return PairSearch(
        state.pair,
        chosen=best,
        candidates=tuple(steps),
        metric=metric,
        unet_rows=state.rows,
        passes=state.passes,
        manual=state.manual,
        remembered=len(set(steps) - state.made),
        latent=state.latents[best],
        found=state.found() if state.manual else best,
    )
