"""The pack's widgets in the editor: finding one, and sending its node what the server would send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator

from support.editor import Editor

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
# A text that would run a script if it became a part of the page.
HOSTILE = "<img src=x onerror='window.injected = true'>"

CENTRE = """
([kind, down]) => {
    const node = window.app.graph._nodes.find((node) => node.type === kind);
    const canvas = window.app.canvas;
    canvas.ds.scale = 1;
    canvas.centerOnNode(node);
    canvas.ds.offset[1] -= down;
    canvas.setDirty(true, true);
}
"""
SET = """
([kind, values]) => {
    const node = window.app.graph._nodes.find((node) => node.type === kind);
    for (const [name, value] of Object.entries(values)) node.widgets.find((one) => one.name === name).value = value;
}
"""
EVENT = "([kind, detail]) => { window.app.api.dispatchEvent(new CustomEvent(kind, { detail })); }"
EXECUTED = """
([kind, output]) => window.app.graph._nodes.find((node) => node.type === kind).onExecuted(output)
"""


def template(name: str) -> dict[str, Any]:
    """The workflow of a template."""
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def set_widgets(editor: Editor, kind: str, **values: Any) -> None:
    """Values of widgets of the first node of a class."""
    editor.page.evaluate(SET, [kind, values])


def centre(editor: Editor, kind: str, down: int = 0) -> None:
    """Bring the first node of a class to the middle of the window at full size, ``down`` pixels further up."""
    editor.page.evaluate(CENTRE, [kind, down])
    editor.page.wait_for_timeout(300)


def widget(editor: Editor, name: str) -> Locator:
    """The element of the pack's widget of that name."""
    return editor.page.locator(f'.partedit[data-widget="{name}"]')


def send(editor: Editor, kind: str, detail: Any) -> None:
    """What the page does when a message of the server arrives."""
    editor.page.evaluate(EVENT, [kind, detail])


def executed(editor: Editor, kind: str, output: Any) -> None:
    """What the page does when the first node of a class has run."""
    editor.page.evaluate(EXECUTED, [kind, output])


def node_id(editor: Editor, kind: str) -> str:
    """The id of the first node of a class."""
    return str(editor.page.evaluate("(kind) => window.app.graph._nodes.find((node) => node.type === kind).id", kind))
