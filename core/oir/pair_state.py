"""One pair during a search: what is known of it, what is to be looked at next, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..decoding import Decode
from ..inversion.trajectory import Trajectory
from .candidates import EXPECTED_SHARE, compare, next_runs, search_runs
from .masks import resize_mask
from .memory import Scored, SearchMemory
from .metric import Scorer
from .search_settings import SearchSettings
from .short_runs import Run, full_run
from .types import Pair, PairSearch


@dataclass
class PairState:
    """What a search knows of a pair so far.

    Attributes:
        mask: (H, W), at the picture's size.
        candidates: inversion steps to look at; with a step set by hand only that one.
        scores: raw S_e and S_ne of the runs that this search has looked at.
        rows, passes: UNet rows and calls that this search took.
        latents, scored: of every run that is known, by this search or an earlier one.
        made: runs that this search made.
        range, searched_by: with a step set by hand what a search would look at, and how.
    """

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
    range: list[int] = field(default_factory=list)
    searched_by: str = ""

    @classmethod
    def start(
        cls, pair: Pair, override: int | None, settings: SearchSettings, trajectory: Trajectory, size: torch.Size
    ) -> PairState:
        """What is known of a pair before the search; ``size``: (height, width) of the picture.

        Raises:
            ValueError: the mask does not fit, or leaves no region to score.
        """
        latent_size = trajectory.size
        # Reassembly cuts the latent with this mask; better to hear now that it cannot.
        scale = int(size[0]) // int(latent_size[0])
        resize_mask(pair.mask, int(latent_size[0]), int(latent_size[1]), f"mask of {pair.label}", scale)
        mask = resize_mask(pair.mask, int(size[0]), int(size[1]), f"mask of {pair.label}", cell=scale)
        if not bool((mask > 0.5).any()):
            raise ValueError(
                f"mask of {pair.label}: no value lies above 0.5, so there is no region to score. "
                "Strengthen the mask, for example with a threshold."
            )
        candidates = settings.candidates(trajectory.steps)
        if override is None:
            return cls(pair, mask, candidates, settings.strategy, settings.edit_weight)
        one = cls(pair, mask, [override], "exhaustive", settings.edit_weight, manual=True)
        return replace(one, range=candidates, searched_by=settings.strategy)

    def recall(
        self,
        memory: SearchMemory,
        model: Any,
        trajectory: Trajectory,
        decode: Decode,
        scorer: Scorer,
        settings: SearchSettings,
    ) -> None:
        """Take up the tables of what earlier searches made and scored under the same conditions."""
        made_with = (getattr(model, "patches_uuid", None), settings.cfg, settings.published_first)
        self.latents = memory.table(self.pair, (model, trajectory), made_with)
        scored_with = (*made_with, settings.mask_mode, settings.scored_text(self.pair))
        owners = (model, trajectory, getattr(decode, "vae", decode), scorer)
        self.scored = memory.table(self.pair, owners, scored_with)

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

    def finish(self) -> PairSearch:
        """The result, once there is nothing left `todo`."""
        found = compare(self.candidates, self.scores, self.edit_weight)
        return PairSearch(
            self.pair,
            chosen=found.chosen,
            candidates=found.steps,
            metric=found.metric,
            unet_rows=self.rows,
            passes=self.passes,
            manual=self.manual,
            remembered=sum(run.full and run not in self.made for run in self.scores),
            latent=self.latents[full_run(found.chosen)],
            found=self.found() if self.manual else found.chosen,
            short_runs=found.short,
        )
