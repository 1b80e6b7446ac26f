"""Lists of edits as YAML, JSON or CSV, and the fields of their entries."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from ...config_file import load_yaml, unique_keys
from ...pictures import PictureError, check_same_shape, find_file, read_mask, read_picture
from ..cases import DataError, Pictures
from ..phrases import replaced

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
            return list(_rows(text, path))
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=unique_keys)
        return load_yaml(text)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not text in UTF-8 ({error.reason}). Save it with this encoding.") from error
    except (yaml.YAMLError, csv.Error, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read: {error}") from error


def _rows(text: str, path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file whose cells are separated by commas, semicolons or tabs, as its head is."""
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    # A StringIO keeps line breaks within quotes.
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    for row in reader:
        if None in row:
            raise DataError(
                f"{path}, line {reader.line_num}: has more cells than the head. Put a text with {delimiter!r} in "
                "double quotes."
            )
        filled = {key: cell.strip() for key, cell in row.items() if cell and cell.strip()}
        if filled:
            yield filled


def open_picture(folder: Path, name: str, where: str) -> Image.Image:
    """A picture of a list, as RGB.

    Raises:
        DataError: missing, or not a picture.
    """
    try:
        return read_picture(find_file(folder, name))
    except PictureError as error:
        raise DataError(f"{where}: {error}.") from error


def keep_mask(pictures: Pictures, folder: Path, name: str, where: str, picture: Image.Image | None = None) -> str:
    """Keep a mask of a list; ``picture``: whose it is.

    Raises:
        DataError: missing, not a picture, of another aspect ratio, or it marks nothing or everything.
    """
    path = find_file(folder, name)
    try:
        mask = read_mask(path)
        if picture is not None:
            check_same_shape(mask, picture)
        return pictures.mask(mask)
    except (PictureError, DataError) as error:
        named = "" if str(path) in str(error) else f"{path}: "
        raise DataError(f"{where}: {named}{error}.") from None


def edited_prompt(source: str, pairs: list[tuple[str, str]], where: str) -> str:
    """``source`` with each phrase replaced by its new one.

    Raises:
        DataError: a phrase is not in it.
    """
    try:
        return replaced(source, pairs)
    except DataError as error:
        raise DataError(f"{where}: {error}. Write the edited prompt yourself.") from None


def mapping(value: Any, where: str) -> dict[str, Any]:
    """``value`` if it holds keys and values."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected keys and values, got {value!r}.")
    return value


def has(entry: Mapping[str, Any], name: str) -> bool:
    """Whether an entry has a field; a dotted name looks inside a mapping."""
    value: Any = entry
    for key in name.split("."):
        if not isinstance(value, dict) or value.get(key) is None:
            return False
        value = value[key]
    return True


def field(entry: Mapping[str, Any], name: str, where: str) -> Any:
    """A field of an entry.

    Raises:
        DataError: it is not there; the message names those that are.
    """
    if not has(entry, name):
        known = ", ".join(map(str, entry))
        raise DataError(f"{where}: has no {name!r}; it has: {known}. Set the name of this field under 'fields'.")
    value: Any = entry
    for key in name.split("."):
        value = value[key]
    return value
