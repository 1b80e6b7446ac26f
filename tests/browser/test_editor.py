"""The pack in the real editor, driven through headless Chromium."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.host.browser import Browser, find_browser
from tools.host.graph import to_prompt

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))


@pytest.fixture(scope="module")
def page(client) -> Iterator[Browser]:
    """The editor, loaded and ready."""
    program = find_browser()
    if program is None:
        if os.environ.get("PARTEDIT_REQUIRE_BROWSER"):
            pytest.fail("no Chromium is installed, and PARTEDIT_REQUIRE_BROWSER is set")
        pytest.skip("no Chromium is installed (Debian and Ubuntu: apt install chromium)")
    # Else a new user gets the template browser laid over the editor.
    client.post_json("/settings/Comfy.TutorialCompleted", True)
    with Browser(program) as browser:
        browser.open(client.base_url)
        browser.wait("Boolean(window.app?.graph && window.LiteGraph?.registered_node_types?.KSampler)", limit=180)
        yield browser


def load_workflow(page: Browser, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    count = f"window.app.graph._nodes.length === {len(json.loads(text)['nodes'])}"
    for _ in range(10):
        page.evaluate(f"window.app.loadGraphData({text}).then(() => true)")
        time.sleep(0.5)
        # A freshly opened editor may still put its own empty graph over the first one that is loaded.
        if page.evaluate(count):
            return
    raise AssertionError(f"the editor does not keep {path.name}")


def test_the_editor_knows_every_node(page, pack):
    from partedit_oir.nodes import NODE_CLASSES

    known = set(page.evaluate("Object.keys(window.LiteGraph.registered_node_types)"))
    assert {node.GET_SCHEMA().node_id for node in NODE_CLASSES} <= known


def test_the_extension_is_registered(page):
    names = page.evaluate("window.app.extensions.map((extension) => extension.name)")
    assert "PartEditOIR.report" in names


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_editor_loads_a_workflow_and_queues_the_same_prompt(page, path, object_info):
    load_workflow(page, path)
    types = set(page.evaluate("window.app.graph._nodes.map((node) => node.type)"))
    assert types == {node["type"] for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
    editor = page.evaluate("window.app.graphToPrompt().then((result) => result.output)")
    own = to_prompt(json.loads(path.read_text(encoding="utf-8")), object_info)
    assert {key: (node["class_type"], node["inputs"]) for key, node in own.items()} == {
        key: (node["class_type"], node["inputs"]) for key, node in editor.items()
    }


def test_a_node_shows_the_text_and_the_curve_it_reported(page):
    load_workflow(page, next(path for path in WORKFLOWS if path.stem == "partedit_demo"))
    output = {
        "text": ["man -> robot"],
        "curve": [{"title": "cat", "x": [1, 2, 3], "series": {"S": [0, 1, 0.5], "S_e": [0.2, None, 1]}, "best": 2}],
    }
    shown = page.evaluate(
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


def test_nothing_of_the_pack_failed_in_the_page(page, pack_name):
    assert not [line for line in page.console if pack_name in line or "partedit" in line.lower()]
