"""The data of ``run.py evaluate``: each reader is a model of its entry in the file, and reads it into cases.

Field names are known for PartEdit-Bench only in part, and for OIRBench not at all. Such names
are settings (``fields``), and a field that is not there is named together with those that are.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from PIL import Image, UnidentifiedImageError
from pydantic import Field, ValidationError, model_validator

from ..config_file import AtLeastOne, Count, Entry, ExistingPath, Names, Text, error_lines
from ..host.layout import PACK_DIR
from .cases import Case, DataError, Pair, Pictures, one_line

MAX_LIST_BYTES = 16 * 1024**2


def load_list(path: Path) -> Any:
    """A YAML, JSON or CSV file; a CSV as a list of rows without their empty cells.

    Raises:
        DataError: too large, or not readable.
    """
    if path.stat().st_size > MAX_LIST_BYTES:
        raise DataError(f"{path}: is larger than {MAX_LIST_BYTES // 1024**2} MB, so it is not a list of edits.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            return [{key: cell for key, cell in row.items() if cell} for row in csv.DictReader(text.splitlines())]
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def open_picture(path: Path, where: str) -> Image.Image:
    """A picture file, read whole.

    Raises:
        DataError: missing, or not a picture.
    """
    if not path.is_file():
        raise DataError(f"{where}: {path} does not exist.")
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{where}: {path} is not a picture: {error}") from error


def keep_mask(pictures: Pictures, image: Image.Image, where: str) -> str:
    try:
        return pictures.mask(image)
    except DataError as error:
        raise DataError(f"{where}: {error}.") from None


def edited_prompt(source: str, pairs: list[tuple[str, str]], where: str) -> str:
    """``source`` with each phrase replaced by its new one.

    Raises:
        DataError: a phrase is not in it.
    """
    edit = source
    for before, after in pairs:
        if before not in edit:
            raise DataError(f"{where}: {before!r} is not in the prompt {source!r}. Write the edited prompt yourself.")
        edit = edit.replace(before, after, 1)
    return edit


class OnePair(Entry):
    """An object of an edit."""

    before: Text
    after: Text
    mask: Text = ""


class OneEdit(Entry):
    """An entry of a folder's list. Without ``image`` the model generates the source."""

    source: Text
    edit: Text = ""
    name: Text = ""
    image: Text = ""
    mask: Text = ""
    before: Text = ""
    after: Text = ""
    pairs: list[OnePair] = []
    token: Text = ""
    part: Text = ""
    seed: Count = 0

    @model_validator(mode="before")
    @classmethod
    def _numbers_of_a_table(cls, values: Any) -> Any:
        # In a CSV file every cell is a text.
        if isinstance(values, dict) and isinstance(values.get("seed"), str) and values["seed"].strip().isdecimal():
            return {**values, "seed": int(values["seed"])}
        return values

    @model_validator(mode="after")
    def _whole(self) -> OneEdit:
        if bool(self.before) != bool(self.after):
            raise ValueError("before: give before and after together.")
        if self.before and self.pairs:
            raise ValueError("pairs: give either before and after, or pairs.")
        if not self.edit and not self.before and not self.pairs:
            raise ValueError("edit: is missing. Give the edited prompt, before and after, or pairs.")
        return self


LISTS = ("edits.yaml", "edits.yml", "edits.csv")


class FolderData(Entry):
    """A folder of one's own: pictures, masks, and a list of edits in YAML or CSV."""

    path: ExistingPath
    file: Text = ""
    limit: AtLeastOne | None = None

    def cases(self, data: str, pictures: Pictures) -> Iterator[Case]:
        folder = Path(self.path)
        names = [self.file] if self.file else list(LISTS)
        found = next((folder / name for name in names if (folder / name).is_file()), None)
        if found is None:
            raise DataError(f"{folder}: has no list of edits. Expected {' or '.join(names)} there.")
        entries = load_list(found)
        if not isinstance(entries, list) or not entries:
            raise DataError(f"{found}: expected a list of edits.")
        for number, values in enumerate(entries[: self.limit]):
            where = f"{found.name}[{number}]"
            try:
                entry = OneEdit.model_validate(values)
            except ValidationError as error:
                raise DataError("\n".join(f"{where}.{line}" for line in error_lines(error))) from None
            yield self._case(entry, number, folder, data, pictures, where)

    def _case(self, entry: OneEdit, number: int, folder: Path, data: str, pictures: Pictures, where: str) -> Case:
        source = one_line(entry.source)
        listed = entry.pairs or ([OnePair(before=entry.before, after=entry.after)] if entry.before else [])
        words = [(one_line(pair.before), one_line(pair.after)) for pair in listed]
        edit = one_line(entry.edit) or edited_prompt(source, words, where)
        mask = keep_mask(pictures, open_picture(folder / entry.mask, where), where) if entry.mask else ""
        pairs = []
        for (before, after), pair in zip(words, listed):
            own = keep_mask(pictures, open_picture(folder / pair.mask, where), where) if pair.mask else ""
            # One object: its mask is the mask of the edit.
            pairs.append(Pair(before, after, own or (mask if len(words) == 1 else "")))
        if not mask and pairs and all(pair.mask for pair in pairs):
            mask = pictures.union([pair.mask for pair in pairs])
        picture = pictures.picture(open_picture(folder / entry.image, where)) if entry.image else ""
        name = entry.name or f"{number:03d} {Path(entry.image).stem if entry.image else entry.edit or source}"
        return Case(data, name, source, edit, picture, mask, tuple(pairs), entry.token, entry.part, entry.seed)


class OirFields(Entry):
    """What OIRBench's YAML calls its fields; a dotted name looks inside a mapping."""

    image: Text = "image"
    prompt: Text = "source_prompt"
    pairs: Text = "pairs"
    before: Text = "source_phrase"
    after: Text = "target_phrase"
    mask: Text = "mask"


class OirBench(Entry):
    """OIRBench: a YAML file with picture and mask files, one object (single) or a list of them (multi)."""

    file: ExistingPath
    images: ExistingPath
    masks: ExistingPath | None = None
    fields: OirFields = OirFields()
    seed: Count = 1
    limit: AtLeastOne | None = None

    def cases(self, data: str, pictures: Pictures) -> Iterator[Case]:
        content = load_list(Path(self.file))
        if isinstance(content, dict):
            content = [{"name": str(name), **_mapping(entry, str(name))} for name, entry in content.items()]
        if not isinstance(content, list) or not content:
            raise DataError(f"{self.file}: expected a list of edits, or a mapping of names to edits.")
        names = self.fields
        for number, entry in enumerate(content[: self.limit]):
            where = f"{Path(self.file).name}[{number}]"
            _mapping(entry, where)
            image = str(_field(entry, names.image, where))
            source = one_line(_field(entry, names.prompt, where))
            # An entry of the single set is its own pair.
            listed = _field(entry, names.pairs, where) if _has(entry, names.pairs) else [entry]
            if not isinstance(listed, list) or not listed:
                raise DataError(f"{where}.{names.pairs}: expected a list of objects.")
            pairs = []
            for place, one in enumerate(listed):
                here = where if one is entry else f"{where}.{names.pairs}[{place}]"
                _mapping(one, here)
                path = Path(self.masks or self.images) / str(_field(one, names.mask, here))
                mask = keep_mask(pictures, open_picture(path, here), here)
                before, after = (one_line(_field(one, name, here)) for name in (names.before, names.after))
                pairs.append(Pair(before, after, mask))
            edit = edited_prompt(source, [(pair.before, pair.after) for pair in pairs], where)
            picture = pictures.picture(open_picture(Path(self.images) / image, where))
            union = pictures.union([pair.mask for pair in pairs])
            name = str(entry.get("name") or f"{number:03d} {Path(image).stem}")
            yield Case(data, name, source, edit, picture, union, tuple(pairs), seed=self.seed)


class PartFields(Entry):
    """What PartEdit-Bench calls its columns, by its data set card."""

    prompt: Text = "prompt_original"
    subject: Text = "subject"
    edit: Text = "edit"
    part: Text = "part"
    # What the part belongs to; an older revision names the token in one column.
    kind: Text = "class_name"
    token: Text = "token_cls"
    seed: Text = "seed"
    image: Text = "original_image"
    mask: Text = "gt_mask"


class PartEditBench(Entry):
    """PartEdit-Bench, a parquet file of one split.

    A row is an edit of its own picture in its own mask. With ``generate``, and for a row without a picture, the source
    is made from prompt and seed, by this checkpoint and ComfyUI's noise: another picture than the row's, so its mask is
    found by the token.
    """

    file: ExistingPath
    fields: PartFields = PartFields()
    tokens: dict[str, str] = {}
    generate: bool = False
    limit: AtLeastOne | None = None

    def cases(self, data: str, pictures: Pictures) -> Iterator[Case]:
        files = {**published_token_files(), **self.tokens}
        names = self.fields
        for number, row in enumerate(read_parquet(Path(self.file), self.limit)):
            where = f"{Path(self.file).name}, row {number}"
            source, subject, change = (
                one_line(_field(row, name, where)) for name in (names.prompt, names.subject, names.edit)
            )
            token = self._token(row, files, where)
            edit = edited_prompt(source, [(subject, change)], where)
            picture = region = ""
            if not self.generate and (image := _picture_bytes(row.get(names.image), f"{where}.{names.image}")):
                picture = pictures.keep_bytes(image)
                mask = _picture_bytes(row.get(names.mask), f"{where}.{names.mask}")
                region = pictures.keep_bytes(mask, mask=True) if mask else ""
            seed = int(row.get(names.seed) or 0)
            pairs = (Pair(subject, change, region),)
            name = f"{number:03d} {subject} {change}"
            yield Case(data, name, source, edit, picture, region, pairs, token, seed=seed)

    def _token(self, row: Mapping[str, Any], files: Mapping[str, str], where: str) -> str:
        """The file of a row's token, by its token's name, or by what its part and class are called."""
        names = self.fields
        given = {name: one_line(row[name]) for name in (names.token, names.kind, names.part) if row.get(name)}
        kind, part = given.get(names.kind, ""), given.get(names.part, "")
        tried = [given.get(names.token, ""), kind, f"{kind} {part}", f"{row.get(names.subject, '')} {part}", part]
        for text in tried:
            key = text.strip().lower().replace(" ", "_").replace("-", "_")
            for name in (text, key):
                if name in files:
                    return files[name]
        if not given:
            columns = f"{names.token!r}, {names.kind!r} or {names.part!r}"
            raise DataError(f"{where}: has none of {columns}; it has: {', '.join(row)}. Set them under 'fields'.")
        said = ", ".join(f"{name} {value!r}" for name, value in given.items())
        raise DataError(
            f"{where}: no token is known for {said}. Add one of these to 'tokens'. Known: {', '.join(sorted(files))}."
        )


def published_token_files() -> dict[str, str]:
    """{name of a part: the published token's file}, by what each token is of.

    The authors' demo has biped and quadruped head the wrong way round; here each name means its own file.
    """
    index = json.loads((PACK_DIR / "tokens" / "index.json").read_text(encoding="utf-8"))
    files: dict[str, str] = {}
    for entry in index["tokens"]:
        stem = Path(entry["file"]).stem
        for name in (*entry.get("also", []), stem, stem.removeprefix("partimage_")):
            files.setdefault(name, entry["file"])
    return files


def read_parquet(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """The rows of a parquet file, by pyarrow, or by datasets where only that is installed.

    Raises:
        DataError: neither is installed, or the file is not one.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path}: reading parquet needs the package pyarrow (the package datasets brings it). "
            "Install it with: pip install pyarrow"
        ) from None
    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).slice(0, limit).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {error}") from error
    if not rows:
        raise DataError(f"{path}: has no rows.")
    return rows


def _picture_bytes(value: Any, where: str) -> bytes | None:
    """The bytes of a picture column: plain, or as ``datasets`` stores them, with a path beside."""
    if value is None:
        return None
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise DataError(f"{where}: expected a picture's bytes, got {type(value).__name__}.")
    return value


class PromptData(Entry):
    """Prompts drawn at random as in PartEdit's Fig. 19; the model generates the sources.

    ``file`` holds template, template2, objects, locations and edits, as YAML or JSON in the figure's own form; or they
    are written here. ``<OBJECT>``, ``<EDIT>`` and ``<LOCATION>`` (or ``<LOCATIONS>``) are replaced.
    """

    file: ExistingPath | None = None
    template: Text = ""
    template2: Text = ""
    objects: list[Text] = []
    locations: list[Text] = []
    edits: dict[str, Names] | Names | None = None
    count: AtLeastOne = 60
    seed: Count = 0
    token: Text = ""
    part: Text = ""

    @model_validator(mode="after")
    def _lists(self) -> PromptData:
        if self.file is None:
            for name in ("template", "template2", "objects", "edits"):
                if not getattr(self, name):
                    raise ValueError(f"{name}: is missing. Give it here, or a file that has it.")
        return self

    def cases(self, data: str, pictures: Pictures) -> Iterator[Case]:
        own = self
        if self.file is not None:
            content = _mapping(load_list(Path(self.file)), self.file)
            try:
                fields = {**self.model_dump(exclude_unset=True, exclude={"file"}), **content}
                own = PromptData.model_validate(fields)
            except ValidationError as error:
                raise DataError("\n".join(f"{self.file}: {line}" for line in error_lines(error))) from None
        assert own.edits is not None
        edits = [edit for group in own.edits.values() for edit in group] if isinstance(own.edits, dict) else own.edits
        every = [
            (thing, place, edit)
            for thing in own.objects
            for place in own.locations or [""]
            for edit in edits
            if edit != thing
        ]
        if own.count > len(every):
            raise DataError(
                f"{data}.count: {own.count} prompts are wanted; the lists give {len(every)} different ones."
            )
        drawn = random.Random(own.seed).sample(every, own.count)  # noqa: S311
        for number, (thing, place, edit) in enumerate(drawn):
            source, after = (
                one_line(_filled(template, {"OBJECT": thing, "EDIT": edit, "LOCATION": place, "LOCATIONS": place}))
                for template in (own.template, own.template2)
            )
            name = f"{number:03d} {thing} {edit}"
            yield Case(
                data, name, source, after, pairs=(Pair(thing, edit),), token=own.token, part=own.part, seed=number
            )


def _filled(template: str, words: Mapping[str, str]) -> str:
    for name, word in words.items():
        template = template.replace(f"<{name}>", word)
    return template


class DemoData(Entry):
    """The demo's own world, for its bundled model.

    ``parts`` and ``objects`` draw pictures with exact masks, which the model has not generated; a success is the new
    colour. ``generated`` has only prompts, so the model generates the source and the token finds the mask.
    """

    kind: Literal["parts", "objects", "generated"] = "parts"
    count: Annotated[int, Field(ge=1, le=1000)] = 10
    seed: Count = 0

    def cases(self, data: str, pictures: Pictures) -> Iterator[Case]:
        from .demo_world import drawn_objects, drawn_parts, generated_parts

        make = {"parts": drawn_parts, "objects": drawn_objects, "generated": generated_parts}[self.kind]
        yield from make(data, self.count, self.seed, pictures)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected keys and values, got {value!r}.")
    return value


def _has(entry: Mapping[str, Any], name: str) -> bool:
    value: Any = entry
    for key in name.split("."):
        if not isinstance(value, dict) or value.get(key) is None:
            return False
        value = value[key]
    return True


def _field(entry: Mapping[str, Any], name: str, where: str) -> Any:
    if not _has(entry, name):
        known = ", ".join(map(str, entry))
        raise DataError(f"{where}: has no {name!r}; it has: {known}. Set the name of this field under 'fields'.")
    value: Any = entry
    for key in name.split("."):
        value = value[key]
    return value
