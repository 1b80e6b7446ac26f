"""Widgets and the workflows around them: undo, several workflows at once, subgraphs that are closed."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from support.widgets import centre, executed, node_id, roomy, send, template, widget

SEARCH = {
    "steps": 6,
    "pairs": [
        {
            "label": "a cat",
            "chosen": 3,
            "found": 3,
            "candidates": [{"n": n, "total": 1, "edit": 0.5, "keep": 0.5} for n in (1, 2, 3)],
        }
    ],
}
THREADS = {
    "text": "a robot",
    "source": [["a", False], ["man", False]],
    "words": [
        {"text": "a", "glued": False, "share": 1.0, "sources": [0]},
        {"text": "robot", "glued": False, "share": 0.4, "sources": [1]},
    ],
}
VALUE = """
([kind, name]) => window.app.graph._nodes.find((node) => node.type === kind)
    .widgets.find((widget) => widget.name === name).value
"""


def pick_token(editor):
    widget(editor, "partedit_token").get_by_role("button", name="Choose").click()
    widget(editor, "partedit_tokens").locator("[data-token='demo_animal_head.safetensors']").click()


def pick_step(editor):
    executed(editor, "InversionStepSearch", {"partedit_board": [SEARCH]})
    centre(editor, "InversionStepSearch", 150)
    widget(editor, "partedit_board").locator("[data-step='2']").click()


def pick_word(editor):
    executed(editor, "PartEditPrompt", {"partedit_threads": [THREADS]})
    centre(editor, "PartEditPrompt", 100)
    words = widget(editor, "partedit_words")
    words.locator("[data-word='0.1']").click()
    words.get_by_role("slider").focus()
    editor.page.keyboard.press("ArrowRight")


CHOICES = {
    "LoadPartToken": ("partedit_demo", "part_token", "demo_animal_head.safetensors", pick_token),
    "InversionStepSearch": ("oir_demo", "overrides", "2", pick_step),
    "PartEditPrompt": ("partedit_demo", "word_fractions", "robot=0.45", pick_word),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_undo_takes_back_what_a_widget_has_set(editor, kind):
    """The editor compares workflows when the mouse is released, which is before a click arrives."""
    name, setting, chosen, choose = CHOICES[kind]
    editor.load(roomy(name, kind))
    centre(editor, kind)
    value = lambda: editor.page.evaluate(VALUE, [kind, setting])  # noqa: E731
    before = value()
    choose(editor)
    editor.eventually(value, lambda found: found == chosen)
    editor.page.evaluate("() => document.activeElement?.blur()")
    editor.page.keyboard.press("Control+z")
    editor.eventually(value, lambda found: found == before)
    editor.page.keyboard.press("Control+y")
    editor.eventually(value, lambda found: found == chosen)


# Puts nodes of these classes into a subgraph, loads that twice, and counts what its picker shows, then and now.
FORGOTTEN = """
async ([pack, kinds]) => {
    const { everyone } = await import(`/extensions/${pack}/lib/host.js`);
    const inner = () => [...window.app.graph.subgraphs.values()].flatMap((one) => [...one.nodes]);
    const picker = () => inner().find((node) => node.type === 'LoadPartToken').widgets.at(-1).element;
    const nodes = window.app.graph._nodes.filter((node) => kinds.includes(node.type));
    window.app.graph.convertToSubgraph(new Set(nodes));
    const saved = window.app.graph.serialize();
    await window.app.loadGraphData(saved);
    const closed = picker();
    await window.app.loadGraphData(saved);
    for (const element of [closed, picker()]) element.replaceChildren();
    everyone('listed');
    return [closed, picker()].map((element) => element.childElementCount);
}
"""


def test_nodes_in_a_subgraph_are_forgotten_with_their_workflow(editor, pack_name):
    """The editor reports only those outside of subgraphs as removed: they, and their pictures, stayed for good."""
    editor.load(template("partedit_demo"))
    kinds = ["LoadPartToken", "FeatureBlendSampler", "PartEditPrompt"]
    assert editor.page.evaluate(FORGOTTEN, [pack_name, kinds]) == [0, 1]


WORKFLOW = "() => window.app.extensionManager.workflow.activeWorkflow.path"
COMMAND = "(name) => window.app.extensionManager.command.execute(name)"
OUTPUT = """
([node, prompt_id, output]) => {
    window.app.api.dispatchCustomEvent('execution_start', { prompt_id });
    window.app.api.dispatchCustomEvent('executed', { node, display_node: node, output, prompt_id });
    window.app.api.dispatchCustomEvent('execution_success', { prompt_id });
}
"""
KEPT = "(node) => window.app.nodeOutputs[node] ?? null"


def test_a_run_shows_nothing_in_another_workflow(editor):
    """A copy of the workflow, with nodes of the same ids, is opened while it runs."""
    editor.load(roomy("oir_demo", "InversionStepSearch"))
    number, first = node_id(editor, "InversionStepSearch"), editor.page.evaluate(WORKFLOW)
    answer = {"prompt_id": "theirs", "number": 1, "node_errors": {}}
    editor.page.route("**/api/prompt", lambda route: route.fulfill(json=answer))
    try:
        with editor.page.expect_response("**/api/prompt"):
            editor.page.evaluate("() => window.app.queuePrompt(0, 1)")
    finally:
        editor.page.unroute("**/api/prompt")
    # The editor takes up a widget's element when the node is in view; each workflow has a view of its own.
    centre(editor, "InversionStepSearch")
    board = widget(editor, "partedit_board")
    search = {"kind": "search", "node": number, "prompt_id": "theirs", "pairs": ["a cat"], "steps": 6}
    candidate = {**search, "kind": "candidate", "pair": 0, "n": 2, "edit": 0.5, "keep": 0.5}
    send(editor, "partedit.live", search)
    expect(board).to_contain_text("searching")

    editor.page.evaluate(COMMAND, "Comfy.DuplicateWorkflow")
    editor.eventually(lambda: editor.page.evaluate(WORKFLOW), lambda path: path != first)
    centre(editor, "InversionStepSearch")
    hint = "The candidates appear here"
    expect(board).to_contain_text(hint)
    send(editor, "partedit.live", candidate)
    theirs = {"partedit_board": [{**SEARCH, "steps": 9}]}
    editor.page.evaluate(OUTPUT, [number, "theirs", theirs])
    editor.settle()
    expect(board).to_contain_text(hint)
    assert editor.page.evaluate(KEPT, number) is None
    # what ComfyUI has of this workflow's own run stays
    editor.page.evaluate(OUTPUT, [number, "ours", {"partedit_board": [SEARCH]}])
    expect(board.locator("[data-step]")).to_have_count(3)
    editor.page.evaluate(OUTPUT, [number, "theirs", theirs])
    assert editor.page.evaluate(KEPT, number) == {"partedit_board": [SEARCH]}

    # back in front, with what was found meanwhile; and it follows a search whose beginning it has not seen
    editor.page.evaluate(COMMAND, "Workspace.PreviousOpenedWorkflow")
    editor.eventually(lambda: editor.page.evaluate(WORKFLOW), lambda path: path == first)
    centre(editor, "InversionStepSearch")
    expect(board.locator("[data-step]")).to_have_count(3)
    assert editor.page.evaluate(KEPT, number) == theirs
    send(editor, "partedit.live", {**candidate, "prompt_id": "next", "n": 4, "earlier": [candidate, None]})
    expect(board).to_contain_text("searching: 2 candidates so far")
