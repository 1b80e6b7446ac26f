"""Where things lie, and the few pieces that setting up and running share."""

from __future__ import annotations

import hashlib
import subprocess
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


def run_step(command: list[str], what: str) -> None:
    """Run a command with its output shown.

    Raises:
        SetupError: it failed.
    """
    done = subprocess.run(command, cwd=PACK_DIR, check=False)
    if done.returncode != 0:
        raise SetupError(
            f"{what} failed (exit {done.returncode}): {' '.join(command)}\n"
            "Its own message stands above. Run the same command again to go on from here."
        )


def pip_command(python: Path) -> list[str]:
    """pip of an interpreter, with the user's own settings: no index is named anywhere."""
    return [str(python), "-m", "pip", "--disable-pip-version-check"]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
