"""What all methods have, and how rows are counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator

from ...config_file import AtLeastOne, Entry, Text
from ..cases import Case
from .loaded import Loaded
from .settings import Scale, Scorer, Settings

Inversion = Literal[
    "ddim_next_timestep", "ddim_current_timestep", "ddim_fixed_point", "edit_friendly_ddpm", "ledits_pp"
]
# InvertLatent's own default number.
FIXED_POINT_ITERATIONS = 3


@dataclass(frozen=True)
class Wanted:
    """What a prompt gives: {label: node} of pictures and of texts; ``edited`` is always there."""

    pictures: dict[str, str]
    texts: dict[str, str] = field(default_factory=dict)


def _variant_name(value: str) -> str:
    if not value.strip():
        raise ValueError("expected a name.")
    return value


class Method(Entry):
    """What all methods have."""

    kind: ClassVar[str]
    does: ClassVar[str]
    #: Whether it is told where the edit is.
    told_mask: ClassVar[bool] = False

    name: Annotated[Text, AfterValidator(_variant_name)] | None = None
    #: Names of the data sets that it is for; None: all.
    data: list[Text] | None = None
    steps: AtLeastOne | None = None
    cfg: Scale | None = None
    sampler_name: Text | None = None
    scheduler: Text | None = None
    negative: Text | None = None

    def settings(self, common: Settings) -> Settings:
        """The common settings with the method's own."""
        own = {name: getattr(self, name) for name in Settings.model_fields if getattr(self, name) is not None}
        return common.model_copy(update=own)

    def is_for(self, data: str) -> bool:
        """Whether the file wants this method on a data set."""
        return self.data is None or data in self.data

    def lacks(self, case: Case) -> str:
        """Why the method cannot edit this case; "" if it can."""
        return ""

    def reads_token(self, case: Case) -> bool:
        """Whether the edit depends on what is in the case's part token."""
        return False

    def check(self, common: Settings) -> None:
        """Raise ValueError if the method's own settings do not go with the common ones."""

    def rows(self, case: Case, common: Settings) -> int:
        raise NotImplementedError

    def at_most(self, case: Case) -> bool:
        """Whether `rows` is an upper bound."""
        return False

    def build(self, loaded: Loaded, case: Case, common: Settings, scorer: Scorer | None) -> Wanted:
        """Add the method's nodes. The case has a picture: a generated source was made before."""
        raise NotImplementedError


def needs_mask(case: Case) -> str:
    """Why a method that is told a mask cannot edit a case; "" if it can."""
    return "" if case.mask or case.mask_by_token else "no mask"


def with_guidance(cfg: float) -> int:
    """UNet rows of a picture: two with guidance, one at a scale of 1."""
    return 1 if cfg == 1 else 2


def inversion_rows(inversion: str, steps: int) -> int:
    per_step = {"edit_friendly_ddpm": 0, "ledits_pp": 0, "ddim_fixed_point": 1 + FIXED_POINT_ITERATIONS}
    return steps * per_step.get(inversion, 1)
