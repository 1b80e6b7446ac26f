"""ruff and mypy find nothing, with the settings of pyproject.toml; the hooks before a commit run the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tools.style import CHECKS, check

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", ["rules", "format"])
def test_ruff_finds_nothing(name):
    done = check(name)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_mypy_finds_nothing():
    done = check("types")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_mypy_looks_at_every_room_and_at_run_py():
    looked_at = {part.removeprefix("partedit_oir.") for part in CHECKS["types"] if part.startswith("partedit_oir.")}
    rooms = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")}
    assert looked_at == {*rooms, "run"} and {"nodes", "core", "tools", "bench", "demo"} <= rooms


def test_a_commit_is_checked_as_the_tests_do():
    config = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    assert entries == [f"python3 run.py style {name}" for name in CHECKS]
