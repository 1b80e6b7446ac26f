"""The configuration of ``run.py evaluate``, checked as a whole before anything runs.

The fields of the models here, in `readers` and in `methods` are the keys of the file.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from ..config_file import AtLeastOne, ConfigError, Count, Entry, PictureSize, Text, load_yaml, read_config
from .cases import SOURCE, Case, DataError, Pictures, file_name
from .methods import ALL
from .methods.base import Method
from .methods.by_diffusers import PEERS
from .methods.settings import Scorer, Settings
from .networks import Networks
from .readers import DemoData, FolderData, OirBench, PartEditBench, PromptData


class Data(Entry):
    """One data set: its name, and exactly one reader."""

    name: Text = ""
    compare: Literal["partedit_synthetic", "partedit_real", "oir_multi", "none"] | None = None
    folder: FolderData | None = None
    oirbench: OirBench | None = None
    partedit_bench: PartEditBench | None = None
    prompts: PromptData | None = None
    demo: DemoData | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_reader(cls, values: Any) -> Any:
        readers = [name for name in cls.model_fields if name not in ("name", "compare")]
        if not isinstance(values, dict) or sum(name in values for name in readers) != 1:
            raise ValueError(f"expected exactly one of {', '.join(readers)}.")
        return values

    @field_validator("folder", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    def reader(self) -> tuple[str, Any]:
        return next((name, getattr(self, name)) for name in READERS if getattr(self, name) is not None)


READERS = ("folder", "oirbench", "partedit_bench", "prompts", "demo")


def _spread(entry: Any) -> list[dict[str, Any]]:
    """An entry of ``methods`` with its ``sweep`` written out: one for each combination of the values."""
    if isinstance(entry, str):
        return [{"method": entry}]
    if not isinstance(entry, dict) or "sweep" not in entry:
        return [entry]
    sweep = entry["sweep"]
    if not isinstance(sweep, dict) or not sweep or not all(isinstance(v, list) and v for v in sweep.values()):
        raise ValueError(f"sweep: expected settings with a list of values each, got {sweep!r}.")
    rest = {key: value for key, value in entry.items() if key != "sweep"}
    base = rest.get("name") or rest.get("method")
    spread = []
    for values in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, values))
        words = ", ".join(f"{key} {value}" for key, value in chosen.items())
        spread.append({**rest, **chosen, "name": f"{base}, {words}"})
    return spread


BY_NAME = {one.kind: one for one in (*ALL, *PEERS)}


def _method(entry: Any, context: Any) -> Method:
    kind = entry.get("method") if isinstance(entry, dict) else None
    if kind not in BY_NAME:
        raise ValueError(f"method: expected one of {', '.join(BY_NAME)}, got {kind!r}.")
    found = BY_NAME[kind].model_validate(entry, context=context)
    return found if found.name else found.model_copy(update={"name": kind})


def _methods(values: Any, info: ValidationInfo) -> list[Method]:
    if not isinstance(values, list) or not values:
        raise ValueError("expected a list of methods.")
    methods = [_method(one, info.context) for entry in values for one in _spread(entry)]
    names = [file_name(str(method.name)).casefold() for method in methods]
    for method, name in zip(methods, names):
        # Its files lie beside those of the methods.
        if name.split(".")[0] == SOURCE:
            raise ValueError(f"the name {method.name!r} is that of the generated sources' files. Choose another one.")
        if names.count(name) > 1:
            raise ValueError(f"the name {method.name!r} is used twice. Give each method its own name.")
    return methods


def server_address(value: str) -> str:
    """The address of a server with its scheme and without a slash at the end.

    Raises:
        ValueError: it is neither http nor https.
    """
    address = value if "://" in value else f"http://{value}"
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"expected an address such as http://127.0.0.1:8188, got {value!r}.")
    return address.rstrip("/")


Addresses = list[Annotated[Text, AfterValidator(server_address)]]


class RayCluster(Entry):
    """Servers started by Ray on the machines of a cluster."""

    address: Text | None = None
    servers: AtLeastOne = 1
    gpus_per_server: Annotated[float, Field(ge=0)] = 1
    cpus_per_server: Annotated[float, Field(ge=0)] = 1


#: What `demo_checks` can measure of the demo's models.
Check = Literal["prompts", "vae", "scorer", "tokens", "judge"]


class ConfigFile(Entry):
    """The whole file."""

    output: Text = "evaluation"
    title: Text = "Evaluation"
    model: Text = "demo"
    size: PictureSize | None = None
    fit: Literal["crop", "stretch"] = "crop"
    settings: Settings = Settings()
    search_scorer: Scorer | None = None
    score_scorer: Scorer | None = None
    networks: Networks = Networks()
    data: Annotated[list[Data], Field(min_length=1)]
    methods: Annotated[list[Any], BeforeValidator(_methods)]
    checks: list[Check] = []
    servers: Addresses = []
    start: Count = 1
    ray: RayCluster | None = None
    retries: Count = 2
    limit_seconds: Annotated[float, Field(gt=0)] = 3600
    rows_per_second: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _methods_with_the_settings(self) -> ConfigFile:
        for method in self.methods:
            try:
                method.check(self.settings)
            except ValueError as error:
                raise ValueError(f"methods: {method.name!r}: {error}") from None
        return self

    @model_validator(mode="after")
    def _checks_of_the_demo(self) -> ConfigFile:
        if self.checks and self.model != "demo":
            raise ValueError(f"checks: these are of the demo's models, but model is {self.model!r}. Leave them out.")
        return self


def is_token_file(file: Path) -> bool:
    """Whether a file asks for a token laboratory; a file that cannot be read does not."""
    try:
        content = load_yaml(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("kind") == "token"


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set that was read: its name, reader, cases, and the published table it is shown beside."""

    name: str
    reader: str
    cases: tuple[Case, ...]
    compare: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked configuration with its data."""

    config: ConfigFile
    output: Path
    pictures: Pictures
    data: tuple[DataSet, ...]
    methods: tuple[Method, ...]

    def methods_for(self, data: str) -> list[Method]:
        """The methods that a data set is edited with."""
        return [method for method in self.methods if method.is_for(data)]

    @property
    def cases(self) -> list[Case]:
        return [case for data in self.data for case in data.cases]


def read_plan(file: Path, output: Path | None = None, write: bool = True) -> Plan:
    """Read a configuration and its data.

    Args:
        output: overrides the file's.
        write: False leaves the pictures in memory, for a plan.

    Raises:
        ConfigError: unreadable YAML, unknown keys, values of another type, or data that cannot be read.
    """
    config, base = read_config(file, ConfigFile)
    folder = output or (base / config.output).resolve()
    size = config.size or (256 if config.model == "demo" else 1024)
    pictures = Pictures(folder / "inputs", size, config.fit, write)
    return Plan(config, folder, pictures, tuple(_read(config, pictures)), tuple(config.methods))


def _read(config: ConfigFile, pictures: Pictures) -> list[DataSet]:
    names = [one.name or one.reader()[0] for one in config.data]
    for number, name in enumerate(names):
        if file_name(name).casefold() in [file_name(other).casefold() for other in names[:number]]:
            raise ConfigError(f"data[{number}].name: {name!r} is used twice. Give each data set its own name.")
    for method in config.methods:
        for name in method.data or []:
            if name not in names:
                raise ConfigError(f"methods: {method.name!r} is for the data {name!r}, but there is only {names}.")
    found: list[DataSet] = []
    for number, (name, one) in enumerate(zip(names, config.data)):
        kind, reader = one.reader()
        try:
            cases = tuple(
                dataclasses.replace(case, size=pictures.size, generated=not case.picture)
                for case in reader.cases(name, pictures)
            )
        except DataError as error:
            lines = [f"data[{number}].{kind}: {line}" for line in str(error).splitlines()]
            raise ConfigError("\n".join(lines)) from error
        for case in cases:
            # PartEdit Prompt would read it as a replacement, and every other method as words.
            if "->" in case.edit or "→" in case.edit:
                raise ConfigError(
                    f"data[{number}].{kind}: {case.name!r} has an arrow in its edited prompt {case.edit!r}. Write the "
                    "whole prompt, or give before and after."
                )
        short = [file_name(case.name).casefold() for case in cases]
        for case, own in zip(cases, short):
            if short.count(own) > 1:
                raise ConfigError(f"data[{number}].{kind}: two edits have the name {case.name!r}.")
        found.append(DataSet(name, kind, cases, one.compare or _comparable(cases)))
    return found


def _comparable(cases: tuple[Case, ...]) -> str:
    """The published table whose kind of edit this is."""
    if any(len(case.pairs) > 1 for case in cases):
        return "oir_multi"
    if any(case.token for case in cases):
        return "partedit_synthetic" if all(case.generated for case in cases) else "partedit_real"
    return "none"
