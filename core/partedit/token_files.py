"""Names and contents of token files that may come from anywhere, and the index of the published tokens."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

# A token of 77 rows at the widest text conditioning in use is far below a megabyte; more is no token.
MAX_FILE_BYTES = 64 * 1024**2
MAX_ROWS = 77
MAX_WIDTH = 65536
MAX_NAME = 100
MAX_TEXT = 20_000

INDEX_FILE = Path(__file__).resolve().parents[2] / "tokens" / "index.json"
NOT_INSTALLED = " (published, not installed)"

# Device names that Windows takes for hardware, whatever follows the first dot.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


@dataclass(frozen=True)
class PublishedToken:
    """An entry of the index: a token that its authors publish and this pack does not redistribute."""

    name: str
    part: str
    repository: str
    file: str
    shape: tuple[int, ...]
    note: str


def safe_file_name(name: str, what: str = "file_name") -> str:
    """A file name without a path and without surprises, as typed into a widget.

    Raises:
        ValueError: separators, ``..``, drives, control characters, reserved or hidden names; the message says which.
    """
    shown = name if name.isprintable() else ascii(name)
    stripped = name.strip()
    problem = ""
    if not stripped:
        problem = "is empty"
    elif not stripped.isprintable():
        problem = "holds control characters"
    elif re.search(r'[\\/:*?"<>|%$]', stripped):
        problem = "may hold letters, digits, spaces, '-', '_', '(', ')' and '.', but no path"
    elif stripped.startswith((".", "~", "-")) or stripped.endswith(".") or ".." in stripped:
        problem = "may not begin with '.', '~' or '-', end with '.', or hold '..'"
    elif stripped.split(".")[0].strip().lower() in _RESERVED:
        problem = "is a device name on Windows"
    elif len(stripped.encode()) > MAX_NAME:
        problem = f"is longer than {MAX_NAME} bytes"
    if problem:
        raise ValueError(f"{what}: {shown!r} {problem}. Use a plain name such as 'cat_head'.")
    return stripped


def check_file_size(path: Path) -> None:
    """Refuse a file that is empty or far too large for a token before any of it is read.

    Raises:
        ValueError: such a file, or an archive whose list of contents cannot be read.
    """
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path.name}: is empty. Download or save it again.")
    size = max(size, _unpacked_size(path))
    if size > MAX_FILE_BYTES:
        raise ValueError(
            f"{path.name}: has {size / 1024**2:.0f} MB; a part token has less than {MAX_FILE_BYTES // 1024**2} MB. "
            "This is another kind of file; move it out of the part token folder."
        )


def _unpacked_size(path: Path) -> int:
    """Bytes that a ZIP archive, such as torch saves, holds unpacked; 0 for any other file.

    torch writes its archives uncompressed but reads compressed ones, which may unfold to a thousand times their size.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return 0
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # a hostile list of contents makes zipfile raise all sorts of errors
        raise ValueError(
            f"{path.name}: is damaged or incomplete ({type(error).__name__}), so it was not loaded. Get it again from "
            "where it is published."
        ) from error


def check_embedding(value: Any, name: str) -> torch.Tensor:
    """The tensor of a token file as plain (R, D) float32 on the CPU, with values of its own.

    Shape and kind are checked before anything is computed: a few bytes can describe a view of terabytes.

    Raises:
        ValueError: not a dense floating-point tensor, or a shape or values that no token has.
    """
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name}: holds no tensor. A part token is one tensor of shape (rows, width).")
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise ValueError(f"{name}: holds a sparse, quantised or device tensor; a part token is a plain one.")
    if not value.is_floating_point():
        raise ValueError(f"{name}: holds {value.dtype} values; a part token holds floating-point numbers.")
    if value.ndim != 2 or not 2 <= value.shape[0] <= MAX_ROWS or not 1 <= value.shape[1] <= MAX_WIDTH:
        raise ValueError(
            f"{name}: its tensor has the shape {tuple(value.shape)}; a part token has (rows, width) with 2 to "
            f"{MAX_ROWS} rows, background first; published ones have (2, 2048)."
        )
    rows = value.detach().to(torch.float32).clone()
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(f"{name}: holds NaN or infinite values. The file is damaged, or its training failed.")
    return rows


def clean_text(text: str) -> str:
    """Text of a file's metadata without control characters, and not endless."""
    kept = "".join(letter for letter in text[:MAX_TEXT] if letter.isprintable() or letter in "\n\t")
    return kept.strip()


@lru_cache(maxsize=1)
def published_tokens() -> tuple[PublishedToken, ...]:
    """The tokens that PartEdit's authors publish, from ``tokens/index.json``."""
    index = json.loads(INDEX_FILE.read_text(encoding="utf-8"))
    return tuple(
        PublishedToken(
            entry["name"],
            entry["part"],
            index["repository"],
            entry.get("file") or "",
            tuple(index["shape"]),
            entry.get("note") or "",
        )
        for entry in index["tokens"]
    )


def published_names(installed: list[str]) -> list[str]:
    """Entries for a list widget: published tokens of which no file of that name is there, marked as missing."""
    stems = {Path(name).stem.lower() for name in installed}
    return [token.name + NOT_INSTALLED for token in published_tokens() if token.name.lower() not in stems]


def where_to_get(name: str, folder: str) -> str | None:
    """For a published token, a sentence on where to get it and where to put it; None for any other name."""
    stem = Path(name.removesuffix(NOT_INSTALLED)).stem.lower()
    token = next((token for token in published_tokens() if token.name.lower() == stem), None)
    if token is None:
        return None
    index = json.loads(INDEX_FILE.read_text(encoding="utf-8"))
    file = f"the file {token.file}" if token.file else index["file_hint"]
    sentence = (
        f"{token.name!r} ({token.part}) is published by PartEdit's authors and not part of this pack. Get {file} from "
        f"{token.repository} and save it as {token.name}.safetensors or {token.name}.pt in {folder}. "
        f"Licence: {index['licence']}"
    )
    return f"{sentence} {token.note}".strip()
