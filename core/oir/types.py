"""What flows between the OIR nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..text import plain_text
from .metric import Metric
from .short_runs import ShortRun

# What S_e compares the masked region with: the published code takes the phrase, the paper the whole guided prompt.
SCORE_TEXTS = ("target phrase", "guided prompt")


@dataclass(frozen=True, eq=False)
class Pair:
    """One object of the image and what becomes of it. Compared by identity: the same phrases twice are two pairs.

    Attributes:
        source_prompt: describes the whole image; the same characters in all pairs of an image.
        source_phrase, target_phrase: the object as it is, and as it shall be.
        span: first and past-the-last character of the phrase in the source prompt, or None with a guided prompt of
            one's own.
        guided_prompt: the source prompt with this one object exchanged.
        mask: (H, W) float32 in 0 … 1 on the CPU, at any resolution of the image's shape.
        conditioning: ComfyUI CONDITIONING of the guided prompt.
    """

    source_prompt: str
    source_phrase: str
    target_phrase: str
    guided_prompt: str
    mask: torch.Tensor
    conditioning: list[Any]
    span: tuple[int, int] | None = None

    @property
    def label(self) -> str:
        """How messages call this pair."""
        return "'{}' → '{}'".format(*self.shown_phrases)

    @property
    def shown_phrases(self) -> tuple[str, str]:
        """Source and target phrase as people read them, without ComfyUI's weights."""
        source, target = (plain_text(phrase) or phrase for phrase in (self.source_phrase, self.target_phrase))
        return source, target


@dataclass(frozen=True, eq=False)
class PairSearch:
    """What a search found for one pair.

    Attributes:
        pair: whose candidates these are.
        candidates: inversion steps n that were run in full and scored, ascending.
        metric: their scores, with the weight of the search.
        chosen: the step to use: ``best``, or the one set by hand.
        manual: the step was set by hand; only its candidate was looked at.
        unet_rows: rows that went through the UNet for this pair.
        passes: UNet calls; two per step of ``rf_solver``, and more where ComfyUI splits a batch to save memory.
        remembered: candidates that an earlier search had made, which took no rows now.
        latent: the chosen candidate as a LATENT holds it, (1, C, h, w) on the CPU; None if none was made.
        found: the step that a search chose. With one set by hand, that of an earlier search, if it is still known.
        short_runs: candidates that were only looked at in short runs, ascending.
    """

    pair: Pair
    chosen: int
    candidates: tuple[int, ...] = ()
    metric: Metric = Metric()
    unet_rows: int = 0
    passes: int = 0
    manual: bool = False
    remembered: int = 0
    latent: torch.Tensor | None = None
    found: int | None = None
    short_runs: tuple[ShortRun, ...] = ()

    @property
    def best(self) -> int:
        """The candidate with the highest S; 0 without candidates."""
        return self.candidates[self.metric.best] if self.candidates else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "source_phrase": self.pair.source_phrase,
            "target_phrase": self.pair.target_phrase,
            "guided_prompt": self.pair.guided_prompt,
            "chosen": self.chosen,
            "best": self.best,
            "manual": self.manual,
            "candidates": list(self.candidates),
            "S": list(self.metric.total),
            "S_e": list(self.metric.edit),
            "S_ne": list(self.metric.keep),
            "S_e_normalised": list(self.metric.edit_norm),
            "S_ne_normalised": list(self.metric.keep_norm),
            "unet_rows": self.unet_rows,
            "passes": self.passes,
            "remembered": self.remembered,
            "short_runs": [asdict(short) for short in self.short_runs],
        }


@dataclass(frozen=True, eq=False)
class StepSearch:
    """The inversion step of every pair, in the order of the pairs.

    Attributes:
        pairs: one entry a pair; the first has the highest priority where masks overlap.
        steps: S of the trajectory that was searched.
        strategy: one of :data:`.candidates.STRATEGIES`, or "manual".
        cfg: guidance scale of the candidates.
        exhaustive_rows: rows an exhaustive search of the same range would have taken; a pair whose step was set by
            hand counts with its one candidate in both.
        edit_weight: weight of S_e in S; 1 is the paper's plain sum.
        score_text: what S_e compares with, one of ``SCORE_TEXTS``.
    """

    pairs: tuple[PairSearch, ...]
    steps: int
    strategy: str
    cfg: float
    exhaustive_rows: int = 0
    edit_weight: float = 1.0
    score_text: str = SCORE_TEXTS[0]

    @property
    def chosen(self) -> tuple[int, ...]:
        """The step of every pair."""
        return tuple(p.chosen for p in self.pairs)

    @property
    def unet_rows(self) -> int:
        """Rows that went through the UNet."""
        return sum(p.unet_rows for p in self.pairs)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "steps": self.steps,
            "strategy": self.strategy,
            "cfg": self.cfg,
            "edit_weight": self.edit_weight,
            "score_text": self.score_text,
            "unet_rows": self.unet_rows,
            "unet_rows_exhaustive": self.exhaustive_rows,
            "pairs": [p.to_dict() for p in self.pairs],
        }

    @classmethod
    def fixed(cls, pairs: Sequence[Pair], chosen: Sequence[int], *, steps: int, cfg: float) -> StepSearch:
        """Steps set by hand, nothing searched."""
        if len(pairs) != len(chosen):
            raise ValueError(f"chosen: {len(chosen)} steps given for {len(pairs)} editing pairs. Give one per pair.")
        return cls(
            tuple(PairSearch(pair, n, manual=True) for pair, n in zip(pairs, chosen, strict=True)),
            steps=steps,
            strategy="manual",
            cfg=cfg,
        )
