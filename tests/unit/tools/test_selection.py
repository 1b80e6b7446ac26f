"""Which tests a plain run takes, and which with --fast and --soak."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.selection import mark, selected

REPOSITORY = Path(__file__).resolve().parents[3]


class Item(SimpleNamespace):
    """As much of a collected test as the selection looks at."""

    def __init__(self, path: str, *marks: str, fixtures: tuple[str, ...] = ()) -> None:
        super().__init__(path=REPOSITORY / path, marks=list(marks), fixturenames=fixtures)

    def add_marker(self, name: str) -> None:
        self.marks.append(name)

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.marks else None


ITEMS = {
    "unit": Item("tests/unit/core/test_a.py"),
    "golden": Item("tests/golden/test_a.py"),
    "slow": Item("tests/unit/core/test_a.py", "slow"),
    "host": Item("tests/host/test_a.py"),
    "server": Item("tests/unit/core/test_a.py", fixtures=("client", "server")),
    "browser": Item("tests/browser/test_a.py"),
    "soak": Item("tests/soak/test_a.py", fixtures=("server",)),
    "slow soak": Item("tests/unit/core/test_a.py", "slow", "soak"),
    "elsewhere": Item("../other/tests/host/test_a.py"),
}
for item in ITEMS.values():
    mark(item, REPOSITORY)


@pytest.mark.parametrize(
    "fast, soak, left_out",
    [
        (False, False, {"soak", "slow soak"}),
        (True, False, {"slow", "host", "server", "browser", "soak", "slow soak"}),
        (False, True, set(ITEMS) - {"soak", "slow soak"}),
    ],
)
def test_each_way_of_running(fast, soak, left_out):
    assert {name for name, item in ITEMS.items() if not selected(item, fast, soak)} == left_out


def pytest_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env={**os.environ}, capture_output=True, text=True, check=False)


def test_soak_without_soak_tests_says_so():
    done = pytest_here("--soak", "tests/unit/tools/test_selection.py")
    assert done.returncode == 4 and "no soak tests here" in done.stderr + done.stdout


def test_fast_leaves_out_the_server():
    done = pytest_here("--fast", "tests/host/test_loading.py", "tests/unit/tools/test_selection.py")
    assert done.returncode == 0 and "test_each_way_of_running" in done.stdout and "test_loading" not in done.stdout


def test_run_py_passes_them_on():
    command = [sys.executable, "-S", str(REPOSITORY / "run.py"), "test"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False).stdout
    assert all(f"--{name}" in shown for name in ("fast", "soak", "floor"))
    both = subprocess.run([*command, "--fast", "--soak"], capture_output=True, text=True, check=False)
    assert both.returncode == 2 and "not allowed with argument" in both.stderr
