"""Lines of edits as people write them: whole prompts, replacements, and names of parts in angle brackets."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from support.tiny_edits import blend_guider, token
from support.tiny_models import WordClip, text_conditioning, tiny_sdxl
from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.partedit.alignment import FollowSettings
from partedit_oir.core.partedit.edit_lines import read_edit_line
from partedit_oir.core.partedit.prompt import build_edit_prompt
from partedit_oir.core.partedit.tokens import combine
from partedit_oir.nodes.prompt import PartEditPrompt

SOURCE = "a closeup of a man outdoors"
QUICK = settings(max_examples=200, deadline=None, derandomize=True)


def read(line, source=SOURCE):
    found = read_edit_line(line, source)
    return found.text, found.parts


@pytest.mark.parametrize(
    "line, text, parts",
    [
        ("man -> robot", "a closeup of a robot outdoors", ()),
        ("man->robot", "a closeup of a robot outdoors", ()),
        ("  Man  ->  red robot ", "a closeup of a red robot outdoors", ()),
        ("a man -> two robots", "a closeup of two robots outdoors", ()),
        ("man -> robot <head>", "a closeup of a robot outdoors", ("head",)),
        ("man -> robot<head>", "a closeup of a robot outdoors", ("head",)),
        ("man <head> -> robot", "a closeup of a robot outdoors", ("head",)),
        ("man -> (robot:1.2) <head>", "a closeup of a (robot:1.2) outdoors", ("head",)),
        ("man -> (robot <head>:1.2)", "a closeup of a (robot:1.2) outdoors", ("head",)),
        ("man -> embedding:moss robot <human head>", "a closeup of a embedding:moss robot outdoors", ("human head",)),
        ("with a robotic <head>", "a closeup of a man outdoors with a robotic", ("head",)),
        ("With a robotic head <head>", "a closeup of a man outdoors With a robotic head", ("head",)),
        ("A closeup of a man with a robotic <head>", "A closeup of a man with a robotic", ("head",)),
        ("a robot <head> and <upper_torso> outdoors", "a robot and outdoors", ("head", "upper_torso")),
        ("a <head> <head> robot", "a robot", ("head",)),
        ("<head> a robot", "a robot", ("head",)),
        ("(<head> a robot:1.1), <left arm>", "(a robot:1.1),", ("head", "left arm")),
        ("a robot <head>, outdoors", "a robot, outdoors", ("head",)),
        ("an old <head>robot", "an old robot", ("head",)),
        (r"a robot with \<head> on its chest", "a robot with <head> on its chest", ()),
        (r"a sign that reads 'man \-> robot' <head>", "a sign that reads 'man -> robot'", ("head",)),
        ("man → robot <head>", "a closeup of a robot outdoors", ("head",)),
        ("man⟶robot", "a closeup of a robot outdoors", ()),
        ("man －＞ robot ＜head＞", "a closeup of a robot outdoors", ("head",)),
        ("man -》 robot", "a closeup of a robot outdoors", ()),
        (r"a sign: 'man \→ robot', \＜head＞", "a sign: 'man → robot', ＜head＞", ()),
        (r"man -> sign '\->' and '\<b>'", "a closeup of a sign '->' and '<b>' outdoors", ()),
    ],
)
def test_lines_are_read(line, text, parts):
    assert read(line) == (text, parts)


@pytest.mark.parametrize(
    "line",
    [
        "a closeup of a robot outdoors",
        "with a robotic head",
        "I <3 robots, 1 < 2 > 0, x<y>z, 2<x>3",
        "a robot (man:1.2), \\(old\\), [x], {a|b}, a\\b",
        "a --> b, a <-> b, a <- b, a ->> b, a - > b",
        "a => b, a ==> b, a <=> b, a >= b, a = > b, a ⇒ b, a ← b",
        "<lora:robot:0.8>, a robot",
        "a <b, c> d, <0.5>, <>, < head >, <|endoftext|>, <-x>, </b>",
        "a robot<",
        "机器人，1 < 2，《头》",
        "embedding:moss, a robot",
    ],
)
def test_prompts_without_the_new_forms_stay_as_they_are(line):
    assert read(line) == (line, ())
    assert read(f" {line}\t") == (line, ())


def test_words_of_other_scripts():
    assert read("男人 -> 机器人<头>", "一个男人在户外") == ("一个机器人在户外", ("头",))
    assert read("机器人<头部>在户外", "一个男人") == ("机器人在户外", ("头部",))
    assert read("e\u0301te\u0301 -> hiver", "un \u00e9t\u00e9, l'\u00e9t\u00e9") == ("un hiver, l'hiver", ())
    assert read("男人 -> 机器人 < 头", "一个男人") == ("一个机器人 < 头", ())


def test_what_a_replacement_finds_and_leaves_alone():
    source = "a (man:1.2) beside a man, (embedding:man:1.2), embedding:man-2, womanly"
    assert read("man -> robot", source)[0] == (
        "a (robot:1.2) beside a robot, (embedding:man:1.2), embedding:man-2, womanly"
    )
    assert read("embedding:man -> moss", source)[0] == "a (man:1.2) beside a man, (moss:1.2), embedding:man-2, womanly"
    assert read("(man:1.2) -> man", source)[0].startswith("a man beside a man")
    with pytest.raises(ValueError, match=r"edit: '1\.2 -> 3' replaces '1\.2', which does not occur"):
        read("1.2 -> 3", source)
    assert read("a man -> robots", "a\n man, A  Man")[0] == "robots, robots"


@pytest.mark.parametrize(
    "line, words",
    [
        ("-> robot", "edit: '-> robot' has nothing before '->'. Write the words of the source prompt to replace"),
        ("man ->", "edit: 'man ->' has nothing after '->'. Write the words to put there"),
        ("->", "has nothing before"),
        ("man -> <head>", "has nothing after"),
        ("man →", "edit: 'man →' has nothing after '→'. Write the words to put there: 'man -> robot'. "),
        ("<head> -> robot", "has nothing before"),
        (
            "cat -> dog",
            "edit: 'cat -> dog' replaces 'cat', which does not occur in the source prompt 'a closeup of a man",
        ),
        ("ma -> robot", "replaces 'ma', which does not occur"),
        ("man -> robot -> statue", "has 2 '->', but a line has one replacement"),
        ("<head>", "edit: '<head>' names a part but no edit. Write what to turn it into: 'man -> robot <head>'"),
        (" <head> <torso> ", "names a part but no edit"),
    ],
)
def test_lines_that_say_nothing_sensible_are_errors(line, words):
    with pytest.raises(ValueError) as info:
        read(line)
    assert words in str(info.value)


@pytest.mark.parametrize("arrow", ["=>", "⇒"])
def test_an_arrow_that_replaces_nothing_gets_a_remark(arrow):
    line = f"man {arrow} robot"
    assert read_edit_line(line, SOURCE).notes == (
        f"note: {arrow} is encoded as text; a replacement is written 'man -> robot'",
    )
    assert not read_edit_line("a >= b, man --> robot, a <=> b", SOURCE).notes


@pytest.mark.parametrize("line", ["with a robotic 《head》", "man -> robot 〈head〉"])
def test_brackets_of_titles_stay_text_with_a_remark(line):
    """An input method makes them of '<' and '>'; but 《红楼梦》 is the title of a book."""
    found = read_edit_line(line, SOURCE)
    assert found.parts == () and line[-6:] in found.text
    assert found.notes == (f"note: {line[-6:]} is encoded as text; a part of the token is written <head>",)
    assert not read_edit_line("man -> robot ＜head＞", SOURCE).notes


def test_a_replacement_needs_a_source():
    with pytest.raises(ValueError, match="does not occur in the source prompt ''"):
        read("man -> robot", "")
    assert read("with a robotic <head>", "") == ("with a robotic", ("head",))
    assert read("with a robotic <head>", "a man outdoors. ") == ("a man outdoors with a robotic", ("head",))


# --- what holds for any words --------------------------------------------------------------------------------

OLD = st.text(st.characters(exclude_characters="<>\\\r\n", exclude_categories=["Cs", "Cc"]), min_size=1)
SIGNS = ["a", "<", ">", "3", " ", "-", "=", "x<y>z", "<3", "< a >", "<1>", "(", ":"]
MATHS = st.lists(st.sampled_from(SIGNS)).map("".join)
KNOWN = st.lists(st.sampled_from(["a", "ace", "bed", "eda", "été", "男人", "7"]), min_size=1, max_size=8)
WORD = st.text("abcdeé男头", min_size=1, max_size=4)
PROMPT = st.lists(WORD, min_size=1, max_size=8)


@QUICK
@given(line=OLD, source=st.text())
def test_without_brackets_and_arrows_a_line_is_the_prompt(line, source):
    assume(line.strip())
    assert read(line, source) == (line.strip(), ())


@QUICK
@given(line=MATHS, source=st.text())
def test_signs_of_mathematics_are_text(line, source):
    assume(line.strip() and "->" not in line)
    assume(not re.search(r"<a[a3 -]*>", line))  # a name
    assert read(line, source) == (line.strip(), ())


@QUICK
@given(words=KNOWN, new=PROMPT, place=st.integers(0, 7), name=WORD)
def test_a_replacement_replaces_its_words_and_nothing_else(words, new, place, name):
    old = words[place % len(words)]
    expected = " ".join(" ".join(new) if word == old else word for word in words)
    line = f"{old} -> {' '.join(new)}"
    assert read(line, " ".join(words)) == (expected, ())
    assert read(f"{line} <{name}>", " ".join(words)) == (expected, (name,))


@QUICK
@given(words=PROMPT, place=st.integers(0, 8), name=WORD)
def test_a_name_in_brackets_is_taken_out_and_the_words_stay(words, place, name):
    assume(words[0] != "with")
    at = place % (len(words) + 1)
    text, parts = read(" ".join([*words[:at], f"<{name}>", *words[at:]]))
    assert (text, parts) == (" ".join(words), (name,))
    escaped = " ".join([*words[:at], rf"\<{name}>", *words[at:]])
    assert read(escaped) == (escaped.replace("\\", ""), ())


@QUICK
@given(line=st.text(st.sampled_from("a b<>-\\()1:,男"), min_size=1), source=st.sampled_from(["a b", "", "男a", "b<b>"]))
def test_any_line_is_read_or_refused_by_name(line, source):
    assume(line.strip())
    try:
        found = read_edit_line(line, source)
    except ValueError as error:
        assert str(error).startswith("edit: ")
        return
    assert found.text == found.text.strip() and found.text
    assert all(part and part == part.strip() for part in found.parts)


# --- on the way to the sampler -------------------------------------------------------------------------------


class Listening(WordClip):
    """Remembers what reaches the text encoder."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def tokenize(self, text, return_word_ids=False, **kwargs):
        self.heard.append(text)
        return super().tokenize(text, return_word_ids, **kwargs)


def test_names_of_parts_go_to_the_sampler_and_not_to_the_text_encoder():
    clip = Listening()
    lines = "man -> robot <head>\nwith a wooden <torso>\nman -> statue\na closeup of a (robot:1.2) outdoors <foot>"
    prompt, _, alignment = PartEditPrompt.execute(clip, SOURCE, lines, part="tail").result
    assert [part.text for edit in prompt.edits for part in edit.prompts] == [
        "a closeup of a robot outdoors",
        "a closeup of a man outdoors with a wooden",
        "a closeup of a statue outdoors",
        "a closeup of a (robot:1.2) outdoors",
    ]
    assert [edit.prompts[0].parts for edit in prompt.edits] == [("head",), ("torso",), ("tail",), ("foot",)]
    assert not any(word in text for text in clip.heard for word in ("head", "torso", "foot", "tail", "<", "->"))
    assert [line.strip() for line in alignment.splitlines() if "part:" in line] == [
        "part: head",
        "part: torso",
        "part: tail",
        "part: foot",
    ]
    assert "man -> robot" in alignment


def test_a_replacement_is_the_same_edit_as_the_prompt_written_out():
    follow = FollowSettings(word_fractions={"robot": 0.2})
    short, long = (
        build_edit_prompt(WordClip(), SOURCE, [line], follow).edits[0].prompts[0]
        for line in ("man -> robot", "a closeup of a robot outdoors")
    )
    assert short.text == long.text and torch.equal(short.conditioning[0][0], long.conditioning[0][0])
    assert torch.equal(short.alignment.mapper, long.alignment.mapper)
    assert torch.equal(short.alignment.cross_replace, long.alignment.cross_replace)


def test_a_replacement_uses_the_source_of_previous_edits():
    first = PartEditPrompt.execute(WordClip(), SOURCE, "man -> robot <head>").result[0]
    both = PartEditPrompt.execute(
        WordClip(), "ignored", "man -> statue <torso>", previous=first, join="same picture"
    ).result[0]
    assert [(part.text, part.parts) for part in both.edits[0].prompts] == [
        ("a closeup of a robot outdoors", ("head",)),
        ("a closeup of a statue outdoors", ("torso",)),
    ]


def test_a_lora_in_the_prompt_stays_text_and_is_remarked_on(caplog):
    with caplog.at_level(logging.WARNING):
        prompt = build_edit_prompt(WordClip(), SOURCE, ["man -> robot <lora:metal:0.8> <head>"], FollowSettings())
    part = prompt.edits[0].prompts[0]
    assert (part.text, part.parts) == ("a closeup of a robot <lora:metal:0.8> outdoors", ("head",))
    said = "<lora:metal:0.8> is encoded as text and loads nothing"
    assert said in prompt.alignment_text and sum(said in message for message in caplog.messages) == 1


def edits(*lines):
    class Encoder(WordClip):
        def encode_from_tokens_scheduled(self, tokens):
            return text_conditioning(str(len(str(tokens))))

    return build_edit_prompt(Encoder(), SOURCE, lines, FollowSettings())


def test_a_part_that_the_token_does_not_have_is_named_before_sampling():
    model, both = tiny_sdxl(), combine([token("animal head"), token("torso")])
    with pytest.raises(
        ValueError, match=r"part: tail is not in the part token, which has: animal head, torso\. .*\\<tail>"
    ):
        blend_guider(model, edits("man -> robot", "man -> robot <tail>"), token=both)
    two = combine([token("animal head"), token("robot_head")])
    with pytest.raises(ValueError, match="part: head may be any of animal head, robot_head in the part token"):
        blend_guider(model, edits("man -> robot <head>"), token=two)
    blend_guider(model, edits("man -> robot <Robot head>"), token=two)
    same = edits("man -> robot <head>").with_same_picture(edits("man -> statue <animal head>").edits[0].prompts)
    with pytest.raises(ValueError, match="part: head and animal head are the same part of the token, animal head"):
        blend_guider(model, same, token=both)
    # A given mask says where; no token is asked.
    blend_guider(model, edits("man -> robot <tail>"), mask=torch.ones(1, 16, 16))


def test_names_pick_the_part_whose_mask_is_used():
    from support.tiny_edits import sample

    model, both = tiny_sdxl(), combine([token("animal head"), token("torso")])
    guider = blend_guider(model, edits("man -> robot <head>", "man -> robot <Torso>", "man -> robot"), token=both)
    sample(guider)
    head, torso, whole = guider.last_masks.edit_masks()[:, 0]
    maps = {name: edits(f"man -> robot <{name}>") for name in ("animal head", "torso")}
    for name, mask in (("animal head", head), ("torso", torso)):
        alone = blend_guider(model, maps[name], token=both)
        sample(alone)
        assert torch.allclose(alone.last_masks.edit_masks()[0, 0], mask, atol=1e-4)
    assert not torch.allclose(head, torso) and not torch.allclose(head, whole)


def test_shorter_names_of_parts():
    many = combine([token("animal head"), token("left arm"), token("arm"), token("Human_Torso")])
    for name, index in (("head", 0), ("Left Arm", 1), ("arm", 2), ("human-torso", 3), ("torso", 3), ("Human_Torso", 3)):
        assert many.part_indices((name,)) == (index,), name
    for name in ("he", "right arm", "", "head torso", "-"):
        with pytest.raises(ValueError, match="is not in the part token"):
            many.part_indices((name,))
