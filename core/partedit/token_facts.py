"""What is known of a part token without loading it, for lists: from the header of its file, or from the index."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..files import FileState, file_state
from .published import published_token
from .token_files import MAX_PART_NAME, clean_text
from .token_names import token_stem
from .tokens import family_of_width

# The header of a token has well below a kilobyte; a file may claim anything.
MAX_HEADER_BYTES = 256 * 1024
MAX_PARTS = 8
MAX_TOKEN_BYTES = 16 * 1024**2


@dataclass(frozen=True)
class TokenFacts:
    """What a list can show of a token file.

    Attributes:
        parts: names of its parts, the first eight; () when unknown.
        family: model family, or "" when unknown.
        iou: intersection over union that its training measured, 0 to 1, one for each part; () when not recorded.
        held_out: whether that was on pictures that training did not use.
    """

    parts: tuple[str, ...] = ()
    family: str = ""
    iou: tuple[float, ...] = ()
    held_out: bool = False


def token_facts(path: Path) -> TokenFacts:
    """Facts of a token file, kept until the file changes. A file that cannot be read has none; nothing is raised."""
    try:
        return _read_facts(path, file_state(path))
    except (OSError, ValueError, RecursionError):
        return TokenFacts()


@lru_cache(maxsize=1024)
def _read_facts(path: Path, state: FileState) -> TokenFacts:
    header = _header(path, state[0])
    recorded = header.get("__metadata__")
    metadata = recorded if isinstance(recorded, dict) else {}
    shape = _shape(header)
    parts = _names(metadata.get("parts"))
    family = _short(metadata.get("model_family")) or (family_of_width(shape[1]) if shape else "")
    published = published_token(path.name)
    if published is not None and published.stem == token_stem(path.name) and shape in (None, published.shape):
        parts, family = parts or (published.part,), family or published.family
    iou = _values(metadata.get("iou"), parts)
    return TokenFacts(parts[:MAX_PARTS], family, iou, _short(metadata.get("iou_measured_on")).startswith("held-out"))


def token_content(path: Path) -> str:
    """A short text that changes with what a token file holds, kept until the file changes; "" if it cannot be read."""
    try:
        return _read_content(path, file_state(path))
    except OSError:
        return ""


@lru_cache(maxsize=1024)
def _read_content(path: Path, state: FileState) -> str:
    if state[0] > MAX_TOKEN_BYTES:  # no token: a checkpoint that was put into the folder would take minutes to read
        return f"{state[0]} bytes, {state[1:]}"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _header(path: Path, size: int) -> dict[str, Any]:
    """The header of a safetensors file; empty for any other file, which would have to be loaded."""
    with path.open("rb") as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        if start[8:] != b"{" or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            return {}
        file.seek(8)
        header = json.loads(file.read(length).decode("utf-8"))
    return header if isinstance(header, dict) else {}


def _shape(header: dict[str, Any]) -> tuple[int, int] | None:
    """(rows, width) of the only tensor, or of ``embedding``; None if there is no such tensor."""
    tensors = {key: value for key, value in header.items() if key != "__metadata__"}
    entry = next(iter(tensors.values())) if len(tensors) == 1 else tensors.get("embedding")
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(value, int) for value in shape):
        return shape[0], shape[1]
    return None


def _short(text: Any) -> str:
    return clean_text(text)[:MAX_PART_NAME] if isinstance(text, str) else ""


def _names(text: Any) -> tuple[str, ...]:
    try:
        names = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return ()
    return tuple(filter(None, map(_short, names))) if isinstance(names, list) else ()


def _values(text: Any, parts: tuple[str, ...]) -> tuple[float, ...]:
    """The values in "robot head 0.803, robot torso 0.869"; () unless there is one for each part, in their order."""
    if not isinstance(text, str) or not parts or len(parts) > MAX_PARTS:
        return ()
    pattern = ", ".join(re.escape(part) + r" ([01]\.\d{1,6})" for part in parts)
    found = re.fullmatch(pattern, text)
    values = tuple(map(float, found.groups())) if found else ()
    return values if all(value <= 1 for value in values) else ()
