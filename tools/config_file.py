"""Configuration files of run.py's commands: YAML, checked as a whole before anything runs.

A file is a model of `Entry`: its fields are the keys of the file.
"""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

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


def resolved(value: str, info: ValidationInfo) -> Path:
    """A path of the file, which is relative to the file's own folder."""
    return (typing.cast(dict[str, Path], info.context)["base"] / value).resolve()


def _existing(value: str, info: ValidationInfo) -> str:
    path = resolved(value, info)
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    return str(path)


def _picture_size(value: int) -> int:
    if value < 64 or value % 8:
        raise ValueError(f"expected a multiple of 8, at least 64, got {value}.")
    return value


Text = Annotated[str, BeforeValidator(_text)]
ExistingPath = Annotated[Text, AfterValidator(_existing)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Names = Annotated[list[Text], Field(min_length=1)]
PictureSize = Annotated[int, AfterValidator(_picture_size)]
Model = TypeVar("Model", bound=Entry)


class _Loader(yaml.SafeLoader):
    """YAML as it is meant: a key that is there twice is a mistake, and the first of its values would be lost."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._checked: dict[int, yaml.MappingNode] = {}

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # Called before anything is merged in (<<): an entry may set what it merges in anew.
        if id(node) not in self._checked:
            self._checked[id(node)] = node
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen and key.value != "<<":
                    line = key.start_mark.line + 1
                    raise ValueError(f"line {line}: {key.value!r} is there twice in the same entry; keep one of them.")
                seen.add(str(key.value))
        super().flatten_mapping(node)


def load_yaml(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        yaml.YAMLError: it is no YAML.
        ValueError: a key is there twice in the same mapping.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a SafeLoader


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; for ``json.loads(object_pairs_hook=…)``.

    Raises:
        ValueError: a key is there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice in the same entry; keep one of them.")
    return found


def read_config(file: Path, model: type[Model]) -> tuple[Model, Path]:
    """Read and check a file.

    Returns:
        its content, and the folder that its paths are relative to.

    Raises:
        ConfigError: unreadable YAML, unknown keys, values of another type, or missing files.
    """
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{file}: is larger than {MAX_CONFIG_BYTES // 1024} KB, so it is not a configuration file.")
    try:
        content = load_yaml(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not text in UTF-8 ({error.reason}). Save it with this encoding.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: is not valid YAML: {error}") from error
    base = file.resolve().parent
    try:
        return model.model_validate(content, context={"base": base}), base
    except ValidationError as error:
        raise ConfigError("\n".join(error_lines(error))) from error


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
