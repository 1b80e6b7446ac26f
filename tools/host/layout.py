"""Paths, and helpers shared by setup and running."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACK_DIR = Path(__file__).resolve().parents[2]
RUNTIME = PACK_DIR / ".runtime"
LINK_NAME = "ComfyUI-PartEdit-OIR"


class SetupError(RuntimeError):
    """The environment cannot be set up or used; the message says what to do."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI to run: its folder (with main.py), its interpreter, and whether it is the private one."""

    root: Path
    python: Path
    private: bool


def log(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def run_step(command: list[str] | str, what: str, hint: str = "") -> None:
    """Run a command and show its output.

    Raises:
        SetupError: it failed; the message contains ``hint`` and says that the same command continues from here.
    """
    done = subprocess.run(command, cwd=PACK_DIR, check=False)
    if done.returncode != 0:
        shown = command if isinstance(command, str) else " ".join(command)
        raise SetupError(
            f"{what} failed (exit {done.returncode}): {shown}\n"
            f"See its output above. {hint}Run the same command again to continue from here."
        )


def run_pip(python: Path, arguments: list[str], what: str) -> None:
    """Run an interpreter's pip with the user's own settings; no package index is set here.

    Raises:
        SetupError: it failed; the message says what to check if the package index could not be reached.
    """
    run_step(
        [str(python), "-m", "pip", "--disable-pip-version-check", *arguments],
        what,
        "If it mentions connections, timeouts, certificates or '(from versions: none)', pip cannot reach its package "
        "index: check the network, and behind a proxy or with your own index also HTTPS_PROXY and "
        f"'{python} -m pip config list'. If it says 'No space left': the environment takes about 7 GB on Linux, less "
        "elsewhere, and as much again during setup. If you already have a working ComfyUI, none of this is needed: see "
        "COMFYUI_PATH in the README.\n",
    )


# Not with -m: the Python of ComfyUI's portable edition for Windows searches neither the current folder nor PYTHONPATH.
_RUN_MODULE = """
import runpy, sys
sys.path[:] = [sys.argv.pop(1), *filter(None, sys.path)]
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def module_command(module: str, arguments: Iterable[str] = ()) -> list[str]:
    """What a Python has to be given to run a module of this repository."""
    return ["-c", _RUN_MODULE, str(PACK_DIR), module, *arguments]


def end_cleanly_when_told_to_stop() -> None:
    """Make SIGTERM and a closed terminal end this program like an exception, so that servers are stopped."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Under nohup, SIGHUP is already ignored and must stay so.
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda received, _frame: sys.exit(128 + received))


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to, renamed at the end: a crash never leaves a partial file.

    What ships has the same in core/files.py; neither may import the other.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file atomically; see `whole_file`."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
