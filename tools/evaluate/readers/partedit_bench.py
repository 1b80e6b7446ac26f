"""PartEdit-Bench, whose columns are known from its data set card."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...config_file import AtLeastOne, Entry, ExistingPath, Text
from ...host.layout import PACK_DIR
from ...pictures import PictureError, check_same_shape, read_mask, read_picture
from ..cases import Case, DataError, Pair, Pictures, one_line
from ..phrases import replaced
from .lists import field


class PartFields(Entry):
    """What PartEdit-Bench calls its columns, by its data set card."""

    prompt: Text = "prompt_original"
    subject: Text = "subject"
    edit: Text = "edit"
    # The whole edited prompt, for a row whose subject is not in its prompt word for word.
    edited: Text = "p2p_prompt"
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
                one_line(field(row, name, where)) for name in (names.prompt, names.subject, names.edit)
            )
            token = self._token(row, files, where)
            edit = self._edited(row, source, subject, change, where)
            picture, region = ("", "") if self.generate else self._pictures(row, pictures, where)
            pairs = (Pair(subject, change, region),)
            name = f"{number:03d} {subject} {change}"
            seed = _seed(row.get(names.seed), f"{where}.{names.seed}")
            yield Case(data, name, source, edit, picture, region, pairs, token, seed=seed)

    def _edited(self, row: Mapping[str, Any], source: str, subject: str, change: str, where: str) -> str:
        try:
            return replaced(source, [(subject, change)])
        except DataError as error:
            if whole := one_line(row.get(self.fields.edited) or ""):
                return whole
            raise DataError(
                f"{where}: {error}, and there is no edited prompt in {self.fields.edited!r}. "
                "Set 'edited' under 'fields'."
            ) from None

    def _pictures(self, row: Mapping[str, Any], pictures: Pictures, where: str) -> tuple[str, str]:
        """The kept picture and mask of a row, "" where it has none."""
        names = self.fields
        image, mask = (_picture_bytes(row.get(name), f"{where}.{name}") for name in (names.image, names.mask))
        if not image:
            return "", ""
        column = names.image
        try:
            opened = read_picture(image)
            if not mask:
                return pictures.picture(opened), ""
            column = names.mask
            region = read_mask(mask)
            check_same_shape(region, opened)
            return pictures.picture(opened), pictures.mask(region)
        except (PictureError, DataError) as error:
            raise DataError(f"{where}.{column}: {error}.") from None

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
    """The rows of a parquet file, by pyarrow.

    Raises:
        DataError: it is not installed, or the file is not one.
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


def _seed(value: Any, where: str) -> int:
    """A seed of a column, 0 where there is none; columns with gaps are read as decimals."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return 0
    try:
        seed = int(value)
    except (TypeError, ValueError):
        seed = -1
    if seed < 0:
        raise DataError(f"{where}: expected a whole number from 0 on, got {value!r}.")
    return seed
