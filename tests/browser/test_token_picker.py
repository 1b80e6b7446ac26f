"""Load Part Token's picker in the editor: what is known of each token, one chosen, those that are not installed."""

from __future__ import annotations

import json
import struct

import pytest

from support.editor import both_renderers
from support.widgets import HOSTILE, centre, grow, node_id, roomy, template, widget

KIND = "LoadPartToken"
NAME = "partedit_token"
LIST = "partedit_tokens"
VALUE = """
() => window.app.graph._nodes.find((node) => node.type === 'LoadPartToken')
    .widgets.find((widget) => widget.name === 'part_token').value
"""
CHOICES = VALUE.replace(".value\n", ".options.values.length\n")
# Of what the node draws, below its title, in the graph's units.
BOTTOM = """
() => {
    const node = window.app.graph._nodes.find((node) => node.type === 'LoadPartToken');
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const title = window.LiteGraph.NODE_TITLE_HEIGHT;
    if (!window.LiteGraph.vueNodesMode) return Math.max(node.size[1], node.computeSize()[1]);
    return element.getBoundingClientRect().height / window.app.canvas.ds.scale - title;
}
"""
REFRESH = "() => window.app.refreshComboInNodes()"


def token_file(path, **metadata):
    """A safetensors file of two rows for the demo model."""
    header = {"__metadata__": metadata, "embedding": {"dtype": "F32", "shape": [2, 768], "data_offsets": [0, 6144]}}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(6144))
    return path


def opened(editor):
    widget(editor, NAME).get_by_role("button", name="Choose").click()
    tokens = widget(editor, LIST)
    tokens.wait_for()
    return tokens


@both_renderers
def test_a_token_is_chosen_from_the_list(editor, renderer):
    editor.load(roomy("partedit_demo", KIND))
    centre(editor, KIND)
    card = widget(editor, NAME)
    assert "robot head" in card.inner_text() and "IoU 0.80 (training images)" in card.inner_text()
    assert card.locator("img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 128
    tokens = opened(editor)
    assert tokens.locator("section").first.locator("img").count() == 5
    assert tokens.locator("[aria-pressed='true']").get_attribute("data-token") == "demo_robot_head.safetensors"
    editor.page.wait_for_timeout(300)
    assert editor.screenshot(f"token_picker_{renderer}").stat().st_size > 10_000
    tokens.get_by_role("button", name="animal head").click()
    assert tokens.count() == 0 and editor.page.evaluate(VALUE) == "demo_animal_head.safetensors"
    assert "animal head · " in card.inner_text().replace("\n", " · ")
    # by the keyboard: the list opens at what is chosen
    card.get_by_role("button").focus()
    for key in ("Enter", "ArrowRight", "Enter"):
        editor.page.keyboard.press(key)
        editor.page.wait_for_timeout(100)
    assert editor.page.evaluate(VALUE) == "demo_car_hood.safetensors" and tokens.count() == 0
    # Escape changes nothing, and neither does a click beside the list; the editor's keys do not act meanwhile
    count = editor.page.evaluate("window.app.graph._nodes.length")
    tokens = opened(editor)
    editor.page.keyboard.press("Delete")
    editor.page.keyboard.press("Escape")
    opened(editor)
    editor.page.mouse.click(8, 500)
    assert tokens.count() == 0 and editor.page.evaluate(VALUE) == "demo_car_hood.safetensors"
    assert editor.page.evaluate("window.app.graph._nodes.length") == count
    # saved, loaded again, and sent
    saved = editor.page.evaluate("window.app.graph.serialize()")
    node = next(node for node in saved["nodes"] if node["type"] == KIND)
    assert node["widgets_values"] == ["demo_car_hood.safetensors"]
    editor.load(saved)
    centre(editor, KIND)
    assert "car hood" in widget(editor, NAME).inner_text()
    assert editor.prompt()[node_id(editor, KIND)]["inputs"] == {"part_token": "demo_car_hood.safetensors"}


@both_renderers
def test_a_published_token_says_where_to_get_it(editor, renderer):
    editor.load(roomy("partedit_demo", KIND))
    centre(editor, KIND)
    tokens = opened(editor)
    tokens.get_by_role("searchbox").fill("Human HAIR")
    shown = [card for card in tokens.locator(".partedit-card").all() if card.is_visible()]
    assert len(shown) == 1 and tokens.locator("section:visible").count() == 1
    text = shown[0].inner_text()
    for piece in ("human hair", "SDXL", "published, not installed", "partimage_human_hair.pt", "models/part_tokens"):
        assert piece in text, piece
    assert "cc-by-nc-sa-4.0" in text
    link = shown[0].get_by_role("link")
    assert link.get_attribute("href").startswith("https://huggingface.co/datasets/Aleksandar/PartEdit-extra/")
    assert "noopener" in link.get_attribute("rel") and link.get_attribute("target") == "_blank"
    editor.screenshot(f"token_picker_published_{renderer}")
    shown[0].get_by_role("button").click()
    assert editor.page.evaluate(VALUE) == "partimage_human_hair.pt (published, not installed)"
    card = widget(editor, NAME)
    assert "published, not installed" in card.inner_text() and card.get_by_role("link").count() == 1
    editor.screenshot(f"token_picker_missing_{renderer}")


@both_renderers
@pytest.mark.parametrize("saved", [58, 88])
def test_a_workflow_from_before_the_card_keeps_its_layout(editor, renderer, saved):
    """A node saved at this height, with another one right below it."""
    workflow = template("partedit_demo")
    nodes = {node["type"]: node for node in workflow["nodes"]}
    node, below = nodes[KIND], nodes["EmptyLatentImage"]
    node["size"], node["pos"], below["pos"] = [360, saved], [3000, 0], [3000, saved + 66]
    editor.load(workflow)
    centre(editor, KIND)
    assert editor.page.evaluate(BOTTOM) <= saved + 34, "it does not reach the title of the node below"
    assert editor.page.evaluate("window.app.graph._nodes.find((node) => node.type === 'LoadPartToken').size[0]") == 360
    line = renderer == "classic" and saved == 88  # room for a line, below which Nodes 2.0 has the pack's badge
    choose = widget(editor, NAME).get_by_role("button", name="Choose")
    assert choose.is_visible() == line and not widget(editor, NAME).locator("img").is_visible()
    editor.screenshot(f"token_old_{saved}_{renderer}")
    again = editor.page.evaluate("window.app.graph.serialize()")
    editor.load(again)
    centre(editor, KIND)
    assert editor.page.evaluate(BOTTOM) <= saved + 34
    grow(editor, KIND, 110)
    card = widget(editor, NAME)
    assert card.locator("img").is_visible() and choose.is_visible() and card.bounding_box()["height"] >= 66
    assert editor.page.evaluate(VALUE) == "demo_robot_head.safetensors"
    editor.screenshot(f"token_old_{saved}_grown_{renderer}")


@both_renderers
def test_names_in_files_stay_texts_and_new_files_are_listed(editor, renderer, server):
    editor.load(roomy("partedit_demo", KIND))
    centre(editor, KIND)
    made = [
        token_file(
            server.part_tokens / "<img src=x onerror='window.injected = 1'>.safetensors", parts=f'["{HOSTILE}"]'
        ),
        token_file(server.part_tokens / "a #b?%41&.safetensors", model_family=HOSTILE, iou=HOSTILE),
        token_file(server.part_tokens / "damaged.safetensors", parts="[" * 50_000),
    ]
    try:
        editor.page.evaluate(REFRESH)
        tokens = opened(editor)
        assert tokens.locator("section").first.locator("img").count() == 5
        assert tokens.locator("[data-token^='<img']").locator("b").inner_text() == HOSTILE
        tokens.locator("[data-token='a #b?%41&.safetensors']").click()
        editor.page.wait_for_timeout(200)
        assert editor.page.evaluate(VALUE) == "a #b?%41&.safetensors"
        assert editor.page.evaluate("window.injected") is None and editor.errors == []
    finally:
        for path in made:
            path.unlink()
        editor.page.evaluate(REFRESH)


@pytest.mark.parametrize(
    "junk",
    [
        None,
        [],
        "x",
        {"demo_robot_head.safetensors": None},
        {"demo_robot_head.safetensors": {"parts": 3, "iou": ["x"], "preview": "../x"}},
        {"demo_robot_head.safetensors": {"parts": [HOSTILE], "file": HOSTILE, "url": "javascript:window.injected=1"}},
    ],
    ids=str,
)
@both_renderers
def test_junk_about_tokens_is_no_error(editor, renderer, pack_name, junk):
    """Whatever is said of the tokens, the list of files can be chosen from, and nothing but https is linked to."""
    editor.load(roomy("partedit_demo", KIND))
    centre(editor, KIND)
    learn = """
    ([pack, known]) => import(`/extensions/${pack}/widgets/token_picker.js`).then(({ learnTokens }) =>
        learnTokens({ input: { required: { part_token: ['COMBO', { partedit_tokens: known }] } } }))
    """
    editor.page.evaluate(learn, [pack_name, junk])
    try:
        tokens = opened(editor)
        assert tokens.locator("[data-token]").count() == editor.page.evaluate(CHOICES) >= 14
        assert tokens.locator("a").count() == 0
        tokens.locator("[data-token]").first.click()
        assert editor.page.evaluate(VALUE) == "demo_animal_head.safetensors"
        assert editor.page.evaluate("window.injected") is None and editor.errors == []
    finally:
        editor.page.evaluate(REFRESH)
