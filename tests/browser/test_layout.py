"""What templates look like when pictures, texts and curves have appeared: nothing lies over anything else.

Those for real checkpoints get what their nodes would report; those on the demo checkpoint run, see test_templates.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.editor import both_renderers
from support.layout import FEW, REPORT, SET, check, looked_at

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
WORKFLOWS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
RUNNING = [name for name, graph in WORKFLOWS.items() if any(n["type"] == "LoadDemoModel" for n in graph["nodes"])]


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
    check(looked_at(editor, name, renderer), WORKFLOWS[name])


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
    editor.eventually(text.first.bounding_box, lambda box: box is not None and box["height"] > 10)
