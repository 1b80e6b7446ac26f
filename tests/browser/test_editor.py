"""The pack in the real editor, driven through headless Chromium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.editor import both_renderers
from tools.host.graph import to_prompt

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_editor_knows_every_node(page, pack):
    from partedit_oir.nodes import NODE_CLASSES

    known = set(page.evaluate("Object.keys(window.LiteGraph.registered_node_types)"))
    assert {node.GET_SCHEMA().node_id for node in NODE_CLASSES} <= known


def test_the_extension_is_registered(page):
    names = page.evaluate("window.app.extensions.map((extension) => extension.name)")
    assert "PartEditOIR.report" in names


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_editor_loads_a_workflow_and_queues_the_same_prompt(editor, path, object_info):
    editor.load(read(path))
    types = set(editor.page.evaluate("window.app.graph._nodes.map((node) => node.type)"))
    assert types == {node["type"] for node in read(path)["nodes"]}
    own = to_prompt(read(path), object_info)
    assert {key: (node["class_type"], node["inputs"]) for key, node in own.items()} == {
        key: (node["class_type"], node["inputs"]) for key, node in editor.prompt().items()
    }


@both_renderers
def test_a_template_from_the_template_browser_runs(editor, renderer, pack_name, client):
    editor.open_template("partedit_demo", pack_name)
    assert editor.page.evaluate("window.app.graph._nodes.some((node) => node.type === 'FeatureBlendSampler')")
    if renderer == "vue":
        editor.node("FeatureBlendSampler").get_by_text("Feature Blend Sampler").wait_for()
    editor.page.evaluate(
        "(() => { const sampler = window.app.graph._nodes.find((node) => node.type === 'FeatureBlendSampler');"
        "sampler.widgets.find((widget) => widget.name === 'steps').value = 3; })()"
    )
    made = [item for output in editor.queue().values() for item in output.get("images", [])]
    assert made and all(client.view(item)[:8] == b"\x89PNG\r\n\x1a\n" for item in made)
    assert editor.screenshot(f"partedit_demo_{renderer}").stat().st_size > 10_000


def test_a_node_shows_the_text_and_the_curve_it_reported(editor):
    editor.load(read(next(path for path in WORKFLOWS if path.stem == "partedit_demo")))
    output = {
        "text": ["man -> robot"],
        "curve": [{"title": "cat", "x": [1, 2, 3], "series": {"S": [0, 1, 0.5], "S_e": [0.2, None, 1]}, "best": 2}],
    }
    shown = editor.page.evaluate(
        "(() => {"
        "const node = window.app.graph._nodes.find((node) => node.type === 'PartEditPrompt');"
        f"node.onExecuted({json.dumps(output)});"
        f"node.onExecuted({json.dumps(output)});"
        "const element = (name) => node.widgets.filter((widget) => widget.name === name).map((w) => w.element);"
        "const [curve] = element('partedit_curve');"
        "return {count: element('partedit_text').length, text: element('partedit_text')[0].textContent,"
        " lines: curve.querySelectorAll('polyline').length, points: curve.querySelector('polyline')"
        ".getAttribute('points').split(' ').length, saved: node.serialize().widgets_values};"
        "})()"
    )
    assert shown["count"] == 1 and shown["text"] == "man -> robot"
    assert shown["lines"] == 2 and shown["points"] == 3
    assert not any("robot" in str(value) and "->" in str(value) for value in shown["saved"] or [])


def test_a_curve_of_one_candidate_is_seen_and_labelled_with_its_step(page):
    page.evaluate("(() => { window.one = window.LiteGraph.createNode('InversionStepSearch'); })()")
    curve = {"title": "<b>cat</b>", "x": [7], "series": {"S": [1.0], "S_ne": [None]}, "best": 7}
    shown = page.evaluate(
        "(() => {"
        f"window.one.onExecuted({json.dumps({'curve': [curve]})});"
        "const element = window.one.widgets.find((widget) => widget.name === 'partedit_curve').element;"
        "const points = element.querySelector('polyline').getAttribute('points').split(' ');"
        "return {points, texts: [...element.querySelectorAll('text')].map((text) => text.textContent),"
        " bold: element.querySelectorAll('b').length};"
        "})()"
    )
    assert len(set(shown["points"])) == 2 and not any("NaN" in point for point in shown["points"])
    assert "7" in shown["texts"] and "<b>cat</b>" in shown["texts"] and shown["bold"] == 0


def test_nodes_of_other_packs_are_left_alone(page):
    widgets = page.evaluate(
        "(() => { const node = window.LiteGraph.createNode('EmptyImage');"
        "node.onExecuted?.({text: ['x'], curve: [{x: [1], series: {S: [1]}}]});"
        "return node.widgets.map((widget) => widget.name); })()"
    )
    assert widgets and not any(name.startswith("partedit_") for name in widgets)


def test_nothing_of_the_pack_fails_while_the_editor_loads(new_editor, pack_name):
    assert not new_editor().errors_of(pack_name)
