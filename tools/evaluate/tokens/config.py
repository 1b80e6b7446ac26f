"""The configuration of a token laboratory (``kind: token``), checked as a whole before anything runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from ...bootstrap import load_pack
from ...config_file import AtLeastOne, Count, Entry, PictureSize, Text, read_config, resolved
from ...train_tokens.plan import Data
from ...train_tokens.plan import Settings as TrainingChanges

Study = Literal["layers", "noise", "pictures", "folds", "paddings", "omega", "word", "sam"]
Padding = Literal["background", "start_of_text", "end_of_text", "context", "zero", "none"]
STUDIES: tuple[Study, ...] = get_args(Study)


def _stretch(value: list[float]) -> list[float]:
    if len(value) != 2 or not 0 <= value[0] < value[1] <= 1:
        raise ValueError(f"expected two numbers from 0 (clean) to 1 (noise), the smaller first; got {value}.")
    return value


Stretch = Annotated[list[Annotated[float, Field(ge=0, le=1)]], AfterValidator(_stretch)]


class TokenConfig(Entry):
    """The whole file.

    Attributes:
        data: pictures and masks of the part, read as by ``run.py train-tokens``.
        training: how many of them, drawn by ``seed``, are learned from; the others judge.
        judge_noise: the levels at which a token is read, as fractions of the diffusion time, and how many.
        prompt: what the word's own attention is read from; it has to hold ``word``.
    """

    kind: Literal["token"]
    output: Text = "token_laboratory"
    title: Text = "Token laboratory"
    model: Text = "demo"
    part: Text
    data: Data
    size: PictureSize | None = None
    training: AtLeastOne = 20
    seed: Count = 0
    settings: TrainingChanges = {}
    judge_noise: Stretch = [0.2, 0.8]
    judge_levels: AtLeastOne = 3
    studies: list[Study] = list(STUDIES)
    layers_at_once: AtLeastOne = 16
    stretches: dict[str, Stretch] = {"early": [0.8, 1.0], "middle": [0.4, 0.6], "late": [0.0, 0.2]}
    reading_levels: AtLeastOne = 10
    counts: list[AtLeastOne] = [1, 2, 5, 10, 20, 40]
    draws: AtLeastOne = 5
    folds: Annotated[int, Field(ge=2)] = 5
    paddings: list[Padding] = list(get_args(Padding))
    omegas: list[Annotated[float, Field(ge=0.5, le=3)]] = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0]
    word: Text = ""
    prompt: Text = ""
    sam: Text = ""

    @field_validator("model", "sam")
    @classmethod
    def _a_file(cls, value: str, info: ValidationInfo) -> str:
        if value in ("", "demo") or not info.context:
            return value
        path = resolved(value, info)
        # SAM may be missing: its study says so. Without the model, nothing runs.
        if info.field_name == "model" and not path.is_file():
            raise ValueError(f"{path} does not exist. Give a checkpoint file, or 'demo'.")
        return str(path)

    @model_validator(mode="after")
    def _word_in_prompt(self) -> TokenConfig:
        if self.prompt and self.word and self.word.lower() not in self.prompt.lower():
            raise ValueError(f"prompt: {self.prompt!r} does not hold the word {self.word!r}.")
        return self


@dataclasses.dataclass(frozen=True)
class TokenPlan:
    """A checked configuration and where its results go."""

    config: TokenConfig
    output: Path

    @property
    def size(self) -> int:
        return self.config.size or (256 if self.config.model == "demo" else 1024)

    @property
    def settings(self) -> dict[str, Any]:
        """Of every training, unless its study sets them."""
        demo = {"steps": 300, "noise_low": 0.3, "noise_high": 0.95, "noise_count": 3, "layers": "output.2, output.3"}
        fixed = {"seed": self.config.seed, "part_names": (self.config.part,), "held_out": 0.0}
        return {**(demo if self.config.model == "demo" else {}), **self.config.settings, **fixed}


def read_token_plan(file: Path, output: Path | None = None) -> TokenPlan:
    """Read and check a configuration before anything runs.

    Raises:
        ConfigError: unreadable YAML, unknown keys, values of another type, or missing files.
    """
    load_pack()
    config, base = read_config(file, TokenConfig)
    return TokenPlan(config, output or (base / config.output).resolve())
