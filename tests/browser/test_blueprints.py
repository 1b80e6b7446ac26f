"""The pack's blueprints in the real editor: found by search, added as one node, with their widgets, and queued."""

from __future__ import annotations

import contextlib

import pytest
from playwright.sync_api import TimeoutError, expect

from support.editor import Editor, both_renderers
from tools.host.graph import to_prompt
from tools.templates.blueprint import compose_blueprint
from tools.templates.blueprints import BLUEPRINTS, OBJECTS, PART

LABELS = {
    PART.name: ["source", "edit", "part_token", "denoise", "omega", "cfg", "seed", "ckpt_name"],
    OBJECTS.name: ["description", "object_1", "becomes_1", "object_2", "becomes_2", "edit_weight", "cfg", "ckpt_name"],
}
NODE = """
() => {
    const [node] = window.app.graph._nodes;
    return {
        title: node.title,
        widgets: node.widgets.map((one) => one.name),
        inputs: node.inputs.map((one) => one.name),
        outputs: node.outputs.map((one) => one.name),
        inner: node.subgraph._nodes.length,
    };
}
"""


def add(editor: Editor, name: str) -> None:
    """Add a node as a user does: double-click on the canvas, type, Enter."""
    page = editor.page
    box = page.get_by_role("combobox").or_(page.get_by_placeholder("Search")).first
    for _ in range(10):
        page.mouse.dblclick(800, 500)
        # On a busy machine two clicks may come too far apart to be a double-click.
        with contextlib.suppress(TimeoutError):
            box.wait_for(timeout=3000)
            break
    box.fill(name)
    # Enter takes the first one that is found, when the search has followed the typing.
    expect(page.get_by_role("option").first).to_contain_text(name)
    page.keyboard.press("Enter")
    page.wait_for_function("window.app.graph._nodes.length === 1")


@both_renderers
@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda one: one.name.replace(" ", "_"))
def test_a_blueprint_is_found_and_added_as_one_node(editor, renderer, blueprint, object_info):
    add(editor, blueprint.name)
    node = editor.eventually(
        lambda: editor.page.evaluate(NODE),
        lambda node: [name for name in node["widgets"] if name != "control_after_generate"] == LABELS[blueprint.name],
    )
    assert node["title"] == blueprint.name and node["inner"] == len(blueprint.nodes)
    assert "image" in node["inputs"] and node["outputs"] == [name for name, _ in blueprint.outputs]
    editor.settle()
    screenshot = editor.screenshot(f"blueprint_{blueprint.name.replace(' ', '_')}_{renderer}")
    assert screenshot.stat().st_size > 5_000
    own = to_prompt(compose_blueprint(blueprint, object_info), object_info)
    strip = {key.split(":", 1)[1]: (one["class_type"], one["inputs"].keys()) for key, one in own.items()}
    made = {key.split(":", 1)[1]: (one["class_type"], one["inputs"].keys()) for key, one in editor.prompt().items()}
    assert {key: kind for key, (kind, _) in made.items()} == {key: kind for key, (kind, _) in strip.items()}
    assert all(made[key][1] == names for key, (_, names) in strip.items())
