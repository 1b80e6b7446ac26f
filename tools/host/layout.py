"""Where things lie, and the few pieces that setting up and running share."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PACK_DIR = Path(__file__).resolve().parents[2]
RUNTIME = PACK_DIR / ".runtime"
LINK_NAME = "ComfyUI-PartEdit-OIR"


class SetupError(RuntimeError):
    """The environment cannot be made or used; the message says what to do."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI to run: its folder (with main.py), its interpreter, and whether ``.runtime`` owns it."""

    root: Path
    python: Path
    private: bool


def log(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def run_step(command: list[str] | str, what: str, hint: str = "") -> None:
    """Run a command with its output shown.

    Raises:
        SetupError: it failed; the message ends with ``hint`` and says that the same call goes on from here.
    """
    done = subprocess.run(command, cwd=PACK_DIR, check=False)
    if done.returncode != 0:
        shown = command if isinstance(command, str) else " ".join(command)
        raise SetupError(
            f"{what} failed (exit {done.returncode}): {shown}\n"
            f"Its own message stands above. {hint}Run the same command again to go on from here."
        )


def run_pip(python: Path, arguments: list[str], what: str) -> None:
    """Run pip of an interpreter with the user's own settings: no index is named anywhere.

    Raises:
        SetupError: it failed; says what to look at when the package index could not be reached.
    """
    run_step(
        [str(python), "-m", "pip", "--disable-pip-version-check", *arguments],
        what,
        "If it speaks of connections, time-outs, certificates or '(from versions: none)', pip does not reach its "
        "package index: check the network, and behind a proxy or with an index of your own HTTPS_PROXY and "
        f"'{python} -m pip config list'. If there is 'No space left': the environment takes about 7 GB on Linux, less "
        "elsewhere, and as much again while it is made. With a ComfyUI that runs already none of this is needed: "
        "see COMFYUI_PATH in the README.\n",
    )


def end_cleanly_when_told_to_stop() -> None:
    """Let a plain kill and a closed terminal end this program as an exception does, so that servers are stopped."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Under nohup a hang-up is ignored already, and shall stay so.
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda received, _frame: sys.exit(128 + received))


def write_whole(path: Path, text: str) -> None:
    """Write a text file beside its place, then move it there: a crash never leaves half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
