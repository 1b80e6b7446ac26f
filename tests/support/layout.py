"""What nodes cover in the editor once a run has filled them, looked at in either renderer."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from support.editor import Editor
from tools.templates.layout import needed_box

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


def looked_at(editor: Editor, name: str, renderer: str) -> dict[str, tuple[float, float, float, float]]:
    """The boxes of all nodes, and a screenshot of the whole graph, once the pictures on its nodes are there."""
    editor.page.evaluate("window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    check_pictures(editor)
    editor.settle()
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


def check_pictures(editor: Editor) -> None:
    """The nodes that show images show them, large enough to be seen."""
    editor.eventually(
        lambda: editor.page.evaluate(SHOWN),
        lambda heights: bool(heights) and all(height and height > 150 for height in heights),
    )
