"""OIRBench, whose field names are not published: they are settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...config_file import AtLeastOne, Count, Entry, ExistingPath, Text
from ..cases import Case, DataError, Pair, Pictures, one_line
from .lists import edited_prompt, field, has, keep_mask, load_list, mapping, open_picture


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
            content = [{"name": str(name), **mapping(entry, str(name))} for name, entry in content.items()]
        if not isinstance(content, list) or not content:
            raise DataError(f"{self.file}: expected a list of edits, or a mapping of names to edits.")
        names = self.fields
        for number, entry in enumerate(content[: self.limit]):
            where = f"{Path(self.file).name}[{number}]"
            mapping(entry, where)
            image = str(field(entry, names.image, where))
            opened = open_picture(Path(self.images), image, where)
            source = one_line(field(entry, names.prompt, where))
            # An entry of the single set is its own pair.
            listed = field(entry, names.pairs, where) if has(entry, names.pairs) else [entry]
            if not isinstance(listed, list) or not listed:
                raise DataError(f"{where}.{names.pairs}: expected a list of objects.")
            pairs = []
            for place, one in enumerate(listed):
                here = where if one is entry else f"{where}.{names.pairs}[{place}]"
                mapping(one, here)
                folder = Path(self.masks or self.images)
                mask = keep_mask(pictures, folder, str(field(one, names.mask, here)), here, opened)
                before, after = (one_line(field(one, name, here)) for name in (names.before, names.after))
                pairs.append(Pair(before, after, mask))
            edit = edited_prompt(source, [(pair.before, pair.after) for pair in pairs], where)
            union = pictures.union([pair.mask for pair in pairs])
            name = str(entry.get("name") or f"{number:03d} {Path(image).stem}")
            picture = pictures.picture(opened)
            yield Case(data, name, source, edit, picture, union, tuple(pairs), seed=self.seed)
