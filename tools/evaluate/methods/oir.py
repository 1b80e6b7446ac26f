"""OIR on a ComfyUI server."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ...config_file import AtLeastOne, Count, Share
from ..cases import Case
from ..phrases import missing_phrase, places
from .base import FIXED_POINT_ITERATIONS, Method, Wanted, inversion_rows, with_guidance
from .loaded import Loaded
from .settings import Scorer, Settings


class Oir(Method):
    """OIR, with its ablations. One object: the search's best candidate is the result, as in the paper."""

    kind: ClassVar[str] = "oir"
    does: ClassVar[str] = "OIR: every object from its own best inversion step, then reassembled"
    told_mask: ClassVar[bool] = True

    method: Literal["oir"] = "oir"
    inversion: Literal["ddim_next_timestep", "ddim_current_timestep", "ddim_fixed_point"] = "ddim_next_timestep"
    strategy: Literal["exhaustive", "coarse-to-fine", "short-to-full"] = "exhaustive"
    first_step: AtLeastOne = 1
    last_step: Count = 0
    fixed_step: AtLeastOne | None = None
    edit_weight: Annotated[float, Field(ge=0.1, le=10)] = 1.0
    score_text: Literal["target phrase", "guided prompt"] = "target phrase"
    mask_mode: Literal["masked", "published_bias"] = "masked"
    reassembly: Share = 0.2
    reinversion: Share = 0.2
    reassemble_one: bool = False
    paste_back: bool = False

    def lacks(self, case: Case) -> str:
        if case.masked_pairs or (case.mask_by_token and len(case.pairs) == 1):
            return missing_phrase(case.source, case.befores)
        return "no objects (before, after) with a mask each"

    def check(self, common: Settings) -> None:
        steps = self.settings(common).steps
        for name in ("fixed_step", "first_step", "last_step"):
            if (getattr(self, name) or 0) > steps:
                raise ValueError(f"{name}: is {getattr(self, name)}, but there are {steps} steps.")
        if not self.candidates(steps):
            raise ValueError(f"first_step: is {self.first_step}, after last_step, which is {self.last_step}.")

    def at_most(self, case: Case) -> bool:
        # How long each object's own pass is depends on its step.
        return self.strategy != "exhaustive" or self._reassembles(case)

    def _reassembles(self, case: Case) -> bool:
        return len(case.pairs) > 1 or self.reassemble_one

    def candidates(self, steps: int) -> range:
        """The inversion steps that are tried for an object."""
        if self.fixed_step is not None:
            return range(self.fixed_step, self.fixed_step + 1)
        return range(self.first_step, (self.last_step or steps) + 1)

    def rows(self, case: Case, common: Settings) -> int:
        own = self.settings(common)
        two, steps, count = with_guidance(own.cfg), own.steps, len(case.pairs) or 1
        rows = inversion_rows(self.inversion, steps) + count * two * sum(self.candidates(steps))
        if self._reassembles(case):
            level, again = round(self.reassembly * steps), round(self.reinversion * steps)
            passes = max(max(self.candidates(steps)) - level, 0)
            rows += two * count * passes + again + two * (level + again)
        return rows

    def build(self, loaded: Loaded, case: Case, common: Settings, scorer: Scorer | None) -> Wanted:
        own, graph = self.settings(common), loaded.graph
        image, encoded = loaded.encoded(case.picture)
        trajectory = loaded.inverted(
            encoded, case, self.inversion, own.steps, fixed_point_iterations=FIXED_POINT_ITERATIONS
        )
        pairs = None
        for pair, place in zip(case.pairs, places(case.source, case.befores)):
            pairs = graph.add(
                "EditingPair",
                clip=loaded.clip,
                source_prompt=case.source,
                source_phrase=pair.before,
                target_phrase=pair.after,
                occurrence=place.occurrence,
                mask=loaded.mask(pair.mask),
                previous_pairs=None if pairs is None else pairs[0],
            )
        assert pairs is not None, "a case without pairs lacks something"
        tried = self.candidates(own.steps)
        search = graph.add(
            "InversionStepSearch",
            model=loaded.model,
            vae=loaded.vae,
            trajectory=trajectory,
            pairs=pairs[0],
            clip_scorer=loaded.scorer(scorer),
            cfg=max(own.cfg, 1.0),
            strategy=self.strategy,
            first_step=tried[0],
            last_step=tried[-1],
            mask_mode=self.mask_mode,
            edit_weight=self.edit_weight,
            score_text=self.score_text,
        )
        result = search["image"]
        if self._reassembles(case):
            result = graph.add(
                "OIRReassemble",
                model=loaded.model,
                vae=loaded.vae,
                trajectory=trajectory,
                search=search[0],
                cfg=max(own.cfg, 1.0),
                reassembly=self.reassembly,
                reinversion=self.reinversion,
                paste_back=self.paste_back,
                target_prompt=case.edit,
                clip=loaded.clip,
                image=image,
            )["image"]
        return Wanted({"edited": loaded.shown(result)}, {"search": loaded.told(search["scores"])})
