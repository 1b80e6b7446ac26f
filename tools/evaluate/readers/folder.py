"""A folder of one's own pictures and masks, with a list of edits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from ...config_file import AtLeastOne, Count, Entry, ExistingPath, Text, error_lines
from ..cases import Case, DataError, Pair, Pictures, one_line
from .lists import edited_prompt, keep_mask, load_list, open_picture


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
        if not self.source.strip():
            raise ValueError("source: is empty. Give the prompt of the picture before the edit.")
        if bool(self.before) != bool(self.after):
            raise ValueError("before: give before and after together.")
        if self.before and self.pairs:
            raise ValueError("pairs: give either before and after, or pairs.")
        if not self.edit and not self.before and not self.pairs:
            raise ValueError("edit: is missing. Give the edited prompt, before and after, or pairs.")
        return self


LISTS = ("edits.yaml", "edits.yml", "edits.json", "edits.csv")


class FolderData(Entry):
    """A folder of your own: pictures, masks, and a list of edits in YAML, JSON or CSV."""

    path: ExistingPath
    file: Text = ""
    limit: AtLeastOne | None = None

    def cases(self, data: str, pictures: Pictures) -> Iterator[Case]:
        folder = Path(self.path)
        names = [self.file] if self.file else list(LISTS)
        lists = [folder / name for name in names if (folder / name).is_file()]
        if not lists:
            raise DataError(f"{folder}: has no list of edits. Expected {' or '.join(names)} there.")
        if len(lists) > 1:
            there = " and ".join(path.name for path in lists)
            raise DataError(
                f"{folder}: has {there}. Name the one to use: 'folder: {{path: …, file: {lists[0].name}}}'."
            )
        (found,) = lists
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
        image = open_picture(folder, entry.image, where) if entry.image else None
        mask = keep_mask(pictures, folder, entry.mask, where, image) if entry.mask else ""
        pairs = []
        for (before, after), pair in zip(words, listed):
            own = keep_mask(pictures, folder, pair.mask, where, image) if pair.mask else ""
            # One object: its mask is the mask of the edit.
            pairs.append(Pair(before, after, own or (mask if len(words) == 1 else "")))
        if not mask and pairs and all(pair.mask for pair in pairs):
            mask = pictures.union([pair.mask for pair in pairs])
        picture = pictures.picture(image) if image is not None else ""
        name = entry.name or f"{number:03d} {Path(entry.image).stem if entry.image else entry.edit or source}"
        return Case(data, name, source, edit, picture, mask, tuple(pairs), entry.token, entry.part, entry.seed)
