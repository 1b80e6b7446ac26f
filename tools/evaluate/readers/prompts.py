"""Prompts drawn at random, from lists in the form of PartEdit's Fig. 19."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError, model_validator

from ...config_file import AtLeastOne, Count, Entry, ExistingPath, Names, Text, error_lines
from ..cases import Case, DataError, Pair, Pictures, one_line
from .lists import load_list, mapping

# What a template has to name, and what it may.
PLACEHOLDERS = {"template": "OBJECT", "template2": "EDIT"}
_KNOWN = ("OBJECT", "EDIT", "LOCATION", "LOCATIONS")


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
        if self.file is not None:
            return self
        for name in ("template", "template2", "objects", "edits"):
            if not getattr(self, name):
                raise ValueError(f"{name}: is missing. Give it here, or a file that has it.")
        for name, wanted in PLACEHOLDERS.items():
            template = getattr(self, name)
            if f"<{wanted}>" not in template:
                raise ValueError(f"{name}: has no <{wanted}>, so all prompts would be the same: {template!r}.")
            if unknown := sorted(set(re.findall(r"<([A-Z_]+)>", template)) - set(_KNOWN)):
                known = ", ".join(f"<{one}>" for one in _KNOWN)
                raise ValueError(f"{name}: does not know <{unknown[0]}>. Known: {known}.")
            if "<LOCATION" in template and not self.locations:
                raise ValueError(f"locations: is missing; {name} has a place for one.")
        return self

    def cases(self, data: str, pictures: Pictures) -> Iterator[Case]:
        own = self
        if self.file is not None:
            content = mapping(load_list(Path(self.file)), self.file)
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
