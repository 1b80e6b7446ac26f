"""Word alignment between a source prompt and its edits."""

from __future__ import annotations

import pytest
import torch

from support.tiny_models import WordClip


@pytest.fixture(scope="module")
def clip(pack):
    return WordClip()


@pytest.fixture(scope="module")
def words(clip):
    from partedit_oir.core.partedit.prompt import prompt_reader

    return prompt_reader(clip)


def test_words_and_positions(words):
    prompt = words("a closeup of a man, outdoors.")
    assert [w.text for w in prompt.words] == ["a", "closeup", "of", "a", "man,", "outdoors."]
    assert prompt.words[4].positions == (5, 6)  # the comma is a token of its own
    assert prompt.length == 77 and prompt.used == 10


def test_punctuation_is_a_word_of_its_own_in_the_alignment(words):
    from partedit_oir.core.partedit.alignment import align, auto_map

    source, edit = words("red hair, blue eyes"), words("red hair, blue eyes, glasses")
    _, keep, changes = auto_map(source, edit)
    assert changes == [("", "glasses")]
    assert keep.nonzero().flatten().tolist() == [6, 7]  # the comma and the word behind it
    found = align(source, edit)
    assert [found.cross_replace[p].item() for p in range(1, 8)] == [1.0] * 5 + [0.4] * 2
    assert "+ glasses" in found.text and "eyes ->" not in found.text
    for old, new, expected in [
        ("a man, outdoors.", "a robot, outdoors.", ("man", "robot")),
        ("red hair,blue eyes", "red hair,green eyes", ("blue", "green")),
        ("a “wooden” chair", "a “golden” chair", ("wooden", "golden")),
        ("(a man:1.2)! sits", "(a robot:1.2)! sits", ("man", "robot")),
        ("a 1.5m t-shirt", "a 1.5m robot's", ("t-shirt", "robot's")),
    ]:
        assert auto_map(words(old), words(new))[2] == [expected]


def test_replace_still_counts_words_at_spaces(words):
    """As the published code does: 'eyes' and 'eyes,' are one changed word."""
    from partedit_oir.core.partedit.alignment import replace_map

    source, edit = words("blue eyes here"), words("blue eyes, here")
    assert [w.text for w in edit.words] == ["blue", "eyes,", "here"]
    mapper = replace_map(source, edit)
    assert mapper[2, 2] == mapper[2, 3] == 0.5


def test_words_of_scripts_without_spaces_are_aligned_and_found(words):
    """A token that joins two characters belongs where it begins; '男人' are two tokens here, 一 and 个 two each."""
    from partedit_oir.core.partedit.alignment import FollowSettings, align

    source, edit = words("一个男人在海滩上"), words("一个机器人在海滩上")
    assert "".join(w.text for w in source.units) == "一个男人在海滩上" and len(source.units) > 4
    found = align(source, edit, FollowSettings(word_fractions={"机器人": 0.2}))
    changed = edit.find("机器人")
    assert 0 < len(changed) < len(edit.words[0].positions)
    assert all(found.cross_replace[p] == (0.2 if p in changed else 1.0) for p in range(edit.used))
    assert source.find("男") and not set(source.find("男")) & set(source.find("海滩"))


def test_both_sides_of_an_arrow_are_matched_whole_in_scripts_without_spaces(clip):
    """红色 -> 蓝色 changes the colour as a whole; 色 is not a word that stays."""
    from partedit_oir.core.partedit.alignment import FollowSettings
    from partedit_oir.core.partedit.prompt import build_edit_prompt

    def alignment(source, line):
        return build_edit_prompt(clip, source, [line], FollowSettings()).edits[0].prompts[0].alignment

    found = alignment("一个红色的机器人", "红色 -> 蓝色")
    shares = {thread.text: thread.share for thread in found.threads}
    assert shares["蓝色"] == pytest.approx(0.4) and "色" not in shares
    assert {share for text, share in shares.items() if text != "蓝色"} == {1.0}
    assert "红色 -> 蓝色" in found.text
    # Every token of the new word takes over from the tokens of the old one.
    place = [thread.text for thread in found.threads].index("蓝色")
    assert [found.source_words[n][0] for n in found.threads[place].sources] == ["红色"]
    twice = alignment("红色的猫和蓝色的狗", "红色 -> 蓝色")
    assert [(t.text, round(t.share, 1)) for t in twice.threads if "色" in t.text] == [("蓝色", 0.4), ("蓝色", 1.0)]
    assert [t.text for t in alignment("一个红的猫", "红 -> (红红:1.2)").threads if "红" in t.text] == ["红红"]
    # With spaces words are known, and stay apart.
    assert [t.share for t in alignment("a red robot", "red robot -> blue robot").threads] == pytest.approx([1, 0.4, 1])


def test_a_korean_word_is_found_before_its_particle(words):
    """And the whole word is meant: a particle is not a word of its own."""
    prompt = words("빨간 로봇이 해변에 있다")
    assert [w.text for w in prompt.words] == ["빨간", "로봇이", "해변에", "있다"]
    assert prompt.find("로봇") == prompt.words[1].positions and prompt.find("빨간 로봇") == (
        *prompt.words[0].positions,
        *prompt.words[1].positions,
    )
    assert prompt.find("변") == () == prompt.find("해")


def test_words_are_compared_in_one_normal_form(words):
    from partedit_oir.core.partedit.alignment import auto_map

    composed, decomposed = "a caf\u00e9 table", "a Cafe\u0301 chair"
    assert auto_map(words(composed), words(decomposed))[2] == [("table", "chair")]
    assert words(composed).find("CAFE\u0301") == words(decomposed).find("caf\u00e9") == (2,)


def test_a_phrase_is_found_with_and_without_its_punctuation(words):
    prompt = words("a red, hat and a man.")
    assert prompt.find("red hat") == (2, 4) and prompt.find("red, hat") == (2, 3, 4)
    assert prompt.find("man") == (7,) and prompt.find("man.") == (7, 8) and prompt.find("man!") == (7,)
    assert prompt.find(",") == (3,) and prompt.find("ma") == ()


def test_weights_and_long_prompts_keep_positions(words):
    plain, weighted = words("a red robot head"), words("a (red robot:1.3) head")
    assert [(w.text, w.positions) for w in plain.words] == [(w.text, w.positions) for w in weighted.words]
    long = words(" ".join(["stone"] * 80 + ["robot"]))
    assert long.length == 154
    # 75 words in the first section; the sixth of the second section is the robot, behind its start token.
    assert long.find("robot") == (77 + 1 + 5,)


def test_embeddings_count_as_one_word(pack, tmp_path):
    from comfy.sd1_clip import SD1Tokenizer
    from safetensors.torch import save_file

    from partedit_oir.core.partedit.prompt import prompt_reader

    save_file({"emb_params": torch.randn(3, 768)}, str(tmp_path / "moss.safetensors"))
    clip = WordClip()
    clip.tokenizer = SD1Tokenizer(embedding_directory=[str(tmp_path)])
    prompt = prompt_reader(clip)("a embedding:moss robot")
    assert [(w.text, w.positions) for w in prompt.words] == [
        ("a", (1,)),
        ("embedding:moss", (2, 3, 4)),
        ("robot", (5,)),
    ]
    # Loaded anew for every prompt, it is still the same word for the alignment of tokens.
    from partedit_oir.core.partedit.alignment import refine_map

    mapper, keep = refine_map(prompt, prompt_reader(clip)("a big embedding:moss robot"))
    assert keep.nonzero().flatten().tolist() == [2]
    assert [int(mapper[:, p].argmax()) for p in (3, 4, 5, 6)] == [2, 3, 4, 5]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_missing_embedding_is_logged_once_a_call(pack, tmp_path, caplog, family):
    from comfy.sd1_clip import SD1Tokenizer
    from comfy.sdxl_clip import SDXLTokenizer

    from partedit_oir.core.encoding import encode
    from partedit_oir.core.partedit.alignment import FollowSettings
    from partedit_oir.core.partedit.prompt import build_edit_prompt

    clip = WordClip()
    clip.tokenizer = {"sd1": SD1Tokenizer, "sdxl": SDXLTokenizer}[family](embedding_directory=[str(tmp_path)])

    def said() -> list[str]:
        messages = [record.getMessage() for record in caplog.records if "embedding:" in record.getMessage()]
        caplog.clear()
        return messages

    edits = ["a robot, embedding:moss", "a statue, embedding:moss"]
    build_edit_prompt(clip, "a man, embedding:moss", edits, FollowSettings())
    assert said() == ["warning, embedding:moss does not exist, ignoring"]
    build_edit_prompt(clip, "a man", edits, FollowSettings())
    assert len(said()) == 1  # each call says it anew
    encode(clip, "a man, embedding:moss")
    assert len(said()) == 1
    clip.tokenize("a man, embedding:moss")
    assert said()  # nothing stays behind that would hold warnings back


def test_only_repeated_warnings_of_this_thread_are_held_back(pack, caplog):
    import logging
    import threading

    from partedit_oir.core.encoding import warned_once

    with caplog.at_level(logging.INFO), warned_once():
        for level in (logging.WARNING, logging.INFO, logging.ERROR):
            for _ in range(2):
                logging.log(level, "%s", level)
        other = threading.Thread(target=logging.warning, args=("%s", logging.WARNING))
        other.start()
        other.join()
    assert [record.levelno for record in caplog.records] == [30, 20, 20, 40, 40, 30]


def test_replace_pairs_tokens_of_a_changed_word(words):
    from partedit_oir.core.partedit.alignment import replace_map

    mapper = replace_map(words("a man outdoors"), words("a robot outdoors"))
    assert torch.equal(mapper, torch.eye(77))
    # One token becomes three: it gives a third to each; behind it the identity on the edit's own positions.
    source, edit = words("a man outdoors"), words("a triceratops outdoors")
    new = edit.words[1].positions
    assert len(new) > 1
    mapper = replace_map(source, edit)
    assert torch.allclose(mapper[2, list(new)], torch.full((len(new),), 1 / len(new)))
    after = new[-1] + 1
    assert torch.equal(mapper[:, after:77].nonzero(), torch.eye(77)[:, after:77].nonzero())


def test_replace_refuses_unequal_word_counts(words):
    from partedit_oir.core.partedit.alignment import FollowSettings, align

    with pytest.raises(ValueError, match=r"prompt_to_prompt: 'replace'.*4 and.*3"):
        align(words("a man outdoors"), words("a big robot outdoors"), FollowSettings("replace"))


def test_refine_keeps_insertions_and_follows_the_rest(words):
    from partedit_oir.core.partedit.alignment import refine_map

    mapper, keep = refine_map(words("a robot outdoors"), words("a smiling robot outdoors"))
    assert keep.nonzero().flatten().tolist() == [2]
    assert mapper[:, 3].argmax() == 2 and mapper[:, 4].argmax() == 3 and mapper[:, 5].argmax() == 4
    assert mapper[:, 40].argmax() == 40


def follows(mapper):
    """Edit position → source position, for columns with a single 1; None for empty ones."""
    assert set(mapper.unique().tolist()) <= {0.0, 1.0} and (mapper.sum(dim=0) <= 1).all()
    return [int(column.argmax()) if column.any() else None for column in mapper.T]


def test_refine_by_hand(words):
    """Token rows by Needleman-Wunsch: a deletion, a replacement (an insertion and a deletion), and prompts of unequal
    length."""
    from partedit_oir.core.partedit.alignment import FollowSettings, align, refine_map

    def refined(source, edit):
        mapper, keep = refine_map(words(source), words(edit))
        found = align(words(source), words(edit), FollowSettings("refine"))
        assert torch.equal(found.mapper, mapper) and torch.equal(found.keep, keep)
        assert mapper.shape == (words(source).length, words(edit).length) == (len(mapper), len(keep))
        assert found.step(0, 10, (0, len(keep))).source_length == len(mapper)
        return follows(mapper), keep.nonzero().flatten().tolist()

    same = list(range(77))
    assert refined("a happy man", "a man") == ([0, 1, 3, 4, *same[4:]], [])
    assert refined("a man outdoors", "a robot outdoors") == ([0, 1, None, 3, *same[4:]], [2])
    long = " ".join(["stone"] * 80)
    # 1 start + 75 words and the end of the first section, then 1 start + 5 words and the end.
    assert refined(long, "stone stone")[0][-70:] == same[-70:]
    assert refined("stone stone", long)[0][84:] == [None] * 70 and refined("stone stone", long)[1][-70:] == [
        *range(84, 154)
    ]


def test_no_word_is_lost_where_the_edit_is_longer_than_the_source(words):
    """Behind the source's 77 positions there is nothing to follow: with 'replace', such words had no attention."""
    from partedit_oir.core.partedit.alignment import MODES, FollowSettings, align

    source, edit = words("robot" + " stone" * 74), words("triceratops" + " stone" * 74)
    assert (source.length, edit.length) == (77, 154)
    for mode in set(MODES) - {"off"}:
        found = align(source, edit, FollowSettings(mode))
        assert ((found.mapper.sum(dim=0) > 0) | (found.keep > 0)).all(), mode
    found = align(source, edit, FollowSettings("replace"))
    assert not found.keep[:77].any() and found.keep[77:].all() and not found.mapper[:, 77:].any()


def test_auto_handles_phrases_insertions_and_deletions(words):
    from partedit_oir.core.partedit.alignment import auto_map

    mapper, keep, changes = auto_map(words("a man in a field"), words("a big robot in a field"))
    assert changes == [("man", "big robot")]
    assert mapper[2, 2] == mapper[2, 3] == 0.5
    assert mapper[:, 4].argmax() == 3  # "in", moved by one
    mapper, keep, changes = auto_map(words("a man"), words("a man smiling"))
    assert changes == [("", "smiling")] and keep[3] == 1
    _, _, changes = auto_map(words("a happy man"), words("a man"))
    assert changes == [("happy", "")]
    # The end token follows the end token, the first padding the first padding.
    mapper, *_ = auto_map(words("a man"), words("a man smiling"))
    assert mapper[:, 4].argmax() == 3 and mapper[:, 5].argmax() == 4
    # Of a shorter edit, the last padding follows the last one.
    mapper, keep, _ = auto_map(words("a happy man"), words("a man"))
    assert follows(mapper)[-3:] == [75, 76, 76] and not keep.any()
    # A second section's start follows nothing; its end token follows the source's.
    mapper, keep, _ = auto_map(words("stone"), words("stone" + " robot" * 80))
    assert follows(mapper)[76:78] == [76, None] and keep[77] == 1 and follows(mapper)[84:87] == [2, 3, 4]


def test_attention_that_is_taken_over_still_sums_to_one(words):
    from partedit_oir.core.partedit.alignment import auto_map

    for edit in ("a robot in a wide field", "a very old robot", "a man in a field"):
        source = words("a man in a field")
        mapper, keep, _ = auto_map(source, words(edit))
        # A word takes all of its counterpart's attention, whatever their numbers of tokens.
        content = [p for w in source.words for p in w.positions]
        assert all(mapper[p].sum() in (0.0, 1.0) for p in content)
        assert set(keep.tolist()) <= {0.0, 1.0} and not bool((mapper.sum(dim=0) * keep).any())


def test_fractions_per_word_and_phrase(words):
    from partedit_oir.core.partedit.alignment import FollowSettings, align

    found = align(
        words("a man outdoors"), words("a red robot outdoors"), FollowSettings(cross_replace=1.0, changed_words=0.4)
    )
    assert [found.cross_replace[p].item() for p in (1, 2, 3, 4)] == [1.0, 0.4, 0.4, 1.0]
    found = align(
        words("a man outdoors"), words("a red robot outdoors"), FollowSettings(word_fractions={"red robot": 0.25})
    )
    assert [found.cross_replace[p].item() for p in (1, 2, 3, 4)] == [1.0, 0.25, 0.25, 1.0]
    assert found.weights.tolist() == [1.0] * 77
    found = align(words("a man"), words("a robot"), FollowSettings(cross_replace=0.7, changed_words=None))
    assert found.cross_replace.unique().tolist() == [0.7]
    found = align(
        words("a man outdoors"), words("a red robot outdoors"), FollowSettings(word_fractions={"red robot": 0.25})
    )
    # A fraction f holds for steps 0 … int(f·(steps + 1)) − 1.
    assert [bool(found.step(i, 10, (0, 77)).gate[2]) for i in range(10)] == [True] * 2 + [False] * 8
    assert [bool(found.step(i, 10, (0, 77)).gate[1]) for i in range(10)] == [True] * 10


def test_self_attention_fraction(words):
    from partedit_oir.core.partedit.alignment import FollowSettings, align

    found = align(words("a man"), words("a robot"), FollowSettings(self_replace=0.5))
    assert [found.replaces_self(i, 5) for i in range(5)] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"word_fractions": {"dragon": 0.5}}, "word_fractions: 'dragon' does not occur"),
        ({"word_weights": {"dragon": 2}}, "word_weights: 'dragon'"),
        ({"word_weights": {"robot": float("nan")}}, "word_weights: the weight of 'robot' is nan"),
        ({"cross_replace": 1.5}, "^cross_replace: .* 1.5"),
        ({"word_fractions": {"robot": 1.5}}, r"^word_fractions: .* got robot=1.5\. Write for example robot=0.4"),
        # A phrase may read like a setting: neither hides the other.
        ({"changed_words": 2.0, "word_fractions": {"changed_words": 0.5}}, "^changed_words: .* got 2.0"),
        ({"mode": "swap"}, "prompt_to_prompt: 'swap'"),
    ],
)
def test_settings_that_do_not_fit(words, settings, message):
    from partedit_oir.core.partedit.alignment import FollowSettings, align

    with pytest.raises(ValueError, match=message):
        align(words("a man"), words("a robot"), FollowSettings(**settings))


def test_the_alignment_can_be_read(words):
    from partedit_oir.core.partedit.alignment import FollowSettings, align

    text = align(words("a man outdoors"), words("a red robot outdoors"), FollowSettings(word_weights={"red": 2.0})).text
    assert "man -> red robot" in text and "40%" in text and "red x2" in text
    assert "no word in common" in align(words("man"), words("robot")).text


def test_build_edit_prompt_with_several_lines(clip):
    from partedit_oir.core.partedit.alignment import FollowSettings
    from partedit_oir.core.partedit.prompt import build_edit_prompt

    follow = FollowSettings(word_fractions={"robot": 0.2})
    prompt = build_edit_prompt(clip, "a man outdoors", ["a robot outdoors", "", "a statue outdoors"], follow)
    assert [edit.text for edit in prompt.edits] == ["a robot outdoors", "a statue outdoors"]
    assert prompt.edits[0].prompts[0].alignment.cross_replace[2] == 0.2
    assert prompt.edits[1].prompts[0].alignment.cross_replace[2] == 0.4
    with pytest.raises(ValueError, match="edit: is empty"):
        build_edit_prompt(clip, "a man", [" "], FollowSettings())


@pytest.mark.parametrize("name", ["word_fractions", "word_weights"])
@pytest.mark.parametrize("mode", ["auto", "replace", "refine", "off"])
@pytest.mark.parametrize("edits", [["a robot outdoors"], ["a robot outdoors", "a statue outdoors"]])
def test_a_word_that_no_edit_has_is_an_error_that_names_it(clip, name, mode, edits):
    from partedit_oir.core.partedit.alignment import FollowSettings
    from partedit_oir.core.partedit.prompt import build_edit_prompt

    with pytest.raises(ValueError, match=rf"{name}: 'robt' does not occur.*a, robot, outdoors") as error:
        build_edit_prompt(clip, "a man outdoors", edits, FollowSettings(mode, **{name: {"robt": 0.4}}))
    assert all(text in str(error.value) for text in edits)


def test_off_says_that_words_have_no_effect(clip):
    from partedit_oir.core.partedit.alignment import FollowSettings
    from partedit_oir.core.partedit.prompt import build_edit_prompt

    prompt = build_edit_prompt(clip, "a man", ["a robot"], FollowSettings("off", word_fractions={"robot": 0.4}))
    assert "fractions and weights of words have no effect" in prompt.alignment_text


def test_word_values_are_parsed_or_refused():
    from partedit_oir.core.partedit.prompt import parse_word_values

    assert parse_word_values("robot=0.4, red hat = 1", "n") == {"robot": 0.4, "red hat": 1.0}
    assert parse_word_values("", "n") == {}
    for bad in ("robot", "robot=x", "=0.5"):
        with pytest.raises(ValueError, match=r"^word_fractions: .*robot=0\.4"):
            parse_word_values(bad, "word_fractions")
    with pytest.raises(ValueError, match="word_weights: 'Robot' is given twice"):
        parse_word_values("robot=0.4, Robot=0.8", "word_weights")


def test_joining_pictures_and_parts(clip):
    from partedit_oir.core.partedit.alignment import FollowSettings
    from partedit_oir.core.partedit.prompt import build_edit_prompt

    def build(text, part):
        return build_edit_prompt(clip, "a man", [text], FollowSettings(), part)

    head, torso = build("a robot man", ("head",)), build("a wooden man", ("torso",))
    both = head.with_same_picture([p for e in torso.edits for p in e.prompts])
    assert len(both.edits) == 1 and [p.parts for p in both.edits[0].prompts] == [("head",), ("torso",)]
    assert len(head.with_new_pictures(torso.edits).edits) == 2
    with pytest.raises(ValueError, match="part: prompts that share an image"):
        head.with_same_picture([p for e in head.edits for p in e.prompts])
