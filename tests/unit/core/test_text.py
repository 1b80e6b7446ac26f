"""How prompts are read as words, by hand."""

from __future__ import annotations

import pytest

from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.text import find_words, fold, is_punctuation, plain_text, split_punctuation


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("eyes,", ["eyes", ","]),
        ("t-shirt", ["t-shirt"]),
        ("robot's", ["robot's"]),
        ("1.5m", ["1.5m"]),
        ("a_b", ["a_b"]),
        ("a.b", ["a", ".", "b"]),
        ("-a-", ["-", "a", "-"]),
        ("1.", ["1", "."]),
        ("what?!)", ["what", "?!)"]),
        ("猫色", ["猫", "色"]),
        ("embedding:style,,", ["embedding:style", ",,"]),
        ("embedding:a.b-c", ["embedding:a.b-c"]),
    ],
)
def test_punctuation_is_split_from_words(word, parts):
    assert split_punctuation(word) == parts


def test_texts_are_compared_without_case_form_and_invisible_characters():
    assert fold("Cafe\u0301") == fold("CAF\u00c9") == "caf\u00e9"
    assert fold("\uff21\uff22") == "ab" and fold("Stra\u00dfe") == "strasse"
    assert fold("a\u200db\u2764\ufe0f") == "ab\u2764"
    assert [is_punctuation(text) for text in ("!?,", "a!", "+", "\U0001f642")] == [True, False, False, False]


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("a catalog cat", "cat", [(10, 13)]),
        ("snow_cat cat", "CAT", [(9, 12)]),
        ("red\n  hat, a red hat", "Red hat", [(0, 9), (13, 20)]),
        ("a cat", "\u200b cat", [(2, 5)]),
        ("cafe\u0301", "cafe", []),
        ("a cat", "", []),
        ("a cat", " \u200b ", []),
        ("黑猫和猫", "猫", [(1, 2), (3, 4)]),
    ],
)
def test_phrases_are_found_as_whole_words(text, phrase, found):
    assert find_words(text, phrase) == found


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a (green dog:1.4), embedding:style", "a green dog"),
        ("embedding:x, a cat,, embedding:y, dog", "a cat, dog"),
        ("a embedding:x cat", "a cat"),
        ("  a cat,, \n", "a cat,,"),
        ("a \\(big\\) ((cat))", "a (big) cat"),
        ("(embedding:x:0.5)", ""),
    ],
)
def test_prompts_as_plain_words(prompt, words):
    assert plain_text(prompt) == words
