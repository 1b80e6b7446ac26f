"""Load Part Token's picker in the editor: what is known of each token, one chosen, those that are not installed."""

from __future__ import annotations

import json
import struct

import pytest
from playwright.sync_api import expect

from support.editor import both_renderers
from support.widgets import HOSTILE, centre, check_nothing_injected, grow, node_id, roomy, template, widget

KIND = "LoadPartToken"
NAME = "partedit_token"
LIST = "partedit_tokens"
VALUE = """
() => window.app.graph._nodes.find((node) => node.type === 'LoadPartToken')
    .widgets.find((widget) => widget.name === 'part_token').value
"""
CHOICES = VALUE.replace(".value\n", ".options.values.length\n")
# Other tests save further tokens with pictures.
SHIPPED = "section:first-of-type [data-token^='demo_']"
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
# What the browser does on Escape, and a click before it has reported that; then that report.
CLOSE_AND_OPEN = """
() => {
    const dialog = document.querySelector('.partedit-picker');
    window.closedPicker = new Promise((resolve) => dialog.addEventListener('close', () => setTimeout(resolve)));
    dialog.close();
    document.querySelector('[data-widget=partedit_token] button').click();
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


def expect_value(editor, value):
    editor.eventually(lambda: editor.page.evaluate(VALUE), lambda found: found == value)


@both_renderers
def test_a_token_is_chosen_from_the_list(editor, renderer):
    editor.load(roomy("partedit_demo", KIND))
    centre(editor, KIND)
    card = widget(editor, NAME)
    expect(card).to_contain_text("robot head")
    expect(card).to_contain_text("IoU 0.80 (training images)")
    assert card.locator("img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 128
    tokens = opened(editor)
    expect(tokens.locator(SHIPPED).locator("img")).to_have_count(5)
    expect(tokens.locator("[aria-pressed='true']")).to_have_attribute("data-token", "demo_robot_head.safetensors")
    editor.settle()
    assert editor.screenshot(f"token_picker_{renderer}").stat().st_size > 10_000
    tokens.get_by_role("button", name="animal head").click()
    expect(tokens).to_have_count(0)
    expect_value(editor, "demo_animal_head.safetensors")
    editor.eventually(card.inner_text, lambda text: "animal head · " in text.replace("\n", " · "))
    # by the keyboard: the list opens at what is chosen
    card.get_by_role("button").focus()
    for key, focused in (("Enter", "demo_animal_head"), ("ArrowRight", "demo_car_hood")):
        editor.page.keyboard.press(key)
        expect(tokens.locator(f"[data-token='{focused}.safetensors']")).to_be_focused()
    editor.page.keyboard.press("Enter")
    expect_value(editor, "demo_car_hood.safetensors")
    expect(tokens).to_have_count(0)
    # Escape changes nothing, and neither does a click beside the list; the editor's keys do not act meanwhile
    count = editor.page.evaluate("window.app.graph._nodes.length")
    tokens = opened(editor)
    editor.page.keyboard.press("Delete")
    editor.page.keyboard.press("Escape")
    expect(tokens).to_have_count(0)
    opened(editor)
    editor.page.mouse.click(8, 500)
    expect(tokens).to_have_count(0)
    editor.settle()
    assert editor.page.evaluate(VALUE) == "demo_car_hood.safetensors"
    assert editor.page.evaluate("window.app.graph._nodes.length") == count
    # saved, loaded again, and sent
    saved = editor.page.evaluate("window.app.graph.serialize()")
    node = next(node for node in saved["nodes"] if node["type"] == KIND)
    assert node["widgets_values"] == ["demo_car_hood.safetensors"]
    editor.load(saved)
    centre(editor, KIND)
    expect(widget(editor, NAME)).to_contain_text("car hood")
    assert editor.prompt()[node_id(editor, KIND)]["inputs"] == {"part_token": "demo_car_hood.safetensors"}


@both_renderers
def test_the_list_is_gone_at_once_and_may_be_opened_again_at_once(editor, renderer):
    """The browser reports that a dialog has closed some time later."""
    editor.load(roomy("partedit_demo", KIND))
    centre(editor, KIND)
    tokens = opened(editor)
    editor.page.evaluate(CLOSE_AND_OPEN)
    editor.page.evaluate("() => window.closedPicker")
    expect(tokens).to_have_count(1)
    expect(tokens.locator("[data-token='demo_robot_head.safetensors']")).to_be_focused()
    left = editor.page.evaluate(
        "() => { document.querySelector('.partedit-picker [aria-label=Close]').click();"
        "return document.querySelectorAll('.partedit-picker').length; }"
    )
    assert left == 0
    expect(widget(editor, NAME).get_by_role("button", name="Choose")).to_be_focused()


@both_renderers
def test_a_published_token_says_where_to_get_it(editor, renderer):
    editor.load(roomy("partedit_demo", KIND))
    centre(editor, KIND)
    tokens = opened(editor)
    tokens.get_by_role("searchbox").fill("Human HAIR")
    shown = tokens.locator(".partedit-card:visible")
    expect(shown).to_have_count(1)
    expect(tokens.locator("section:visible")).to_have_count(1)
    text = shown.inner_text()
    for piece in ("human hair", "SDXL", "published, not installed", "partimage_human_hair.pt", "models/part_tokens"):
        assert piece in text, piece
    assert "cc-by-nc-sa-4.0" in text
    link = shown.get_by_role("link")
    assert link.get_attribute("href").startswith("https://huggingface.co/datasets/Aleksandar/PartEdit-extra/")
    assert "noopener" in link.get_attribute("rel") and link.get_attribute("target") == "_blank"
    editor.settle()
    editor.screenshot(f"token_picker_published_{renderer}")
    shown.get_by_role("button").click()
    expect_value(editor, "partimage_human_hair.pt (published, not installed)")
    card = widget(editor, NAME)
    expect(card).to_contain_text("published, not installed")
    expect(card.get_by_role("link")).to_have_count(1)
    editor.settle()
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
    expect(choose).to_be_visible(visible=line)
    expect(widget(editor, NAME).locator("img")).to_be_hidden()
    editor.screenshot(f"token_old_{saved}_{renderer}")
    again = editor.page.evaluate("window.app.graph.serialize()")
    editor.load(again)
    centre(editor, KIND)
    assert editor.page.evaluate(BOTTOM) <= saved + 34
    grow(editor, KIND, 110)
    card = widget(editor, NAME)
    expect(card.locator("img")).to_be_visible()
    expect(choose).to_be_visible()
    editor.eventually(card.bounding_box, lambda box: box is not None and box["height"] >= 66)
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
        expect(tokens.locator(SHIPPED).locator("img")).to_have_count(5)
        for start in ("<img", "a #b", "damaged"):
            expect(tokens.locator(f"[data-token^='{start}']")).to_have_count(1)
            expect(tokens.locator(f"[data-token^='{start}']").locator("img")).to_have_count(0)
        expect(tokens.locator("[data-token^='<img']").locator("b")).to_have_text(HOSTILE)
        tokens.locator("[data-token='a #b?%41&.safetensors']").click()
        expect_value(editor, "a #b?%41&.safetensors")
        check_nothing_injected(editor)
        assert editor.errors == []
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
        count = editor.page.evaluate(CHOICES)
        assert count >= 14
        expect(tokens.locator("[data-token]")).to_have_count(count)
        assert tokens.locator("a").count() == 0
        tokens.locator("[data-token]").first.click()
        expect_value(editor, "demo_animal_head.safetensors")
        check_nothing_injected(editor)
        assert editor.errors == []
    finally:
        editor.page.evaluate(REFRESH)
