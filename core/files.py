"""Names and places of files that the pack writes. Standard library only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_NAME = 100
# Device names that Windows takes for hardware, whatever follows the first dot.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; it takes the place of ``path`` at the end.

    When writing fails, ``path`` is as it was before and nothing is left beside it. (`tools.host.layout` has the same
    for the programs that run before ComfyUI is there; nothing that ships imports it, nor it what ships.)
    """
    temporary = path.with_name(path.name + ".part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
