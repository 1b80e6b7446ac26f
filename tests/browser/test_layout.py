"""What templates look like when pictures, texts and curves have appeared: nothing lies over anything else.

Templates on the demo checkpoint run in the editor with few steps. The others get what their nodes would report.
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from support.editor import RENDERERS, both_renderers
from tools.templates.layout import needed_box

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
WORKFLOWS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
RUNNING = [name for name, graph in WORKFLOWS.items() if any(n["type"] == "LoadDemoModel" for n in graph["nodes"])]
# Settings that make a run short.
FEW = {
    "FeatureBlendSampler": {"steps": 3},
    "KSampler": {"steps": 3},
    "BasicScheduler": {"steps": 3},
    "InvertLatent": {"steps": 4},
    "TrainPartToken": {"steps": 10},
}
SET = """
(few) => {
    for (const node of window.app.graph._nodes)
        for (const [name, value] of Object.entries(few[node.type] ?? {}))
            node.widgets.find((widget) => widget.name === name).value = value;
}
"""
REPORT = """
(outputs) => {
    for (const [node, output] of Object.entries(outputs))
        window.app.api.dispatchCustomEvent('executed', { node, display_node: node, output, prompt_id: 'replayed' });
}
"""
# left, top, right, bottom in the graph's units, title included, with all that a node's element holds.
BOXES = """
() => {
    const canvas = window.app.canvas, frame = canvas.canvas.getBoundingClientRect();
    return window.app.graph._nodes.map((node) => {
        const element = document.querySelector(`[data-node-id="${node.id}"]`);
        const title = LiteGraph.NODE_TITLE_HEIGHT;
        const [left, top] = [node.pos[0], node.pos[1] - title];
        let [width, height] = [node.size[0], Math.max(node.size[1], node.computeSize()[1]) + title];
        if (window.LiteGraph.vueNodesMode) {
            const inside = [element, ...element.querySelectorAll('img, textarea, .partedit-report')];
            // A folded text keeps its box, but covers nothing.
            const shown = inside.filter((one) => one.checkVisibility());
            const all = shown.map((one) => one.getBoundingClientRect()).filter((one) => one.height);
            const own = element.getBoundingClientRect();
            width = (Math.max(...all.map((one) => one.right)) - own.left) / canvas.ds.scale;
            height = (Math.max(...all.map((one) => one.bottom)) - own.top) / canvas.ds.scale;
        }
        return [node.id, node.type, left, top, left + width, top + height];
    });
}
"""
SHOWN = """
() => window.app.graph._nodes.filter((node) => ['PreviewImage', 'SaveImage'].includes(node.type)).map((node) => {
    if (!window.LiteGraph.vueNodesMode) return node.imgs?.length && node.size[1];
    const image = document.querySelector(`[data-node-id="${node.id}"] img`);
    return image && image.getBoundingClientRect().height / window.app.canvas.ds.scale;
})
"""


def looked_at(editor: Any, name: str, renderer: str) -> dict[str, tuple[float, float, float, float]]:
    """The boxes of all nodes, and a screenshot of the whole graph."""
    editor.page.evaluate("window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    editor.page.wait_for_timeout(800)  # the view moves there, and pictures are laid out
    editor.screenshot(f"layout_{name}_{renderer}")
    return {str(number): tuple(box) for number, _, *box in editor.page.evaluate(BOXES)}


def check(boxes: dict[str, tuple[float, float, float, float]], workflow: dict[str, Any]) -> None:
    over = [
        (one, other)
        for (one, (x1, y1, x2, y2)), (other, (u1, v1, u2, v2)) in combinations(boxes.items(), 2)
        if x1 < u2 and u1 < x2 and y1 < v2 and v1 < y2
    ]
    assert over == [], {str(node["id"]): node["type"] for node in workflow["nodes"]}
    pairs = sum(node["type"] == "EditingPair" for node in workflow["nodes"])
    for node in workflow["nodes"]:
        box, needed = boxes[str(node["id"])], needed_box(node, pairs)
        assert box[3] <= needed[3] + 1 and box[2] <= needed[2] + 1, f"{node['type']} grew to {box}, reserved: {needed}"


def check_pictures(editor: Any) -> None:
    heights = editor.page.evaluate(SHOWN)
    assert heights and all(height and height > 150 for height in heights), heights


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNING)
def test_nothing_overlaps_after_a_run(editor, client, name):
    """A run with Nodes 2.0, and the same outputs once more on the classic canvas."""
    client.post_json("/free", {"unload_models": False, "free_memory": True})  # what is cached reports nothing
    workflow, outputs = WORKFLOWS[name], {}
    for renderer in reversed(RENDERERS):
        editor.reset(renderer)
        editor.load(workflow)
        editor.page.evaluate(SET, FEW)
        if outputs:
            editor.page.evaluate(REPORT, outputs)
            editor.page.wait_for_timeout(500)
        else:
            outputs = editor.queue()
        check(looked_at(editor, name, renderer), workflow)
        check_pictures(editor)


def reports(workflow: dict[str, Any], image: str) -> dict[str, Any]:
    """What the nodes of a workflow report when it runs."""
    pairs = [node for node in workflow["nodes"] if node["type"] == "EditingPair"]
    x = list(range(1, 51))
    curve = {"x": x, "series": {"S": [v / 50 for v in x], "S_e": x, "S_ne": x[::-1]}, "best": 20}
    picture = {"images": [{"filename": image, "subfolder": "", "type": "input"}]}
    text = {"text": ["\n".join(["a closeup of a man outdoors → a closeup of a robot outdoors"] * 4)]}
    given = {
        "PreviewImage": picture,
        "SaveImage": picture,
        "PartEditPrompt": text,
        "TrainPartToken": text,
        "SavePartToken": text,
        "InversionStepSearch": {**text, "curve": [{"title": f"pair {n}", **curve} for n, _ in enumerate(pairs)]},
    }
    return {str(node["id"]): given[node["type"]] for node in workflow["nodes"] if node["type"] in given}


@both_renderers
@pytest.mark.parametrize("name", [name for name in WORKFLOWS if name not in RUNNING])
def test_nothing_overlaps_once_nodes_have_reported(editor, renderer, client, host, name):
    image = client.upload_image(FOLDER / "oir_demo.jpg")
    if (example := host.root / "input" / "example.png").is_file():
        client.upload_image(example)
    editor.load(WORKFLOWS[name])
    editor.page.evaluate(REPORT, reports(WORKFLOWS[name], image))
    editor.page.wait_for_timeout(500)
    check(looked_at(editor, name, renderer), WORKFLOWS[name])
    check_pictures(editor)


@both_renderers
def test_the_report_of_the_prompt_is_shown(editor, renderer, client):
    """Nodes 2.0 did not show it."""
    client.post_json("/free", {"unload_models": False, "free_memory": True})
    editor.load(WORKFLOWS["partedit_demo"])
    editor.page.evaluate(SET, FEW)
    editor.queue()
    editor.page.get_by_text("As text").first.click()
    text = editor.page.locator(".partedit-report").filter(has_text="robot")
    text.first.wait_for()
    box = text.first.bounding_box()
    assert box and box["height"] > 10
