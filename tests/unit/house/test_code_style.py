"""ruff and mypy find nothing, with the settings of pyproject.toml."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


def run(*arguments: str, **environment: str) -> None:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}{done.stderr[-2000:]}"


def test_ruff_finds_nothing():
    run("ruff", "check", ".")


def test_mypy_finds_nothing():
    # The folder's own name is no module name, so the pack is checked under the name it is imported by. The link
    # keeps its place from run to run, because mypy's cache remembers paths.
    folder = REPOSITORY / ".mypy_cache" / "link"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "partedit_oir"
    link.unlink(missing_ok=True)
    link.symlink_to(REPOSITORY, target_is_directory=True)
    packages = ["nodes", "core", "demo", "tools", "bench"]
    arguments = [part for name in packages for part in ("-p", f"partedit_oir.{name}")]
    config = str(REPOSITORY / "pyproject.toml")
    run("mypy", "--config-file", config, "--namespace-packages", *arguments, MYPYPATH=str(folder))
