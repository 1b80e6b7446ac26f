"""Inversion Step Search in the editor: candidates as they come, a step chosen by a click, back to what was found."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from support.editor import ENDED, both_renderers
from support.widgets import (
    HOSTILE,
    centre,
    check_nothing_injected,
    executed,
    grow,
    node_id,
    roomy,
    send,
    small_search,
    widget,
)

KIND = "InversionStepSearch"
NAME = "partedit_board"
OVERRIDES = """
() => window.app.graph._nodes.find((node) => node.type === 'InversionStepSearch')
    .widgets.find((widget) => widget.name === 'overrides').value
"""
# What the server ran, not what it took from its cache.
RAN = """
() => {
    window.ran = [];
    window.messages = [];
    window.app.api.addEventListener('execution_cached', ({ detail }) => {
        const cached = new Set(detail.nodes.map(String));
        const nodes = window.app.graph._nodes.filter((node) => !node.isVirtualNode && !cached.has(String(node.id)));
        window.ran.push(...nodes.map((node) => node.type));
    });
    window.app.api.addEventListener('partedit.live', ({ detail }) => window.messages.push(detail));
}
"""


def overrides(editor):
    return editor.page.evaluate(OVERRIDES)


def expect_overrides(editor, value):
    editor.eventually(lambda: overrides(editor), lambda found: found == value)


def board_of(chosen=(3, 2), found=(3, 2), count=5):
    """What a search of two pairs reports, with candidates 1 … count; the first pair's S is highest at 3."""
    picture = {"filename": "robot_pictures.webp", "subfolder": "", "type": "input"}
    shown = [
        {"n": n, "total": 2 - abs(n - 3) / 4, "edit": n / count, "keep": 1 - n / count, "file": picture}
        for n in range(1, count + 1)
    ]
    pairs = [
        {"label": label, "chosen": chosen[place], "found": found[place], "manual": False, "candidates": shown}
        for place, label in enumerate(("'a cat' → 'a dog'", "'a chair' → 'a stool'"))
    ]
    return {"partedit_board": [{"steps": 6, "pairs": pairs}], "text": ["both found"]}


@both_renderers
def test_hover_shows_a_candidate_and_a_click_sets_the_step(editor, renderer):
    editor.load(roomy("oir_demo", KIND))
    executed(editor, KIND, board_of())
    centre(editor, KIND, 200)
    board = widget(editor, NAME)
    note, tiles = board.get_by_role("status"), board.locator("[data-step]")
    expect(tiles).to_have_count(5)
    expect(note).to_contain_text("step 3: S 2.00")
    expect(note).to_contain_text("found")
    run, reset = board.get_by_role("button", name="Run"), board.get_by_role("button", name="Reset to found")
    expect(run).to_be_hidden()
    expect(reset).to_be_disabled()
    tiles.nth(0).hover()
    expect(note).to_have_text(re.compile(r"^step 1: S 1\.50 \(S_e 0\.20, S_ne 0\.80\)"))
    tiles.nth(4).click()
    expect_overrides(editor, "5, auto")
    expect(tiles.nth(4)).to_have_attribute("aria-pressed", "true")
    expect(run).to_be_visible()
    editor.settle()
    assert editor.screenshot(f"step_board_{renderer}").stat().st_size > 10_000
    # the other pair, by the curve; its own step stays beside it
    board.get_by_role("combobox").select_option(index=1)
    expect(tiles.nth(1)).to_have_attribute("aria-pressed", "true")
    editor.settle()
    box = board.locator("svg").bounding_box()
    editor.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.5)
    expect(note).to_have_text(re.compile("^step 5:"))
    editor.page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.5)
    expect_overrides(editor, "5, 5")
    # by the keyboard
    tiles.nth(4).focus()
    editor.page.keyboard.press("ArrowLeft")
    expect(tiles.nth(3)).to_be_focused()
    editor.page.keyboard.press("Enter")
    expect_overrides(editor, "5, 4")
    reset.click()
    expect_overrides(editor, "5, auto")
    board.get_by_role("combobox").select_option(index=0)
    expect(tiles.nth(4)).to_have_attribute("aria-pressed", "true")
    tiles.nth(2).click()  # the one that was found
    expect_overrides(editor, "")
    expect(run).to_be_hidden()
    # the sheet stays where it is under the pointer, and so does what is shown
    executed(editor, KIND, board_of(count=12))
    expect(tiles).to_have_count(12)
    editor.settle()
    sheet = board.get_by_role("group", name="Candidates")
    tiles.nth(3).hover()
    editor.settle()
    before = sheet.evaluate("(sheet) => sheet.scrollLeft")
    tiles.nth(3).click()
    expect_overrides(editor, "4, auto")
    expect(tiles.nth(3)).to_have_attribute("aria-pressed", "true")
    expect(note).to_have_text(re.compile("^step 4:"))
    editor.settle()
    assert sheet.evaluate("(sheet) => sheet.scrollLeft") == before
    # the widget shows the value, and it is saved as typed text would be
    tiles.nth(0).click()
    expect_overrides(editor, "1, auto")
    saved = editor.page.evaluate("window.app.graph.serialize()")
    values = next(node for node in saved["nodes"] if node["type"] == KIND)["widgets_values"]
    assert values[:12] == [7.5, "coarse-to-fine", 1, 0, 1, 0, "masked", False, "1, auto", 3.0, "target phrase", False]
    assert len(values) == 12
    prompt = editor.prompt()[node_id(editor, KIND)]["inputs"]
    assert prompt["overrides"] == "1, auto" and not any("partedit" in key for key in prompt)


def test_the_pointer_may_come_before_the_first_drawing(editor):
    drawn = editor.page.evaluate(
        """(output) => {
            const node = window.LiteGraph.createNode('InversionStepSearch');
            node.onExecuted(output);
            const board = node.widgets.find((one) => one.name === 'partedit_board').element;
            const plot = board.querySelector('.partedit-plot');
            for (const kind of ['pointermove', 'pointerdown', 'pointerup']) plot.dispatchEvent(new PointerEvent(kind));
            return plot.children.length;
        }""",
        board_of(),
    )
    editor.settle()
    assert drawn == 0 and editor.errors == []


@both_renderers
def test_the_picture_grows_with_the_node(editor, renderer):
    editor.load(roomy("oir_demo", KIND))
    executed(editor, KIND, board_of())
    centre(editor, KIND, 200)
    picture, plot = (widget(editor, NAME).locator(one) for one in ("img.partedit-large", ".partedit-plot"))
    grow(editor, KIND, 250)
    first = editor.eventually(picture.bounding_box, lambda box: box is not None and box["width"] > 300)
    # above the curves
    editor.eventually(plot.bounding_box, lambda box: box is not None and box["y"] >= first["y"] + first["height"])
    grow(editor, KIND, 200)
    editor.eventually(picture.bounding_box, lambda box: box is not None and box["height"] > first["height"] + 80)
    editor.screenshot(f"step_board_tall_{renderer}")


def test_a_short_run_is_told_from_a_candidate(editor):
    editor.load(roomy("oir_demo", KIND))
    output = board_of(count=6)
    output["partedit_board"][0]["pairs"][0]["candidates"][4]["length"] = 2
    executed(editor, KIND, output)
    centre(editor, KIND, 200)
    board = widget(editor, NAME)
    tiles, note = board.locator("[data-step]"), board.get_by_role("status")
    expect(tiles).to_have_text(["1", "2", "3", "4", "~ 5", "6"])
    expect(board.locator("svg circle[fill=none]")).to_have_count(3)  # in each of the three curves
    tiles.nth(4).hover()
    expect(note).to_contain_text("estimated from a short run (2 of 5 UNet steps)")
    tiles.nth(3).hover()
    expect(note).to_contain_text("step 4:")
    expect(note).not_to_contain_text("short run")
    editor.settle()
    assert editor.screenshot("step_board_short_run").stat().st_size > 10_000
    # it may be chosen, and is then run in full
    tiles.nth(4).click()
    expect_overrides(editor, "5, auto")


@pytest.mark.slow
def test_a_click_runs_only_what_depends_on_it(editor):
    editor.load(small_search())
    editor.page.evaluate(RAN)
    editor.queue()
    messages = editor.page.evaluate("window.messages")
    assert [message["kind"] for message in messages] == ["search"] + ["candidate"] * 12
    assert {"InvertLatent", "KSampler", KIND, "OIRReassemble"} <= set(editor.page.evaluate("window.ran"))
    board = widget(editor, NAME)
    centre(editor, KIND, 200)
    tiles = board.locator("[data-step]")
    editor.eventually(
        lambda: [int(tile.get_attribute("data-step")) for tile in tiles.all()],
        lambda steps: steps == [1, 2, 3, 4, 5, 6],
    )
    found = int(board.locator("[aria-pressed=true][data-step]").get_attribute("data-step"))
    assert board.locator("img").first.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0
    other = 6 if found != 6 else 5
    editor.page.evaluate("() => { window.ran.length = 0; window.messages.length = 0; }")
    tiles.nth(other - 1).click()
    editor.eventually(lambda: overrides(editor), lambda value: str(other) in value)
    made = editor.queue()
    ran = set(editor.page.evaluate("window.ran"))
    assert ran == {KIND, "OIRReassemble", "PreviewImage", "SaveImage"}, ran
    shown = made[node_id(editor, KIND)]
    assert re.search(r"^0 UNet rows", shown["text"][0], re.M), shown["text"]
    first, second = shown["partedit_board"][0]["pairs"]
    assert (first["chosen"], first["found"], first["manual"]) == (other, found, True)
    assert [one["n"] for one in first["candidates"]] == [1, 2, 3, 4, 5, 6] and not second["manual"]
    # all candidates are still there to choose from, and back to what was found takes nothing new either
    expect(tiles).to_have_count(6)
    expect(board.get_by_role("button", name="Run")).to_be_hidden()
    assert editor.screenshot("step_board_chosen").stat().st_size > 10_000
    board.get_by_role("button", name="Reset to found").click()
    expect_overrides(editor, "")
    editor.page.evaluate("() => { window.ran.length = 0; }")
    with editor.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as caught:
        board.get_by_role("button", name="Run").click()
    editor.page.wait_for_function(ENDED, arg=caught.value.json()["prompt_id"])
    expect(board.get_by_role("button", name="Run")).to_be_hidden()
    assert not set(editor.page.evaluate("window.ran")) & {"InvertLatent", "KSampler", "EditingPair", "VAEEncode"}


@both_renderers
def test_a_connected_override_is_left_alone(editor, renderer):
    editor.load(roomy("oir_demo", KIND))
    executed(editor, KIND, board_of())
    editor.page.evaluate(
        "() => { const node = window.app.graph._nodes.find((node) => node.type === 'InversionStepSearch');"
        "const input = node.inputs.find((input) => input.widget?.name === 'overrides');"
        "const text = window.LiteGraph.createNode('PrimitiveString'); window.app.graph.add(text);"
        "text.connect(0, node, node.inputs.indexOf(input)); }"
    )
    centre(editor, KIND, 200)
    board = widget(editor, NAME)
    board.locator("[data-step]").nth(4).click()
    expect(board.get_by_role("status")).to_contain_text("connected to another node")
    editor.settle()
    assert overrides(editor) == ""


@both_renderers
def test_a_flood_of_candidates_and_hostile_texts(editor, renderer):
    editor.load(roomy("oir_demo", KIND))
    centre(editor, KIND)
    number = node_id(editor, KIND)
    editor.page.evaluate(
        """([number, hostile]) => {
            const tell = (detail) =>
                window.app.api.dispatchEvent(new CustomEvent('partedit.live', { detail: { node: number, ...detail } }));
            tell({ kind: 'candidate', pair: 0, n: 1, edit: 0, keep: 0 });
            for (const pairs of [null, [], hostile, {}]) tell({ kind: 'search', pairs });
            tell({ kind: 'search', pairs: [hostile, null], steps: hostile, edit_weight: null });
            const found = { kind: 'candidate', pair: 0 };
            for (let n = 0; n < 2000; n++) tell({ ...found, pair: n % 3, n: n % 50, edit: n, keep: -n, file: null });
            for (const n of [hostile, null, NaN, {}]) tell({ ...found, n, edit: n, keep: n, file: n });
            tell({ ...found, pair: hostile, n: 1 });
        }""",
        [number, HOSTILE],
    )
    board = widget(editor, NAME)
    expect(board.get_by_role("status")).to_contain_text("searching")
    expect(board.locator("[data-step]")).to_have_count(50)
    send(editor, "reconnecting", None)
    expect(board.get_by_role("status")).to_contain_text("Connection lost")
    for pairs in (HOSTILE, [None], [{"label": HOSTILE, "chosen": HOSTILE, "found": {}, "candidates": [HOSTILE, None]}]):
        executed(editor, KIND, {"partedit_board": [{"steps": HOSTILE, "pairs": pairs}]})
    broken = {"n": 2, "total": None, "edit": HOSTILE, "keep": [], "file": {"filename": HOSTILE}}
    output = board_of()
    output["partedit_board"][0]["pairs"][0] |= {"label": HOSTILE, "candidates": [broken]}
    executed(editor, KIND, {**output, "text": [HOSTILE]})
    check_nothing_injected(editor)
    expect(board.locator("option").first).to_contain_text(HOSTILE)
    assert [line for line in editor.errors if "/view" not in line] == []
