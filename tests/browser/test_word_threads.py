"""PartEdit Prompt in the editor: the words, what they follow, and a word's share set by a click."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from support.editor import both_renderers
from support.widgets import HOSTILE, centre, check_nothing_injected, executed, node_id, roomy, widget

KIND = "PartEditPrompt"
NAME = "partedit_words"
FRACTIONS = """
() => window.app.graph._nodes.find((node) => node.type === 'PartEditPrompt')
    .widgets.find((widget) => widget.name === 'word_fractions').value
"""


def expect_fractions(editor, value):
    editor.eventually(lambda: editor.page.evaluate(FRACTIONS), lambda found: found == value)


def edit_of(text, source=("a", "man", ",", "outdoors"), **shares):
    """An edit as the node reports it, word by word; "+word" is inserted."""
    words = [
        {
            "text": word.lstrip("+"),
            "glued": word == ",",
            "share": shares.get(word.lstrip("+"), 1.0),
            "weight": 1.0,
            "sources": [] if word.startswith("+") else [min(place, len(source) - 1)],
        }
        for place, word in enumerate(text.split())
    ]
    return {"text": text, "parts": [], "source": [[word, word == ","] for word in source], "words": words}


@both_renderers
def test_a_click_on_a_word_sets_its_share(editor, renderer):
    editor.load(roomy("partedit_several_edits", KIND))
    off = {"text": "a statue", "parts": [], "source": [], "words": []}
    edits = [edit_of("a robot , outdoors +smiling", robot=0.4), edit_of("a clown , outdoors", clown=0.4), off]
    executed(editor, KIND, {"partedit_threads": edits, "text": ["man -> robot"]})
    centre(editor, KIND, 100)
    words = widget(editor, NAME)
    note, bar = words.get_by_role("status"), words.get_by_role("slider")
    expect(words.locator("[data-word]")).to_have_count(9)
    expect(words.locator("path")).to_have_count(8)
    expect(note).to_contain_text("Click a word")
    expect(bar).to_be_hidden()
    words.get_by_role("button", name="robot: 40 %").click()
    expect(bar).to_have_value("0.4")
    bar.fill("0.75")
    expect_fractions(editor, "robot=0.75")
    expect(words.get_by_role("button", name="robot: 75 %")).to_be_visible()
    expect(note).to_contain_text("run to use it")
    assert editor.screenshot(f"word_threads_{renderer}").stat().st_size > 10_000
    # by the keyboard, a second word; the first one stays
    words.get_by_role("button", name="clown: 40 %").focus()
    editor.page.keyboard.press("Enter")
    expect(bar).to_have_value("0.4")  # clown's; robot's was 0.75
    bar.fill("1")
    expect_fractions(editor, "robot=0.75, clown=1")
    words.get_by_role("button", name="standard", exact=True).click()
    expect_fractions(editor, "robot=0.75")
    words.locator("[data-word='0.2']").click()
    expect(bar).to_be_hidden()  # a comma cannot be named in the input
    saved = editor.page.evaluate("window.app.graph.serialize()")
    assert "robot=0.75" in next(node for node in saved["nodes"] if node["type"] == KIND)["widgets_values"]
    assert editor.prompt()[node_id(editor, KIND)]["inputs"]["word_fractions"] == "robot=0.75"


@both_renderers
def test_hostile_words_stay_words(editor, renderer):
    editor.load(roomy("partedit_several_edits", KIND))
    centre(editor, KIND, 100)
    for junk in (
        HOSTILE,
        [None],
        [{}],
        [{"text": 3, "source": [None, [HOSTILE]], "words": [None, {"sources": HOSTILE}]}],
    ):
        executed(editor, KIND, {"partedit_threads": junk, "text": [HOSTILE]})
    edit = edit_of("a b")
    edit["words"][0] |= {"text": HOSTILE, "sources": [99, -1, "x", 0]}
    executed(editor, KIND, {"partedit_threads": [edit] * 40, "text": [HOSTILE]})
    words = widget(editor, NAME)
    expect(words.locator("[data-word]")).to_have_count(80)
    assert words.locator("img").count() == 0
    words.locator("[data-word]").first.click()
    expect(words.locator("[data-word]").first).to_have_attribute("aria-pressed", "true")
    check_nothing_injected(editor)
    assert editor.errors == []


@pytest.mark.parametrize(
    ("text", "word", "share", "expected"),
    [
        ("", "robot", 0.4, "robot=0.4"),
        ("robot=0.4", "Robot", 0.5, "Robot=0.5"),
        ("red hat=1, robot = 0.4", "robot", None, "red hat=1"),
        ("not readable, robot=x", "hat", 0.2, "not readable, robot=x, hat=0.2"),
    ],
)
def test_the_text_of_shares(page, pack_name, text, word, share, expected):
    written = page.evaluate(
        "([pack, ...values]) => import(`/extensions/${pack}/widgets/word_shares.js`)"
        ".then((module) => module.withShare(...values))",
        [pack_name, text, word, share],
    )
    assert written == expected


COLOURS = """
([pack, shares]) => import(`/extensions/${pack}/widgets/word_shares.js`).then(({ shareColour }) => {
    const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    return shares.map((share) => {
        pen.fillStyle = shareColour(share);
        pen.fillRect(0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
    });
})
"""


def luminance(colour):
    """WCAG's relative luminance."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_no_share_is_grey_and_all_stand_out_from_light_and_dark(page, pack_name):
    colours = page.evaluate(COLOURS, [pack_name, [n / 20 for n in range(21)]])
    assert all(max(colour) - min(colour) > 80 for colour in colours), colours
    assert colours[0][0] > colours[0][2] and colours[-1][2] > colours[-1][0], "amber to blue"
    for background in ((53, 53, 53), (34, 34, 34), (255, 255, 255)):
        under = luminance(background)
        for colour in colours:
            low, high = sorted((luminance(colour), under))
            assert (high + 0.05) / (low + 0.05) >= 2.8, (colour, background)
