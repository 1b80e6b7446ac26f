"""What every node of the pack brings to the editor: socket colours, sliders, folded inputs."""

from __future__ import annotations

import pytest

from support.editor import both_renderers

COLOUR = "#e8a33d"  # of PART_TOKEN
PALETTE = "Comfy.ColorPalette"
# The colour of texts, which the page's own style has once a palette has been loaded.
TEXT = {"dark": "#fff", "light": "#222"}
LOADED = "(colour) => document.documentElement.style.getPropertyValue('--fg-color').trim() === colour"
ON_CANVAS = f"""
() => window.app.canvas.default_connection_color_byType.PART_TOKEN === '{COLOUR}'
    && window.app.canvas.constructor.link_type_colors.PART_TOKEN === '{COLOUR}'
    && getComputedStyle(document.documentElement).getPropertyValue('--color-datatype-PART_TOKEN').trim() === '{COLOUR}'
"""
ADD = """
() => {
    const node = window.LiteGraph.createNode('FeatureBlendSampler');
    window.app.graph.add(node);
    const value = (name) => node.widgets.find((widget) => widget.name === name);
    value('edit_steps').value = 50;
    value('omega').value = 8;
    return ['edit_steps', 'omega'].map((name) => value(name).type);
}
"""
SAVED = """
async () => {
    const saved = window.app.graph.serialize();
    await window.app.loadGraphData(saved);
    const node = window.app.graph._nodes.find((node) => node.type === 'FeatureBlendSampler');
    return ['edit_steps', 'omega'].map((name) => node.widgets.find((widget) => widget.name === name).value);
}
"""


@pytest.mark.parametrize("palette", ["dark", "light"])
def test_socket_types_keep_their_colour_in_every_palette(editor, palette):
    setting = "([name, value]) => window.app.extensionManager.setting.set(name, value)"
    try:
        editor.page.evaluate(setting, [PALETTE, palette])
        editor.page.wait_for_function(LOADED, arg=TEXT[palette])
        editor.settle()
        assert editor.page.evaluate(ON_CANVAS)
    finally:
        editor.page.evaluate(setting, [PALETTE, "dark"])


@both_renderers
def test_values_beyond_a_slider_survive_saving(editor, renderer):
    """Numbers of steps from older workflows, and wide values of ω."""
    assert editor.page.evaluate(ADD) == ["slider", "slider"]
    editor.settle()
    assert editor.page.evaluate(SAVED) == [50, 8]
    editor.screenshot(f"sliders_{renderer}")
