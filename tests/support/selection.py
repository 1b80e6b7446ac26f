"""Which tests a run takes: all but the soak tests, with --fast the quick ones, with --soak the soak tests alone."""

from __future__ import annotations

from pathlib import Path

import pytest

# Marks that tests get from their folder and from the fixtures they use.
FOLDERS = {"host": ("server",), "browser": ("server", "browser"), "soak": ("soak",)}
FIXTURES = {"server": ("server",), "browser": ("browser",)}
NOT_FAST = ("slow", "server", "browser")


def mark(item: pytest.Item, repository: Path) -> None:
    """Give a test the marks of its folder below tests/ and of the fixtures it uses."""
    parts = item.path.relative_to(repository).parts if item.path.is_relative_to(repository) else ()
    found = set(FOLDERS.get(parts[1], ())) if len(parts) > 2 and parts[0] == "tests" else set()
    for fixture in getattr(item, "fixturenames", ()):
        found.update(FIXTURES.get(fixture, ()))
    for name in sorted(found):
        item.add_marker(name)


def selected(item: pytest.Item, fast: bool, soak: bool) -> bool:
    """Whether a run with these options takes a marked test."""
    if soak or item.get_closest_marker("soak"):
        return soak and item.get_closest_marker("soak") is not None
    return not (fast and any(item.get_closest_marker(name) for name in NOT_FAST))
