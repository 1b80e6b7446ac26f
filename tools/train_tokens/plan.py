"""The configuration of ``run.py train-tokens``, checked as a whole before anything runs.

The fields of the models below are the keys of the file. See `tools.train_tokens.run` for an example.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from ..bootstrap import load_pack
from ..config_file import AtLeastOne, Count, Entry, ExistingPath, Names, PictureSize, Share, Text, read_config, resolved


def _file_name(value: str) -> str:
    from partedit_oir.core.files import safe_file_name

    return safe_file_name(value, "")


class Folder(Entry):
    """NAME.png with NAME_mask.png, or images/ and masks/."""

    path: ExistingPath
    limit: AtLeastOne | None = None


class PartImageNet(Entry):
    """See `datasets.read_part_imagenet`."""

    annotations: ExistingPath
    images: ExistingPath
    parts: Names
    limit: AtLeastOne | None = None
    min_share: Share = 0.0


class PascalPart(Entry):
    """See `datasets.read_pascal_part`."""

    annotations: ExistingPath
    images: ExistingPath
    object_class: Text
    parts: Names
    limit: AtLeastOne | None = None
    min_share: Share = 0.0


class DemoScenes(Entry):
    """Images drawn by the demo's generator, with their exact masks."""

    objects: Names
    part: Text
    pictures: AtLeastOne = 20
    first_seed: Count = 4_000_000

    @model_validator(mode="after")
    def _drawable(self) -> DemoScenes:
        from demo.world import PARTS

        for name in self.objects:
            if name not in PARTS:
                raise ValueError(f"objects: the demo model knows no {name!r}. It knows: {', '.join(PARTS)}.")
            if self.part not in PARTS[name]:
                raise ValueError(f"part: a {name} has no {self.part!r}. It has: {', '.join(PARTS[name])}.")
        return self


class Data(Entry):
    """Where a token's images come from: exactly one of these."""

    folder: Folder | None = None
    part_imagenet: PartImageNet | None = None
    pascal_part: PascalPart | None = None
    demo: DemoScenes | None = None

    @model_validator(mode="before")
    @classmethod
    def _exactly_one(cls, values: Any) -> Any:
        if not isinstance(values, dict) or len(values) != 1 or not set(values) <= set(cls.model_fields):
            raise ValueError(f"expected exactly one of {', '.join(cls.model_fields)}.")
        return values

    @field_validator("folder", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    def chosen(self) -> dict[str, dict[str, Any]]:
        """The one source: its name, and what the reader needs to know."""
        return self.model_dump(exclude_none=True)


@functools.cache
def _settings_model() -> type[BaseModel]:
    """The fields of TrainingSettings that a file may set, all optional."""
    from partedit_oir.core.training.settings import TrainingSettings

    hints = typing.get_type_hints(TrainingSettings)
    fields = {
        field.name: (hints[field.name], field.default)
        for field in dataclasses.fields(TrainingSettings)
        if field.name not in ("part_names", "init")
    }
    return create_model("Settings", __base__=Entry, **typing.cast(dict[str, Any], fields))


def _settings(values: Any) -> dict[str, Any]:
    from partedit_oir.core.training.settings import TrainingSettings

    given = _settings_model().model_validate(values).model_dump(exclude_unset=True)
    TrainingSettings(**given)
    return given


Settings = Annotated[dict[str, Any], BeforeValidator(_settings)]


class Token(Entry):
    """One token to train."""

    name: Annotated[Text, AfterValidator(_file_name)]
    part: Text | None = None
    data: Data
    settings: Settings = {}
    note: Text = ""


class Ray(Entry):
    """How to use a Ray cluster."""

    address: Text | None = None
    gpus_per_token: Annotated[float, Field(ge=0)] = 1
    cpus_per_token: Annotated[float, Field(ge=0)] = 1


class ConfigFile(Entry):
    """The whole file."""

    output: Text = "tokens"
    model: Text = "demo"
    prompt: Text = ""
    size: PictureSize | None = None
    flip: bool = True
    crops: Count = 0
    settings: Settings = {}
    workers: AtLeastOne = 1
    retries: Count = 2
    ray: Ray | None = None
    tokens: Annotated[list[Token], Field(min_length=1)]

    @field_validator("model")
    @classmethod
    def _demo_or_file(cls, value: str, info: ValidationInfo) -> str:
        if value == "demo":
            return value
        path = resolved(value, info)
        if not path.is_file():
            raise ValueError(f"{path} does not exist. Give a checkpoint file, or 'demo'.")
        return str(path)

    @field_validator("tokens")
    @classmethod
    def _names_differ(cls, tokens: list[Token]) -> list[Token]:
        # They become files of one folder, and on some systems A and a are the same file.
        names = [token.name.casefold() for token in tokens]
        for token in tokens:
            if names.count(token.name.casefold()) > 1:
                raise ValueError(f"the name {token.name!r} is used twice. Give each token its own name.")
        return tokens


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked configuration: one task per token, and how to run them.

    A task is a plain dictionary, so it can be sent to another process or machine as JSON.
    """

    tasks: list[dict[str, Any]]
    output: Path
    retries: int
    workers: int
    ray: Ray | None


def read_plan(file: Path) -> Plan:
    """Read and check a configuration before anything runs.

    Raises:
        ConfigError: unreadable YAML, unknown keys, values of another type, missing files, or invalid names.
    """
    load_pack()
    config, base = read_config(file, ConfigFile)
    output = (base / config.output).resolve()
    return Plan(
        [_task(token, config, output) for token in config.tokens], output, config.retries, config.workers, config.ray
    )


def _task(token: Token, config: ConfigFile, output: Path) -> dict[str, Any]:
    return {
        "name": token.name,
        "part": token.part or token.name,
        "data": token.data.chosen(),
        "note": token.note,
        "settings": {**config.settings, **token.settings},
        "model": config.model,
        "prompt": config.prompt,
        "size": config.size or (256 if config.model == "demo" else 1024),
        "flip": config.flip,
        "crops": config.crops,
        "output": str(output),
    }
