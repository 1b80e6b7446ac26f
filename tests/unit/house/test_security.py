"""The pack opens no door: one route that takes two ids, no code out of files, and a page that shows text as text."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
SHIPPED = [REPOSITORY / "__init__.py"]
SHIPPED += [path for room in ("nodes", "core") for path in sorted((REPOSITORY / room).rglob("*.py"))]
SHIPPED += sorted((REPOSITORY / "demo").glob("*.py"))
# The one file that speaks to the editor, and the one that the editor can ask something.
LIVE = REPOSITORY / "nodes" / "live.py"
STOPS = REPOSITORY / "nodes" / "stops.py"
PAGES = sorted((REPOSITORY / "js").rglob("*.js"))


def found(pattern: str, files: list[Path]) -> list[str]:
    return [f"{path.name}: {hit}" for path in files for hit in re.findall(pattern, path.read_text(encoding="utf-8"))]


def test_the_pack_adds_one_route_to_the_server():
    """A route that takes a path or a name takes it from anybody who reaches the server."""
    assert len(SHIPPED) > 60
    others = [path for path in SHIPPED if path != STOPS]
    assert not found(r"\.routes\b|\broutes\b|aiohttp|web\.(?:get|post)|\badd_(?:get|post|route)", others)
    assert not found(r"PromptServer", [path for path in others if path != LIVE])
    assert found(r"@?routes\.\w+\(.*\)", [STOPS]) == ["stops.py: @routes.post(PATH)"]


def test_the_route_takes_two_ids_and_knows_no_files():
    """It sets a flag of a running node; tests/host/test_stop.py asks it on a real server."""
    tree = ast.parse(STOPS.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in imports if isinstance(node, ast.ImportFrom)}
    assert modules == {"__future__", "aiohttp", "json", "sys", "threading", "typing"}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert called == {"answer", "any", "ask", "getattr", "isinstance"}
    asked = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "request"
    }
    assert asked == {"content_length", "read"}
    keys = {
        ast.unparse(node.slice)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "asked"
    }
    assert keys == {"'prompt_id'", "'node'"}


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
