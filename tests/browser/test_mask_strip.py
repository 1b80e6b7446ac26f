"""Feature Blend Sampler in the editor: the mask while it samples, the strip of steps, before against after."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from support.editor import both_renderers
from support.widgets import (
    HOSTILE,
    centre,
    check_nothing_injected,
    executed,
    node_id,
    roomy,
    send,
    set_widgets,
    template,
    widget,
)

KIND = "FeatureBlendSampler"
NAME = "partedit_mask"
# A white picture of one pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEA7yVJdQAAAABJRU5ErkJggg=="
# Every text that the widget says while the workflow runs.
FOLLOW = """
(name) => {
    window.said = [];
    const node = window.app.graph._nodes.find((node) => node.widgets?.some((widget) => widget.name === name));
    const element = node.widgets.find((widget) => widget.name === name).element;
    const note = () => window.said.push(element.querySelector('[role=status]')?.textContent);
    new MutationObserver(note).observe(element, { childList: true, subtree: true, characterData: true });
}
"""
# A click brings a node to the front, which changes the order.
VALUES = """
() => window.app.graph.serialize().nodes.map((node) => [node.id, node.size, node.widgets_values ?? []])
    .sort((one, other) => one[0] - other[0])
"""
PAINTED = "(canvas) => canvas.toDataURL()"


def follow(editor):
    editor.page.evaluate(FOLLOW, NAME)


def painted(editor, strip):
    editor.settle()
    return strip.locator("canvas").evaluate(PAINTED)


def painted_anew(editor, strip, before):
    return editor.eventually(lambda: painted(editor, strip), lambda now: now != before)


@both_renderers
@pytest.mark.slow
def test_masks_are_shown_live_scrubbed_and_compared(editor, renderer, client):
    workflow = roomy("partedit_several_edits", KIND, "PartEditPrompt")
    editor.load(workflow)
    set_widgets(editor, KIND, steps=5, seed=11 if renderer == "vue" else 12)
    before = [(number, values) for number, _, values in editor.page.evaluate(VALUES)]
    prompt = editor.prompt()
    follow(editor)
    client.post_json("/free", {"free_memory": True})  # or the second renderer's run would come from the cache
    editor.queue()
    said = editor.page.evaluate("window.said")
    assert any("sampling: step" in text and "soft" in text for text in said if text), said

    strip, note = widget(editor, NAME), widget(editor, NAME).get_by_role("status")
    centre(editor, KIND, 200)
    expect(note).to_have_text(re.compile(r"^step 5 of 5 · soft 0\."))  # said once its pictures are loaded
    scrub = strip.get_by_role("slider", name="Step")
    last = painted(editor, strip)
    scrub.focus()
    editor.page.keyboard.press("Home")
    expect(note).to_have_text(re.compile(r"^step 1 of 5 · soft 0\."))
    first = painted_anew(editor, strip, last)
    assert editor.screenshot(f"mask_strip_{renderer}").stat().st_size > 10_000
    strip.get_by_role("button", name="On source").click()
    painted_anew(editor, strip, first)
    views = strip.get_by_role("combobox")
    edits = next(node for node in workflow["nodes"] if node["type"] == "PartEditPrompt")["widgets_values"][1]
    assert views.locator("option").all_inner_texts() == edits.splitlines()
    strip.get_by_role("button", name="On edit").click()
    expect(strip.locator("canvas")).to_have_attribute("data-mode", "edit")
    one = painted(editor, strip)
    views.select_option(index=1)
    painted_anew(editor, strip, one)

    strip.get_by_role("button", name="Before / after").click()
    divider = strip.get_by_role("slider", name="Divider between before and after")
    expect(divider).to_have_attribute("aria-valuenow", "50")
    half = painted(editor, strip)
    box = divider.bounding_box()
    editor.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    editor.page.mouse.down()
    editor.page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.5, steps=3)
    editor.page.mouse.up()
    editor.eventually(lambda: int(divider.get_attribute("aria-valuenow")), lambda share: share < 45)
    painted_anew(editor, strip, half)
    divider.focus()
    editor.page.keyboard.press("ArrowRight")
    editor.settle()
    assert editor.screenshot(f"before_after_{renderer}").stat().st_size > 10_000

    # nothing of it is saved or sent
    assert editor.prompt() == prompt
    saved = editor.page.evaluate(VALUES)
    assert [(number, values) for number, _, values in saved] == before
    file = editor.page.evaluate("window.app.graph.serialize()")
    editor.reset(renderer)
    editor.load(file)
    assert editor.page.evaluate(VALUES) == saved
    # a run that takes everything from the cache shows it again, as after a reload of the page
    assert widget(editor, NAME).locator("canvas").count() == 0
    editor.queue()
    centre(editor, KIND, 200)
    expect(note).to_contain_text("step 5 of 5")
    # and so do the words of the prompt's node
    centre(editor, "PartEditPrompt")
    words = widget(editor, "partedit_words")
    editor.eventually(words.locator("[data-word]").count, lambda count: count > 8)
    editor.eventually(words.bounding_box, lambda box: box is not None and box["height"] > 100)
    words.get_by_text("As text").click()
    expect(words.locator(".partedit-report")).to_be_visible()
    expect(words.locator(".partedit-report")).to_contain_text("follow the source")


@both_renderers
def test_the_strip_stays_when_the_graph_is_loaded_anew(editor, renderer):
    editor.load(template("partedit_demo"))
    executed_strip = {"steps": [0, 1], "size": [1, 1], "bands": [], "mask": None, "views": [{"label": "x"}] * 2}
    executed_strip["left_out"] = 2
    number = node_id(editor, KIND)
    editor.page.evaluate(
        "([id, output]) => { window.app.nodeOutputs = { ...window.app.nodeOutputs, [id]: output }; }",
        [number, {"partedit_strip": [executed_strip]}],
    )
    centre(editor, KIND)
    note = widget(editor, NAME).get_by_role("status")
    expect(note).to_contain_text("no longer in ComfyUI's temporary folder")
    expect(widget(editor, NAME).locator("option")).to_have_text(["x", "x", "2 more, not shown here"])


RESIZED = """
async (width) => {
    const node = window.app.graph._nodes.find((node) => node.type === 'FeatureBlendSampler');
    node.setSize([width, node.size[1]]);
    window.app.canvas.setDirty(true, true);
}
"""


@pytest.mark.parametrize("renderer", ["vue"], indirect=True)
def test_a_wide_node_stays_as_high_and_a_narrow_one_shows_all_buttons(editor, renderer):
    """In Nodes 2.0 the picture's own height made the node higher, over the nodes below."""
    editor.load(roomy("partedit_demo", KIND))
    view = {"label": "x", "edit": None, "source": None}
    executed(editor, KIND, {"partedit_strip": [{"steps": [0], "size": [1, 1], "views": [view, view]}]})
    centre(editor, KIND)
    strip = widget(editor, NAME)
    height = lambda: strip.bounding_box()["height"]  # noqa: E731
    before = height()
    editor.page.evaluate(RESIZED, 900)
    editor.eventually(lambda: strip.bounding_box()["width"], lambda width: width > 800)
    editor.settle()
    assert height() == pytest.approx(before, abs=2)
    editor.page.evaluate(RESIZED, 225)
    editor.eventually(lambda: strip.bounding_box()["width"], lambda width: width < 230)
    editor.settle()
    right = strip.bounding_box()["x"] + strip.bounding_box()["width"]
    for button in (*strip.get_by_role("button").all(), strip.get_by_role("combobox")):
        box = button.bounding_box()
        assert box["width"] >= 50 and box["x"] + box["width"] <= right


@both_renderers
def test_pictures_that_are_still_being_fetched_are_not_called_gone(editor, renderer, client):
    """The first of them is answered only when the test says so."""
    editor.load(template("partedit_demo"))
    picture = {"filename": "robot_pictures.webp", "subfolder": "", "type": "input"}
    view = {"label": "x", "edit": picture, "source": picture}
    strip = {"steps": [0, 1, 2], "size": [64, 64], "bands": [], "mask": picture, "views": [view]}
    held = []
    editor.page.route("**/view?filename=robot_pictures*", lambda route: held.append(route))
    try:
        executed(editor, KIND, {"partedit_strip": [strip]})
        centre(editor, KIND)
        note = widget(editor, NAME).get_by_role("status")
        widget(editor, NAME).get_by_role("slider", name="Step").focus()
        editor.page.keyboard.press("Home")
        expect(note).to_have_text("step 1 of 3")
        widget(editor, NAME).get_by_role("button", name="Before / after").click()
        expect(note).to_have_text("left: source · right: edit")
        editor.eventually(lambda: len(held), lambda count: count > 0)
    finally:
        for route in held:
            route.continue_()
        editor.page.unroute("**/view?filename=robot_pictures*")
    before = painted(editor, widget(editor, NAME))
    widget(editor, NAME).get_by_role("button", name="On source").click()
    painted_anew(editor, widget(editor, NAME), before)
    expect(note).to_have_text("step 1 of 3")


@both_renderers
def test_a_flood_of_messages_and_hostile_texts(editor, renderer):
    """Whatever arrives: no error, nothing of it becomes part of the page, and the widget still works afterwards."""
    editor.load(template("partedit_demo"))
    centre(editor, KIND)
    number = node_id(editor, KIND)
    step = {"kind": "step", "node": number, "step": 1, "steps": 20, "places": [0], "bands": [[0.1, 0.2, 0.3]]}
    editor.page.evaluate(
        """([number, step, hostile, pixel]) => {
            const tell = (kind, detail) => window.app.api.dispatchEvent(new CustomEvent(kind, { detail }));
            const many = { ...step, steps: 3000, mask: pixel, image: pixel };
            for (let n = 0; n < 3000; n++) tell('partedit.live', { ...many, step: n });
            const junk = [null, 3, 'x', [], {}, { node: number }, { node: hostile, kind: 'step' }, { node: '5:9' },
                { ...step, step: 'NaN' }, { ...step, bands: hostile, places: hostile },
                { ...step, places: null, bands: [[hostile]] },
                { ...step, mask: hostile, image: { x: hostile } }, { ...step, mask: 'AAAA', image: 'not base64!' }];
            for (const detail of junk) tell('partedit.live', detail);
            tell('reconnecting'); tell('reconnected'); tell('execution_interrupted', {}); tell('execution_error', {});
        }""",
        [number, step, HOSTILE, PIXEL],
    )
    file = {"filename": HOSTILE, "subfolder": "../..", "type": HOSTILE}
    strip = {"steps": [0, 1], "size": [1, 1], "bands": [[HOSTILE]], "mask": file, "images": HOSTILE, "prompt": HOSTILE}
    strip["views"] = [{"label": HOSTILE, "image": HOSTILE, "edit": file, "source": file}] * 2
    for output in ({}, {"partedit_strip": HOSTILE}, {"partedit_strip": [None]}, {"partedit_strip": [{"steps": 3}]}):
        executed(editor, KIND, output)
    executed(editor, KIND, {"partedit_strip": [{**strip, "size": ["x", None]}]})
    executed(editor, KIND, {"partedit_strip": [strip]})
    executed(editor, KIND, {"text": [HOSTILE], "partedit_strip": [strip]})
    executed(
        editor, "PartEditPrompt", {"text": [HOSTILE], "curve": [{"title": HOSTILE, "x": [1], "series": {HOSTILE: [1]}}]}
    )
    note = widget(editor, NAME).get_by_role("status")
    expect(note).to_contain_text("no longer in ComfyUI's temporary folder")  # all of them have failed
    check_nothing_injected(editor)
    assert editor.page.locator(".partedit img:not(.partedit-thumb)").count() == 0
    expect(widget(editor, NAME).locator("option").first).to_contain_text(HOSTILE)
    # the server's answers about files that are not there are no faults of the page
    assert [line for line in editor.errors if "/view" not in line] == []
    editor.errors.clear()
    send(editor, "partedit.live", {**step, "mask": PIXEL, "image": None})
    expect(note).to_contain_text("sampling: step 2 of 20 · soft 0.10–0.30")
    send(editor, "reconnecting", None)
    expect(note).to_contain_text("Connection lost")


@both_renderers
def test_an_interrupted_run_says_where_it_stopped(editor, renderer):
    editor.load(template("partedit_demo"))
    centre(editor, KIND)
    step = {"kind": "step", "node": node_id(editor, KIND), "step": 3, "steps": 9, "places": [0], "bands": [None]}
    send(editor, "partedit.live", {**step, "mask": PIXEL, "image": None})
    send(editor, "execution_interrupted", {})
    expect(widget(editor, NAME).get_by_role("status")).to_have_text("stopped at step 4 of 9")
