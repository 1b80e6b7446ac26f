"""Methods of ``run.py evaluate`` that diffusers does, on the servers' weights; see `peers`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from ...config_file import AtLeastOne, Share, Text, resolved
from ..cases import Case
from .base import Method, needs_mask, with_guidance
from .settings import Scale, Settings

Strength = Annotated[float, Field(gt=0, le=1)]
# What DiffEdit's mask takes for each map: two prompts, guided.
_MASK_ROWS = 4


class Peer(Method):
    """A method that a process with diffusers does; it has no graph."""

    def request(self, case: Case, common: Settings) -> dict[str, Any]:
        """The settings of an edit, for `peers.edits`."""
        own = self.settings(common)
        return {
            "steps": own.steps,
            "cfg": own.cfg,
            "negative": own.negative,
            "source": case.source,
            "edit": case.edit,
            **self.own_request(case),
        }

    def own_request(self, case: Case) -> dict[str, Any]:
        raise NotImplementedError


class LEditsPP(Peer):
    """LEDITS++ (Brack et al. 2024)."""

    kind: ClassVar[str] = "ledits_pp"
    does: ClassVar[str] = "LEDITS++ by diffusers' pipeline with its own masks: from the old words to the new ones"

    method: Literal["ledits_pp"] = "ledits_pp"
    skip: Annotated[float, Field(ge=0, lt=1)] = 0.15
    edit_guidance: Scale = 5.0
    edit_threshold: Share = 0.9

    def rows(self, case: Case, common: Settings) -> int:
        steps = self.settings(common).steps
        return steps * (2 + len(self._words(case)))

    def _words(self, case: Case) -> list[str]:
        return [text for pair in self._changes(case) for text in pair if text]

    @staticmethod
    def _changes(case: Case) -> list[list[str]]:
        if case.source == case.edit:
            return []
        return [[pair.before, pair.after] for pair in case.pairs] or [[case.source, case.edit]]

    def own_request(self, case: Case) -> dict[str, Any]:
        return {
            "skip": self.skip,
            "edit_guidance": self.edit_guidance,
            "edit_threshold": self.edit_threshold,
            "changes": self._changes(case),
        }


class DiffEdit(Peer):
    """DiffEdit (Couairon et al. 2023)."""

    kind: ClassVar[str] = "diffedit"
    does: ClassVar[str] = "DiffEdit by diffusers' pipeline: a mask from where the prompts differ, then DDIM inside it"

    method: Literal["diffedit"] = "diffedit"
    strength: Strength = 0.8
    maps: AtLeastOne = 10
    threshold: Annotated[float, Field(gt=0, le=10)] = 3.0

    def rows(self, case: Case, common: Settings) -> int:
        own = self.settings(common)
        steps = max(1, int(own.steps * self.strength))
        return self.maps * _MASK_ROWS + steps * (1 + with_guidance(own.cfg))

    def own_request(self, case: Case) -> dict[str, Any]:
        return {"strength": self.strength, "maps": self.maps, "threshold": self.threshold}


class InpaintPipeline(Peer):
    """diffusers' inpainting pipeline on the evaluated weights."""

    kind: ClassVar[str] = "inpaint_pipeline"
    does: ClassVar[str] = "diffusers' inpainting pipeline in a given mask, on the evaluated weights"
    told_mask: ClassVar[bool] = True

    method: Literal["inpaint_pipeline"] = "inpaint_pipeline"
    strength: Strength = 0.99

    def lacks(self, case: Case) -> str:
        return needs_mask(case)

    def rows(self, case: Case, common: Settings) -> int:
        own = self.settings(common)
        return max(1, int(own.steps * self.strength)) * with_guidance(own.cfg)

    def own_request(self, case: Case) -> dict[str, Any]:
        return {"strength": self.strength}


class InstructPix2Pix(Peer):
    """InstructPix2Pix (Brooks et al. 2023), from a folder of its own weights."""

    kind: ClassVar[str] = "instruct_pix2pix"
    does: ClassVar[str] = "InstructPix2Pix by diffusers' pipeline, with its own weights and an instruction"

    method: Literal["instruct_pix2pix"] = "instruct_pix2pix"
    folder: Text
    instruction: Text = "turn {before} into {after}"
    image_guidance: Scale = 1.5

    @field_validator("folder")
    @classmethod
    def _beside_the_file(cls, value: str, info: ValidationInfo) -> str:
        # Methods are also read without a file, then the folder is taken as it is.
        return str(resolved(value, info)) if info.context else value

    @field_validator("instruction")
    @classmethod
    def _knows_its_words(cls, value: str) -> str:
        try:
            value.format(before="", after="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"expected a text with {{before}} and {{after}}, got {value!r}.") from error
        return value

    def rows(self, case: Case, common: Settings) -> int:
        return 3 * self.settings(common).steps

    def own_request(self, case: Case) -> dict[str, Any]:
        pairs = [(pair.before, pair.after) for pair in case.pairs] or [(case.source, case.edit)]
        text = " and ".join(self.instruction.format(before=before, after=after) for before, after in pairs)
        return {"folder": self.folder, "instruction": text, "image_guidance": self.image_guidance}


class VirtualInversion(Peer):
    """InfEdit's virtual inversion (Xu et al. 2024)."""

    kind: ClassVar[str] = "virtual_inversion"
    does: ClassVar[str] = "InfEdit's virtual inversion, without its attention control: shared noise, nothing inverted"

    method: Literal["virtual_inversion"] = "virtual_inversion"
    strength: Strength = 0.8

    def rows(self, case: Case, common: Settings) -> int:
        own = self.settings(common)
        return 2 * with_guidance(own.cfg) * max(1, round(own.steps * self.strength))

    def own_request(self, case: Case) -> dict[str, Any]:
        return {"strength": self.strength}


PEERS: tuple[type[Method], ...] = (LEditsPP, DiffEdit, InpaintPipeline, InstructPix2Pix, VirtualInversion)
