"""The pack opens no door: no route of its own, no code out of files, and a page that shows text as text."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
SHIPPED = [REPOSITORY / "__init__.py"]
SHIPPED += [path for room in ("nodes", "core") for path in sorted((REPOSITORY / room).rglob("*.py"))]
SHIPPED += sorted((REPOSITORY / "demo").glob("*.py"))
# The one file that speaks to the editor.
LIVE = REPOSITORY / "nodes" / "live.py"
PAGES = sorted((REPOSITORY / "js").rglob("*.js"))


def found(pattern: str, files: list[Path]) -> list[str]:
    return [f"{path.name}: {hit}" for path in files for hit in re.findall(pattern, path.read_text(encoding="utf-8"))]


def test_the_pack_adds_no_route_to_the_server():
    """A route would take a path or a name from anybody who reaches the server."""
    assert len(SHIPPED) > 60
    assert not found(r"\.routes\b|\broutes\b|aiohttp|web\.(?:get|post)|\badd_(?:get|post|route)", SHIPPED)
    assert not found(r"PromptServer", [path for path in SHIPPED if path != LIVE])


def test_the_server_is_only_used_to_tell_a_page_what_its_node_does():
    tree = ast.parse(LIVE.read_text(encoding="utf-8"))
    used = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and "server" in ast.unparse(node.value)
    }
    asked = {
        node.args[1].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1
    }
    assert used == {"send_sync"}
    assert asked == {"PromptServer", "instance", "client_id", "sockets", "last_node_id", "last_prompt_id"}


def test_the_page_builds_no_html_out_of_texts():
    """Names of files and tokens come from anywhere: <img onerror=…> has to stay a text."""
    assert PAGES
    assert not found(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", PAGES)


def test_the_page_asks_nobody_but_its_own_server():
    assert not found(r"https?://(?!www\.w3\.org)[^\s'\"`]+", PAGES)
