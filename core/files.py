"""Safe names and atomic writing of files. Standard library only."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_NAME = 100
# What tells the state of a file, see `file_state`.
FileState = tuple[int, int, int]
# Names that Windows treats as devices, whatever follows the first dot.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path next to ``path`` to write to; it replaces ``path`` at the end.

    If writing fails, ``path`` is unchanged and no temporary file is left. (`tools.host.layout` has its own version for
    programs that run before ComfyUI is installed.)
    """
    temporary = path.with_name(path.name + ".part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_state(path: Path) -> FileState:
    """What changes when a file is written anew, or another one takes its place under the same name.

    A renamed or unpacked file keeps its time of modification, and part tokens are of the same size: the time of the
    change itself (on Windows, of the file's creation) tells them apart.
    """
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def comparable_path(name: str) -> str:
    """A name of a file as it is compared: in lower case, with ``/`` between folders.

    Workflows come from other systems, with ``\\`` on Windows, and with accents composed or not.
    """
    return unicodedata.normalize("NFC", name.strip()).replace("\\", "/").casefold()


def safe_file_name(name: str, what: str = "file_name") -> str:
    """A safe file name without a path, from a widget's text.

    Raises:
        ValueError: separators, ``..``, drives, control characters, reserved or hidden names; the message says why.
    """
    shown = name if name.isprintable() else ascii(name)
    stripped = name.strip()
    problem = ""
    if not stripped:
        problem = "is empty"
    elif not stripped.isprintable():
        problem = "contains control characters"
    elif re.search(r'[\\/:*?"<>|%$]', stripped):
        problem = "may contain letters, digits, spaces, '-', '_', '(', ')' and '.', but no path"
    elif stripped.startswith((".", "~", "-")) or stripped.endswith(".") or ".." in stripped:
        problem = "must not start with '.', '~' or '-', end with '.', or contain '..'"
    elif unicodedata.normalize("NFKC", stripped.split(".")[0]).strip().lower() in _RESERVED:  # COM¹ is one, too
        problem = "is a device name on Windows"
    elif len(stripped.encode()) > MAX_NAME:
        problem = f"is longer than {MAX_NAME} bytes"
    if problem:
        raise ValueError(f"{what}: {shown!r} {problem}. Use a plain name such as 'cat_head'.")
    return stripped
