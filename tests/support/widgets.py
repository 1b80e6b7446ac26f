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
# Asks the server for something, then waits for a picture that fails.
FAILING_PICTURE = """
async () => {
    await (await fetch(window.location.href, { cache: 'reload' })).text();
    await new Promise((resolve) => {
        const picture = new Image();
        picture.onerror = () => setTimeout(resolve);
        picture.src = 'data:image/png;base64,AAAA';
    });
}
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
    editor.settle()


def grow(editor: Editor, kind: str, by: int) -> None:
    """Make the first node of a class higher, as dragging its corner does."""
    resize = "([kind, by]) => { const node = window.app.graph._nodes.find((node) => node.type === kind);"
    editor.page.evaluate(
        resize + " node.setSize([node.size[0], node.size[1] + by]); window.app.canvas.setDirty(true, true); }",
        [kind, by],
    )
    editor.settle()


def widget(editor: Editor, name: str) -> Locator:
    """The element of the pack's widget of that name."""
    return editor.page.locator(f'.partedit[data-widget="{name}"]')


def send(editor: Editor, kind: str, detail: Any) -> None:
    """What the page does when a message of the server arrives."""
    editor.page.evaluate(EVENT, [kind, detail])


def executed(editor: Editor, kind: str, output: Any) -> None:
    """What the page does when the first node of a class has run."""
    editor.page.evaluate(EXECUTED, [kind, output])


def check_nothing_injected(editor: Editor) -> None:
    """Nothing of a `HOSTILE` text became an element: its picture would have failed before one that is added now."""
    editor.page.evaluate(FAILING_PICTURE)
    editor.settle()
    assert editor.page.evaluate("window.injected") is None


def node_id(editor: Editor, kind: str) -> str:
    """The id of the first node of a class."""
    return str(editor.page.evaluate("(kind) => window.app.graph._nodes.find((node) => node.type === kind).id", kind))


def roomy(name: str, *kinds: str) -> dict[str, Any]:
    """The workflow of a template, its first nodes of these classes moved to where no node can cover their widgets."""
    workflow = template(name)
    for kind in kinds:
        right = max(node["pos"][0] + node["size"][0] for node in workflow["nodes"])
        next(node for node in workflow["nodes"] if node["type"] == kind)["pos"] = [right + 500, 0]
    return workflow


# The demo's search on a picture of 128 x 128 and with few steps: class → values by their place.
SMALL: dict[str, dict[int, Any]] = {
    "KSampler": {2: 4},
    "InvertLatent": {2: 6},
    "EmptyLatentImage": {0: 128, 1: 128},
    "SolidMask": {1: 64, 2: 64},
    "MaskComposite": {1: 32},
    "InversionStepSearch": {1: "exhaustive"},
}


def small_search() -> dict[str, Any]:
    """The template oir_demo, made small."""
    workflow = roomy("oir_demo", "InversionStepSearch")
    for node in workflow["nodes"]:
        for place, value in SMALL.get(node["type"], {}).items():
            node["widgets_values"][place] = value
        if node["type"] == "SolidMask" and node["widgets_values"][0] == 0:  # what the boxes are put on
            node["widgets_values"] = [0.0, 128, 128]
        if node["type"] == "MaskComposite":
            node["widgets_values"][0] = min(node["widgets_values"][0], 60)
    return workflow
