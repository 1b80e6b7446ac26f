"""How to search for the inversion steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .candidates import STRATEGIES, candidate_steps, check_overrides
from .metric import check_edit_weight
from .types import SCORE_TEXTS, Pair


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

    def check(self, pairs: int, steps: int) -> None:
        """Raise ValueError unless ``pairs`` pairs can be searched like this on a trajectory of ``steps`` steps."""
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy: {self.strategy!r} is not one of {', '.join(STRATEGIES)}.")
        if self.score_text not in SCORE_TEXTS:
            raise ValueError(f"score_text: {self.score_text!r} is not one of {', '.join(SCORE_TEXTS)}.")
        check_edit_weight(self.edit_weight)
        if self.overrides and len(self.overrides) != pairs:
            raise ValueError(
                f"overrides: {len(self.overrides)} given for {pairs} editing pairs. Give one per pair, or none at all."
            )
        check_overrides(self.overrides, steps)
        self.candidates(steps)

    def candidates(self, steps: int) -> list[int]:
        """Inversion steps to choose from on a trajectory of ``steps`` steps."""
        return candidate_steps(steps, self.first, self.last, self.stride)

    def scored_text(self, pair: Pair) -> str:
        """The text that S_e compares a pair's region with."""
        return pair.guided_prompt if self.score_text == "guided prompt" else pair.target_phrase
