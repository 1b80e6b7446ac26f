"""The settings that a file gives for all methods, and the scorer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ...config_file import AtLeastOne, Entry, Text

Scale = Annotated[float, Field(ge=0, le=100)]


class Settings(Entry):
    """Sampling, for all methods; a method may set its own."""

    steps: AtLeastOne = 50
    cfg: Scale = 7.5
    sampler_name: Text = "ddim"
    scheduler: Text = "normal"
    negative: Text = ""


class Scorer(Entry):
    """A CLIP: a file or folder for Load CLIP Scorer, or a clip_vision file beside the checkpoint's own text encoder."""

    clip_scorer: Text = ""
    clip_vision: Text = ""

    @model_validator(mode="after")
    def _one(self) -> Scorer:
        if bool(self.clip_scorer) == bool(self.clip_vision):
            raise ValueError("give either clip_scorer or clip_vision.")
        return self
