"""Every widget of the pack against whatever may arrive: floods, hostile texts, a connection that is really lost."""

from __future__ import annotations

import pytest

from support.editor import both_renderers
from support.widgets import HOSTILE, check_nothing_injected, template

# Three workflows that together have every node with a widget of its own, and some that only show a text.
GRAPHS = ("partedit_several_edits", "oir_demo", "train_token")
# Messages and outputs of every kind, and of none, to every node: each field in turn is something it cannot be.
FLOOD = """
([hostile, count]) => {
    const tell = (kind, detail) => window.app.api.dispatchEvent(new CustomEvent(kind, { detail }));
    const junk = [hostile, null, {}, [], [null], [[hostile]], -1, NaN, 1e308];
    const messages = [
        { kind: 'step', step: 0, steps: 9, places: [0], bands: [[0.1, 0.2, 0.3]], mask: hostile, image: hostile },
        { kind: 'search', pairs: [hostile, hostile], steps: 9, edit_weight: 1 },
        { kind: 'candidate', pair: 0, n: 1, edit: 0.5, keep: 0.5, file: { filename: hostile } },
        { kind: 'training', step: 5, steps: 9, best: 5, losses: [[1, 1]], evaluations: [[5, 0.5, 0.4]], pictures: [] },
        { kind: hostile },
    ];
    const candidate = { n: 1, total: 1, edit: 0.5, keep: 0.5 };
    const outputs = {
        text: [hostile],
        curve: [{ title: hostile, x: [1, 2], series: { [hostile]: [0, 1] }, best: 1 }],
        partedit_strip: [{ steps: [0], size: [1, 1], bands: [[0, 0, 0]], views: [{ label: hostile }], images: 1 }],
        partedit_board: [{ steps: 3, pairs: [{ label: hostile, chosen: 1, found: 1, candidates: [candidate] }] }],
        partedit_threads: [{ text: hostile, source: [[hostile, true]], words: [{ text: hostile, sources: [0] }] }],
        partedit_training: [{ step: 5, best: 5, losses: [[1, 1]], evaluations: [[5, 0.5]], part_iou: [[hostile, 1]] }],
    };
    const own = window.app.graph._nodes.filter((node) => node.widgets?.some((one) => one.type === 'partedit'));
    for (const target of own) {
        const node = String(target.id);
        for (const message of messages) {
            for (const key of Object.keys(message))
                for (const bad of junk) tell('partedit.live', { ...message, node, [key]: bad });
            for (let n = 0; n < count; n++) tell('partedit.live', { ...message, node, step: n % 9, n });
        }
        for (const [key, output] of Object.entries(outputs)) {
            const show = (value) => target.onExecuted({ text: [hostile], [key]: value });
            for (const bad of junk) show(bad);
            for (const field of Object.keys(output[0]))
                for (const bad of junk) show([{ ...output[0], [field]: bad }]);
            show(output);
        }
    }
}
"""
# Closed under the page's feet; it connects again by itself.
LOSE = """
() => new Promise((resolve) => {
    window.app.api.addEventListener('reconnected', () => resolve(true), { once: true });
    window.app.api.socket.close();
})
"""
WIDGETS = """
() => window.app.graph._nodes.flatMap((node) => (node.widgets ?? []).filter((one) => one.type === 'partedit'))
    .map((one) => one.name)
"""


@both_renderers
@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_fails_and_nothing_is_injected(editor, renderer, name):
    editor.load(template(name))
    before = editor.page.evaluate("window.app.graph.serialize().nodes.map((node) => [node.id, node.widgets_values])")
    editor.page.evaluate(FLOOD, [HOSTILE, 300])
    editor.settle()
    assert editor.page.evaluate(LOSE)
    editor.page.evaluate(FLOOD, [HOSTILE, 3])
    check_nothing_injected(editor)
    assert editor.page.locator(".partedit img[onerror], .partedit script").count() == 0
    assert editor.page.evaluate(WIDGETS)
    after = editor.page.evaluate("window.app.graph.serialize().nodes.map((node) => [node.id, node.widgets_values])")
    assert after == before
    # the server's answers about files that are not there are no faults of the page
    assert [line for line in editor.errors if "/view" not in line and "Content Security Policy" not in line] == []
