"""Inversion Step Search in the editor: candidates as they come, a step chosen by a click, back to what was found."""

from __future__ import annotations

import contextlib
import re

import pytest
from playwright.sync_api import TimeoutError

from support.editor import both_renderers
from support.widgets import HOSTILE, centre, executed, grow, node_id, roomy, send, small_search, widget

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
    with contextlib.suppress(TimeoutError):
        editor.page.wait_for_function(f"(value) => ({OVERRIDES})() === value", arg=value, timeout=5000)
    assert overrides(editor) == value


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
    assert tiles.count() == 5 and "step 3: S 2.00" in note.inner_text() and "found" in note.inner_text()
    run, reset = board.get_by_role("button", name="Run"), board.get_by_role("button", name="Reset to found")
    assert run.is_hidden() and reset.is_disabled()
    tiles.nth(0).hover()
    editor.page.wait_for_timeout(200)
    assert note.inner_text().startswith("step 1: S 1.50 (S_e 0.20, S_ne 0.80)")
    tiles.nth(4).click()
    expect_overrides(editor, "5, auto")
    editor.page.wait_for_timeout(200)
    assert tiles.nth(4).get_attribute("aria-pressed") == "true" and run.is_visible()
    assert editor.screenshot(f"step_board_{renderer}").stat().st_size > 10_000
    # the other pair, by the curve; its own step stays beside it
    board.get_by_role("combobox").select_option(index=1)
    editor.page.wait_for_timeout(200)
    box = board.locator("svg").bounding_box()
    editor.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.5)
    editor.page.wait_for_timeout(200)
    assert note.inner_text().startswith("step 5:")
    editor.page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.5)
    expect_overrides(editor, "5, 5")
    # by the keyboard
    tiles.nth(4).focus()
    editor.page.keyboard.press("ArrowLeft")
    editor.page.keyboard.press("Enter")
    expect_overrides(editor, "5, 4")
    reset.click()
    expect_overrides(editor, "5, auto")
    board.get_by_role("combobox").select_option(index=0)
    tiles.nth(2).click()  # the one that was found
    expect_overrides(editor, "")
    editor.page.wait_for_timeout(200)
    assert run.is_hidden()
    # the sheet stays where it is under the pointer, and so does what is shown
    executed(editor, KIND, board_of(count=12))
    editor.page.wait_for_timeout(200)
    sheet = board.get_by_role("group", name="Candidates")
    tiles.nth(3).hover()
    before = sheet.evaluate("(sheet) => sheet.scrollLeft")
    tiles.nth(3).click()
    expect_overrides(editor, "4, auto")
    editor.page.wait_for_timeout(200)
    assert sheet.evaluate("(sheet) => sheet.scrollLeft") == before and note.inner_text().startswith("step 4:")
    # the widget shows the value, and it is saved as typed text would be
    tiles.nth(0).click()
    saved = editor.page.evaluate("window.app.graph.serialize()")
    values = next(node for node in saved["nodes"] if node["type"] == KIND)["widgets_values"]
    assert values[:12] == [7.5, "coarse-to-fine", 1, 0, 1, 0, "masked", False, "1, auto", 3.0, "target phrase", False]
    assert len(values) == 12
    prompt = editor.prompt()[node_id(editor, KIND)]["inputs"]
    assert prompt["overrides"] == "1, auto" and not any("partedit" in key for key in prompt)


@both_renderers
def test_the_picture_grows_with_the_node(editor, renderer):
    editor.load(roomy("oir_demo", KIND))
    executed(editor, KIND, board_of())
    centre(editor, KIND, 200)
    picture, plot = (widget(editor, NAME).locator(one) for one in ("img.partedit-large", ".partedit-plot"))
    grow(editor, KIND, 250)
    first = picture.bounding_box()
    assert first["width"] > 300 and plot.bounding_box()["y"] >= first["y"] + first["height"], "above the curves"
    grow(editor, KIND, 200)
    assert picture.bounding_box()["height"] > first["height"] + 80
    editor.screenshot(f"step_board_tall_{renderer}")


def test_a_short_run_is_told_from_a_candidate(editor):
    editor.load(roomy("oir_demo", KIND))
    output = board_of(count=6)
    output["partedit_board"][0]["pairs"][0]["candidates"][4]["length"] = 2
    executed(editor, KIND, output)
    centre(editor, KIND, 200)
    board = widget(editor, NAME)
    tiles, note = board.locator("[data-step]"), board.get_by_role("status")
    assert [tile.inner_text() for tile in tiles.all()] == ["1", "2", "3", "4", "~ 5", "6"]
    hollow = board.locator("svg circle[fill=none]")
    assert hollow.count() == 3, "in each of the three curves"
    tiles.nth(4).hover()
    editor.page.wait_for_timeout(200)
    assert "estimated from a short run (2 of 5 UNet steps)" in note.inner_text()
    tiles.nth(3).hover()
    editor.page.wait_for_timeout(200)
    assert "short run" not in note.inner_text()
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
    assert [int(tile.get_attribute("data-step")) for tile in tiles.all()] == [1, 2, 3, 4, 5, 6]
    found = int(board.locator("[aria-pressed=true][data-step]").get_attribute("data-step"))
    assert board.locator("img").first.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0
    other = 6 if found != 6 else 5
    editor.page.evaluate("() => { window.ran.length = 0; window.messages.length = 0; }")
    tiles.nth(other - 1).click()
    made = editor.queue()
    ran = set(editor.page.evaluate("window.ran"))
    assert ran == {KIND, "OIRReassemble", "PreviewImage", "SaveImage"}, ran
    shown = made[node_id(editor, KIND)]
    assert re.search(r"^0 UNet rows", shown["text"][0], re.M), shown["text"]
    first, second = shown["partedit_board"][0]["pairs"]
    assert (first["chosen"], first["found"], first["manual"]) == (other, found, True)
    assert [one["n"] for one in first["candidates"]] == [1, 2, 3, 4, 5, 6] and not second["manual"]
    # all candidates are still there to choose from, and back to what was found takes nothing new either
    assert tiles.count() == 6 and board.get_by_role("button", name="Run").is_hidden()
    assert editor.screenshot("step_board_chosen").stat().st_size > 10_000
    board.get_by_role("button", name="Reset to found").click()
    expect_overrides(editor, "")
    editor.page.evaluate("() => { window.ran.length = 0; }")
    with editor.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")):
        board.get_by_role("button", name="Run").click()
    editor.page.wait_for_function(
        "(found) => document.querySelector('.partedit-run').hidden && !window.app.ui.lastQueueSize", arg=found
    )
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
    editor.page.wait_for_timeout(200)
    assert overrides(editor) == "" and "connected to another node" in board.get_by_role("status").inner_text()


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
    editor.page.wait_for_timeout(300)
    board = widget(editor, NAME)
    assert "searching" in board.get_by_role("status").inner_text() and board.locator("[data-step]").count() == 50
    send(editor, "reconnecting", None)
    editor.page.wait_for_timeout(200)
    assert "Connection lost" in board.get_by_role("status").inner_text()
    for pairs in (HOSTILE, [None], [{"label": HOSTILE, "chosen": HOSTILE, "found": {}, "candidates": [HOSTILE, None]}]):
        executed(editor, KIND, {"partedit_board": [{"steps": HOSTILE, "pairs": pairs}]})
    broken = {"n": 2, "total": None, "edit": HOSTILE, "keep": [], "file": {"filename": HOSTILE}}
    output = board_of()
    output["partedit_board"][0]["pairs"][0] |= {"label": HOSTILE, "candidates": [broken]}
    executed(editor, KIND, {**output, "text": [HOSTILE]})
    editor.page.wait_for_timeout(500)
    assert editor.page.evaluate("window.injected") is None
    assert HOSTILE in board.locator("option").first.inner_text()
    assert [line for line in editor.errors if "/view" not in line] == []
