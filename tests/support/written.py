"""What the repository's files say: pages, and the messages in its code."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def messages(path: Path, raised: bool = False) -> Iterator[str]:
    """The texts with more than one word in a file, or in what it raises, without its docstrings.

    What is filled in is {}.
    """
    tree = parsed(path)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    inner |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    places = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)] if raised else [tree]
    for node in (one for place in places for one in ast.walk(place)):
        if id(node) not in inner and isinstance(node, (ast.Constant, ast.JoinedStr)):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)
            if " " in text:
                yield text
