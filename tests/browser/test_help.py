"""Help pages as the editor shows them: in the language that is set, with their picture."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

NODE = "FeatureBlendSampler"
SELECT = """
(type) => {
    const node = window.LiteGraph.createNode(type);
    node.pos = [300, 200];
    window.app.graph.add(node);
    window.app.canvas.centerOnNode(node);
    window.app.canvas.selectNode(node);
}
"""
PICTURE_LOADED = """
() => {
    const picture = document.querySelector('.node-help-content img');
    return Boolean(picture && picture.complete && picture.naturalWidth > 100);
}
"""


@pytest.mark.parametrize(
    "language, name, heading",
    [("en", "Feature Blend Sampler", "Mistakes people make"), ("zh", "特征混合采样器", "常见错误")],
)
def test_a_help_page_is_shown_in_the_language_of_the_editor(new_editor, client, language, name, heading):
    client.post_json("/settings/Comfy.Locale", language)
    try:
        editor = new_editor()
        page = editor.page
        page.evaluate(SELECT, NODE)
        page.get_by_test_id("info-button").click()
        content = page.locator(".node-help-content")
        content.get_by_role("heading", name=name, exact=True).wait_for()
        expect(content.get_by_role("heading", name=heading, exact=True)).to_have_count(1)
        page.wait_for_function(PICTURE_LOADED)
        editor.screenshot(f"help_{language}")
    finally:
        client.post_json("/settings/Comfy.Locale", "en")
