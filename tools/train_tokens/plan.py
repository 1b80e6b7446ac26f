"""The configuration of ``run.py train-tokens``, checked as a whole before anything runs.

The fields of the models below are the keys of the file. See `tools.train_tokens.run` for an example.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from ..bootstrap import load_pack

MAX_CONFIG_BYTES = 1024**2


class ConfigError(ValueError):
    """The configuration is invalid; the message has one line per wrong entry."""


class Entry(BaseModel):
    """Keys and values. Unknown keys are refused, and so are values of another type: nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            raise ValueError(f"expected keys and values, got {values!r}.")
        unknown = [str(key) for key in values if key not in cls.model_fields]
        if unknown:
            known = ", ".join(sorted(cls.model_fields))
            raise ValueError(
                f"unknown {'key' if len(unknown) == 1 else 'keys'} {', '.join(unknown)}. Known keys: {known}."
            )
        return values


def _text(value: Any) -> Any:
    # YAML reads a name like 2024 as a number.
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _resolved(value: str, info: ValidationInfo) -> Path:
    """A path of the file, which is relative to the file's own folder."""
    return (typing.cast(dict[str, Path], info.context)["base"] / value).resolve()


def _existing(value: str, info: ValidationInfo) -> str:
    path = _resolved(value, info)
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    return str(path)


def _file_name(value: str) -> str:
    from partedit_oir.core.files import safe_file_name

    return safe_file_name(value, "")


Text = Annotated[str, BeforeValidator(_text)]
ExistingPath = Annotated[Text, AfterValidator(_existing)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Names = Annotated[list[Text], Field(min_length=1)]


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
    size: int | None = None
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
        path = _resolved(value, info)
        if not path.is_file():
            raise ValueError(f"{path} does not exist. Give a checkpoint file, or 'demo'.")
        return str(path)

    @field_validator("size")
    @classmethod
    def _multiple_of_8(cls, value: int | None) -> int | None:
        if value is not None and (value < 64 or value % 8):
            raise ValueError(f"expected a multiple of 8, at least 64, got {value}.")
        return value

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
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{file}: is larger than {MAX_CONFIG_BYTES // 1024} KB, so it is not a configuration file.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not valid YAML: {error}") from error
    base = file.resolve().parent
    try:
        config = ConfigFile.model_validate(content, context={"base": base})
    except ValidationError as error:
        raise ConfigError("\n".join(error_lines(error))) from error
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


def error_lines(error: ValidationError, prefix: tuple[int | str, ...] = ()) -> list[str]:
    """One line per fault: the entry's place in the file, then what is expected there."""
    lines = []
    for found in error.errors():
        place = (*prefix, *found["loc"])
        reason = (found.get("ctx") or {}).get("error")
        if isinstance(reason, ValidationError):  # the settings have their own model
            lines += error_lines(reason, place)
            continue
        if reason is not None:
            text = str(reason).removeprefix(": ")
            field, _, rest = text.partition(": ")
            if field.isidentifier():  # one field, found wrong by the check of the whole entry
                place, text = (*place, field), rest
        elif found["type"] == "missing":
            text = "is missing."
        elif found["type"] == "too_short":
            text = "expected at least one entry."
        else:
            text = f"{found['msg'].replace('Input should be', 'expected')}, got {found['input']!r}."
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        lines.append(f"{where or 'the file'}: {text}")
    return lines
