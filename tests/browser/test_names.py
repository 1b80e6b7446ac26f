"""Names of inputs and outputs as the editor shows them."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from support.editor import Editor, both_renderers

NODES = ("PartEditPrompt", "FeatureBlendSampler", "TrainPartToken", "InversionStepSearch", "EditMetrics")
# As the editor chooses a name to show.
SHOWN = """(kinds) => {
  const shown = (one) => one.label || one.localized_name || one.name;
  return kinds.map((kind, place) => {
    const node = LiteGraph.createNode(kind);
    node.pos = [40 + 420 * place, 80];
    app.graph.add(node);
    return [...node.inputs, ...node.outputs, ...(node.widgets ?? [])].map((one) => [one.name, shown(one)]);
  });
}"""


@both_renderers
def test_names_of_inputs_and_outputs_are_words(editor: Editor, page: Page, renderer: str) -> None:
    names: list[list[Any]] = page.evaluate(SHOWN, list(NODES))
    editor.settle()
    editor.screenshot(f"names_{renderer}")
    shown = dict(pair for node in names for pair in node)
    assert shown["cross_replace"] == "cross-attention replace" and shown["clip_scorer"] == "CLIP scorer"
    assert shown["contact_sheet"] == "contact sheet" and shown["masks_2"] == "masks 2"
    # Sockets that grow are numbered by the editor.
    ours = {name: text for name, text in shown.items() if not name.startswith("more_pairs.")}
    assert not {name: text for name, text in ours.items() if "_" in text}
    # The panel beside the graph lists what can be set, and none of the pack's pictures.
    page.evaluate("() => app.canvas.selectItems([app.graph._nodes.find((node) => node.type === 'PartEditPrompt')])")
    page.get_by_role("button", name="Toggle properties panel").last.click()
    panel = page.get_by_test_id("properties-panel")
    expect(panel).to_contain_text("source")
    assert "partedit" not in panel.inner_text() and panel.locator(".partedit").count() == 0
    page.get_by_role("button", name="Toggle properties panel").last.click()
    panel.wait_for(state="hidden")
