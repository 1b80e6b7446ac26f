"""What the oldest supported ComfyUI does not know is not used where nodes are described, or the pack fails to load.

``floor_inputs.json`` holds the parameters of that version's ``io`` classes (0.3.75, by ``inspect.signature``). The rest
is for ``python3 run.py test --floor``, which needs that ComfyUI.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
FLOOR = json.loads((Path(__file__).parent / "floor_inputs.json").read_text())
# Used only where the host has it.
GUARDED = {"io.Autogrow.Input", "io.Autogrow.TemplatePrefix"}
NODES = sorted((REPOSITORY / "nodes").glob("*.py"))


def calls(source: str) -> Iterator[tuple[str, set[str], int]]:
    """``io.…`` classes that are made: name, names of the keywords, line."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name.startswith("io.") and name.endswith((".Input", ".Output", ".Schema")) and name not in GUARDED:
            yield name.removeprefix("io."), {word.arg for word in node.keywords if word.arg}, node.lineno


def unknown(source: str) -> list[str]:
    return [
        f"line {line}: {name} does not take {', '.join(sorted(words - set(FLOOR.get(name, ()))))}"
        for name, words, line in calls(source)
        if words - set(FLOOR.get(name, ()))
    ]


@pytest.mark.parametrize("path", NODES, ids=lambda path: path.stem)
def test_nodes_are_described_in_words_that_the_oldest_comfyui_knows(path):
    assert unknown(path.read_text(encoding="utf-8")) == []


def test_an_unknown_word_is_seen():
    assert unknown("io.Combo.Input('a', extra_dict={})") == ["line 1: Combo.Input does not take extra_dict"]
    assert unknown("io.Brandnew.Input('a', tooltip='b')") == ["line 1: Brandnew.Input does not take tooltip"]
    assert sum(1 for path in NODES for _ in calls(path.read_text(encoding="utf-8"))) > 150
