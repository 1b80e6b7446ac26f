"""Train Part Token in the editor: curves and held-out images as they come, and a stop that keeps the best token."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from support.editor import ENDED, LISTEN, both_renderers
from support.widgets import (
    HOSTILE,
    centre,
    check_nothing_injected,
    executed,
    grow,
    node_id,
    roomy,
    send,
    set_widgets,
    widget,
)

KIND = "TrainPartToken"
NAME = "partedit_training"
# A white picture of one pixel.
PIXEL = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgICAgMCAgIDAwMDBAYEBAQEBAgGBgUGCQgKCgkICQkKDA8MCgsOCwkJDRENDg8QEBEQCgwSExIQ"
    "Ew8QEBD/wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAACf/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AVN//2Q=="
)
VALUES = """
() => window.app.graph.serialize().nodes.map((node) => [node.id, node.widgets_values ?? []])
    .sort((one, other) => one[0] - other[0])
"""


def message(editor, step=100, **changes):
    evaluations = [[at, at / 1000, at / 1200] for at in range(50, step + 1, 50)]
    losses = [[at, 1 / at] for at in range(1, step + 1)]
    about = {"kind": "training", "node": node_id(editor, KIND), "prompt_id": "one", "step": step, "steps": 600}
    return {**about, "best": step // 50 * 50, "losses": losses, "evaluations": evaluations, "pictures": None, **changes}


def output(**changes):
    picture = {"filename": "robot_pictures.webp", "subfolder": "", "type": "input"}
    shown = {
        "step": 312,
        "best": 300,
        "stopped_by": "hand",
        "part_iou": [["robot head", 0.5]],
        "losses": [[step, 1 / step] for step in range(1, 313)],
        "evaluations": [[step, step / 600, step / 700] for step in (50, 100, 150, 200, 250, 300, 312)],
        "pictures": [picture, picture, picture],
    }
    return {"text": ["{}"], "partedit_training": [{**shown, **changes}]}


@pytest.fixture
def cancelled(client):
    """Leaves no training behind that would keep the next test waiting."""
    yield
    client.interrupt()


@both_renderers
@pytest.mark.slow
@pytest.mark.usefixtures("cancelled")
def test_a_training_is_seen_and_stopped_and_what_follows_runs(editor, renderer, client):
    """Of 50,000 steps, which would take minutes."""
    editor.load(roomy("train_token", KIND))
    # another start for each renderer, or the second run would come from the cache
    set_widgets(editor, KIND, steps=50_000, seed=21 if renderer == "vue" else 22, noise_count=1, flip=False)
    set_widgets(editor, "FeatureBlendSampler", steps=3)
    before, prompt = editor.page.evaluate(VALUES), editor.prompt()
    board = widget(editor, NAME)
    note, stop = board.get_by_role("status"), board.get_by_role("button", name="Stop, keep the best")
    centre(editor, KIND, 250)
    editor.page.evaluate(LISTEN)
    with editor.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as caught:
        editor.page.get_by_test_id("queue-button").click()
    number = caught.value.json()["prompt_id"]
    stop.wait_for(timeout=120_000)
    board.locator("[data-line='held out']").wait_for(state="attached", timeout=60_000)
    board.locator("img.partedit-large").wait_for(timeout=60_000)
    expect(note).to_contain_text("training: step")
    expect(note).to_contain_text("best IoU 0.")
    assert editor.screenshot(f"training_live_{renderer}").stat().st_size > 10_000
    with editor.page.expect_response(lambda answer: answer.url.endswith("/partedit/stop")) as answered:
        stop.click()
    assert answered.value.status == 200
    editor.page.wait_for_function(ENDED, arg=number, timeout=120_000)
    entry = client.get_json(f"/history/{number}")[number]
    assert entry["status"]["status_str"] == "success"
    kinds = {str(node["id"]): node["type"] for node in editor.page.evaluate("window.app.graph.serialize().nodes")}
    ran = {kinds[key]: shown for key, shown in entry["outputs"].items()}
    assert ran["SaveImage"]["images"] and ran["SavePartToken"]["text"], "what follows has run"
    figures = json.loads(ran[KIND]["text"][0])
    assert figures["stopped_by"] == "hand" and 50 <= figures["stopped_at"] < 50_000
    expect(note).to_contain_text(f"step {figures['returned_step']} returned")
    expect(note).to_contain_text("stopped by hand")
    expect(stop).to_be_hidden()
    assert board.locator("img.partedit-large").evaluate("(image) => image.decode().then(() => image.naturalWidth)")
    board.get_by_text("As text").click()
    text = board.locator(".partedit-report")
    expect(text).to_contain_text("stopped_by")
    editor.eventually(text.bounding_box, lambda box: box is not None and box["height"] > 30)
    board.get_by_text("As text").click()
    expect(text).to_be_hidden()
    editor.settle()
    assert editor.screenshot(f"training_stopped_{renderer}").stat().st_size > 10_000

    # nothing of it is saved or sent, and it is there again after a reload, when nothing is trained anew
    assert editor.prompt() == prompt and editor.page.evaluate(VALUES) == before
    file = editor.page.evaluate("window.app.graph.serialize()")
    editor.reset(renderer)
    editor.load(file)
    assert editor.page.evaluate(VALUES) == before
    assert board.locator("svg").count() == 0
    editor.queue()
    centre(editor, KIND, 250)
    expect(note).to_contain_text(f"stopped by hand at step {figures['stopped_at']}")


@both_renderers
def test_curves_answer_the_pointer_and_the_keyboard(editor, renderer):
    editor.load(roomy("train_token", KIND))
    executed(editor, KIND, output())
    centre(editor, KIND, 250)
    board = widget(editor, NAME)
    note, plot = board.get_by_role("status"), board.locator(".partedit-plot")
    expect(note).to_have_text("step 300 returned · IoU robot head 0.50 · stopped by hand at step 312")
    box = board.locator("svg").bounding_box()
    editor.page.mouse.move(box["x"] + box["width"] * 0.97, box["y"] + box["height"] * 0.5)
    expect(note).to_have_text("step 312 of 312 · IoU 0.52 · held out 0.45")
    editor.page.mouse.move(box["x"] + 5, box["y"] - 200)
    expect(note).to_contain_text("returned")
    plot.focus()
    editor.page.keyboard.press("ArrowRight")
    editor.page.keyboard.press("ArrowRight")
    expect(note).to_have_text(re.compile("^step 100 of 312"))
    editor.settle()
    assert editor.screenshot(f"training_curves_{renderer}").stat().st_size > 10_000
    tiles = board.get_by_role("group", name="Held-out images").get_by_role("button")
    expect(tiles).to_have_count(3)
    expect(tiles.nth(0)).to_have_attribute("aria-pressed", "true")
    tiles.nth(2).focus()
    editor.page.keyboard.press("Enter")
    expect(tiles.nth(2)).to_have_attribute("aria-pressed", "true")
    executed(editor, KIND, output(left_out=4))
    editor.page.mouse.move(5, 500)
    expect(note).to_have_text(re.compile(r" · 4 more: output overlays$"))


@both_renderers
def test_a_taller_node_shows_larger_pictures(editor, renderer):
    """All that a taller node has to spare goes to the board, the last widget of the node."""
    editor.load(roomy("train_token", KIND))
    executed(editor, KIND, output())
    centre(editor, KIND, 250)
    board = widget(editor, NAME)
    large = board.locator("img.partedit-large")
    expect(large).to_be_visible()
    editor.settle()
    before, image = board.bounding_box(), large.bounding_box()
    grow(editor, KIND, 240)
    editor.eventually(board.bounding_box, lambda after: after["height"] > before["height"] + 200)
    editor.eventually(large.bounding_box, lambda after: after["height"] > image["height"] + 50)
    last = "(kind) => window.app.graph._nodes.find((node) => node.type === kind).widgets.at(-1).name"
    assert editor.page.evaluate(last, KIND) == NAME
    editor.screenshot(f"training_tall_{renderer}")


def training(editor):
    """A training that the page has heard of: its status line and its stop button."""
    editor.load(roomy("train_token", KIND))
    send(editor, "partedit.live", message(editor))
    centre(editor, KIND, 250)
    board = widget(editor, NAME)
    return board.get_by_role("status"), board.locator("button.partedit-run")


@both_renderers
def test_a_stop_that_comes_too_late_says_so(editor, renderer):
    note, stop = training(editor)
    stop.focus()
    with editor.page.expect_response(lambda answer: answer.url.endswith("/partedit/stop")) as answered:
        editor.page.keyboard.press("Enter")
    assert answered.value.status == 404, "the server knows of no such run"
    expect(note).to_have_text(re.compile("^Not stopped"))
    expect(stop).to_be_enabled()
    send(editor, "execution_interrupted", {"prompt_id": "one"})
    expect(note).to_have_text("stopped")
    expect(stop).to_be_hidden()
    send(editor, "partedit.live", message(editor, 150))  # that was still on its way
    editor.settle()
    assert note.inner_text() == "stopped"
    editor.errors.clear()  # the console's word about 404


@both_renderers
def test_a_stop_that_fails_while_the_training_goes_on_can_be_asked_again(editor, renderer):
    """The next message comes before the answer."""
    note, stop = training(editor)
    held = []
    editor.page.route("**/partedit/stop", lambda route: held.append(route))
    try:
        stop.click()
        expect(stop).to_be_disabled()
        editor.eventually(lambda: len(held), lambda count: count == 1)
        send(editor, "partedit.live", message(editor, 150))
        expect(note).to_contain_text("training: step 150 of 600")
        expect(stop).to_be_disabled()
        held[0].fulfill(status=500)
        expect(note).to_have_text(re.compile("^Not stopped"))
        expect(stop).to_be_enabled()
    finally:
        editor.page.unroute("**/partedit/stop")
    editor.errors.clear()  # the console's word about 500


@both_renderers
def test_a_flood_of_messages_and_hostile_texts(editor, renderer):
    editor.load(roomy("train_token", KIND))
    centre(editor, KIND, 250)
    first = message(editor)
    editor.page.evaluate(
        """([first, hostile, pixel]) => {
            const tell = (changes) =>
                window.app.api.dispatchEvent(new CustomEvent('partedit.live', { detail: { ...first, ...changes } }));
            for (const steps of [hostile, null, 0, -3, {}]) tell({ steps, step: steps });
            for (const bad of [hostile, null, {}, [null], [[hostile, hostile]], [[1, null]], [[]], [[1, 2, hostile]]])
                tell({ losses: bad, evaluations: bad, pictures: bad, best: bad, parts: bad });
            for (let n = 1; n < 3000; n++) tell({ step: n, pictures: [pixel, hostile, 'not base64!', pixel] });
        }""",
        [first, HOSTILE, PIXEL],
    )
    board = widget(editor, NAME)
    expect(board.get_by_role("status")).to_contain_text("training: step 2999 of 600")
    expect(board.locator(".partedit-sheet button")).to_have_count(2)  # what is no picture is left out
    send(editor, "reconnecting", None)
    expect(board.get_by_role("status")).to_contain_text("Connection lost")
    for shown in (HOSTILE, [None], [{"step": HOSTILE}], [{"step": 5, "part_iou": HOSTILE, "pictures": HOSTILE}]):
        executed(editor, KIND, {"partedit_training": shown})
    executed(editor, KIND, {**output(part_iou=[[HOSTILE, HOSTILE], None, []], stopped_by=HOSTILE), "text": [HOSTILE]})
    executed(editor, KIND, output(part_iou=[[HOSTILE, 0.5]], pictures=[{"filename": HOSTILE}, None, HOSTILE]))
    check_nothing_injected(editor)
    expect(board.get_by_role("status")).to_contain_text(HOSTILE)
    assert [line for line in editor.errors if "/view" not in line] == []
