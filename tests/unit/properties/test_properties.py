"""What holds for any words, numbers and files, not only for the examples that somebody thought of."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from support.tiny_models import WordClip
from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.inversion.schedule import SPACINGS, spaced_sigmas
from partedit_oir.core.oir.candidates import STRATEGIES, candidate_steps, compare, parse_steps, search_runs
from partedit_oir.core.oir.prompts import find_phrase, guided_prompt
from partedit_oir.core.oir.short_runs import Run
from partedit_oir.core.partedit.alignment import FollowSettings, align
from partedit_oir.core.partedit.prompt import parse_word_values, prompt_reader
from partedit_oir.core.partedit.published import where_to_get
from partedit_oir.core.partedit.token_files import load_token, save_token
from partedit_oir.core.partedit.tokens import PartToken
from partedit_oir.core.text import fold, plain_text, split_lines

CLIP: list[WordClip] = []
QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
WORDS = ["a", "red", "robot", "hat,", "blue-eyed", "man.", "男人", "été", "(green:1.2)", "7", "!"]
PROMPTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)


def words_of(text):
    CLIP.append(CLIP[0] if CLIP else WordClip())
    return prompt_reader(CLIP[0])(text)


# --- alignment ---------------------------------------------------------------------------------------------


@QUICK
@given(source=PROMPTS, edit=PROMPTS, changed=st.floats(0, 1))
def test_attention_that_is_taken_over_stays_attention(source, edit, changed):
    alignment = align(words_of(source), words_of(edit), FollowSettings(changed_words=changed))
    mapper, keep = alignment.mapper, alignment.keep
    assert mapper.shape == (77, 77) and bool(torch.isfinite(mapper).all()) and float(mapper.min()) >= 0
    assert float(keep.min()) >= 0 and float(keep.max()) <= 1
    if source == edit:
        assert torch.equal(mapper, torch.eye(77))


@QUICK
@given(prompt=PROMPTS)
def test_the_same_prompt_has_nothing_changed(prompt):
    words = words_of(prompt)
    assert float(align(words, words, FollowSettings(changed_words=0.0)).keep.max()) == 0.0


# --- words and numbers from widgets --------------------------------------------------------------------------


@QUICK
@given(text=st.text(max_size=40))
def test_lists_typed_by_hand_are_read_or_refused_by_name(text):
    for read in (lambda: parse_word_values(text, "word_fractions"), lambda: parse_steps(text, 2)):
        try:
            read()
        except ValueError as error:
            assert str(error).startswith(("word_fractions: ", "overrides: "))


@QUICK
@given(text=st.text(max_size=60))
def test_text_is_folded_and_split_without_loss(text):
    assert fold(fold(text)) == fold(text)
    lines = split_lines(text)
    assert all("\n" not in line and "\r" not in line for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assume(not set(text) & set("()\\:"))
    assert plain_text(text).split() == text.split()


@QUICK
@given(before=PROMPTS, phrase=st.sampled_from(["red robot", "男人", "hat", "été"]), after=PROMPTS)
def test_a_phrase_is_found_and_exchanged_where_it_stands(before, phrase, after):
    assume(fold(phrase) not in fold(before))
    prompt = f"{before} {phrase} {after}"
    span = find_phrase(prompt, phrase)
    assert prompt[slice(*span)] == phrase
    assert guided_prompt(prompt, span, "green dog") == f"{before} green dog {after}"


# --- schedule and search ---------------------------------------------------------------------------------------


class Table:
    sigmas = torch.exp(torch.linspace(-3.5, 2.7, 1000))


@QUICK
@given(steps=st.integers(-3, 1100), spacing=st.sampled_from(SPACINGS))
def test_levels_descend_or_the_steps_are_refused(steps, spacing):
    try:
        sigmas = spaced_sigmas(Table(), steps, spacing)
    except ValueError as error:
        assert str(error).startswith("steps: ") and (steps < 2 or steps > 333)
        return
    assert len(sigmas) == steps + 1 and bool((sigmas[1:] < sigmas[:-1]).all())
    assert float(sigmas[-1]) == float(Table.sigmas[0]) and float(sigmas[0]) >= float(Table.sigmas[500])


@QUICK
@given(
    scores=st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 0)), min_size=1, max_size=30),
    strategy=st.sampled_from(STRATEGIES),
)
def test_a_search_ends_and_looks_at_no_candidate_twice(scores, strategy):
    asked: list[Run] = []

    def evaluate(chosen):
        asked.extend(chosen)
        return {run: scores[run.step - 1] for run in chosen}

    candidates = candidate_steps(len(scores), 1, 0, 1)
    found = search_runs(candidates, strategy, evaluate)
    assert len(asked) == len(set(asked)) == len(found) and found
    full = {run.step for run in found if run.full}
    assert compare(candidates, found).chosen in full
    if strategy == "exhaustive":
        assert full == set(candidates) and len(found) == len(scores)


# --- files -------------------------------------------------------------------------------------------------------


def good_file():
    return save({"embedding": torch.randn(2, 64)}, {"parts": json.dumps(["head"]), "part_rows": "[1]"})


@QUICK
@given(data=st.data())
def test_a_damaged_token_file_is_refused_or_still_a_token(data, tmp_path):
    content = bytearray(good_file())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for suffix in (".safetensors", ".pt"):
        path = tmp_path / f"token{suffix}"
        path.write_bytes(bytes(content))
        try:
            token = load_token(path)
        except ValueError as error:
            assert path.name in str(error)
        else:
            assert isinstance(token, PartToken) and token.width >= 1


@QUICK
@given(content=st.binary(max_size=300), size=st.integers(0, 2**63))
def test_any_bytes_are_refused(content, size, tmp_path):
    path = tmp_path / "token.safetensors"
    path.write_bytes(struct.pack("<Q", size) + content)
    with pytest.raises(ValueError, match=r"token\.safetensors"):
        load_token(path)


@QUICK
@given(
    values=st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4),
    name=st.text(min_size=1, max_size=20),
)
def test_a_token_comes_back_from_its_file_whatever_its_words(values, name, tmp_path):
    assume(name.isprintable() and name.strip() == name)
    token = PartToken(torch.randn(2, 8), (1,), (name,), "demo", values)
    path = tmp_path / "token.safetensors"
    try:
        save_token(token, path)
    except (ValueError, UnicodeEncodeError):
        assert not path.exists() and not list(tmp_path.iterdir())
        return
    again = load_token(path)
    assert torch.equal(again.embedding, token.embedding) and again.part_rows == (1,)
    path.unlink()


@QUICK
@given(name=st.text(max_size=30))
def test_any_name_has_an_answer_from_the_index(name):
    answer = where_to_get(name, "models/part_tokens")
    assert answer is None or Path(name).stem.lower() in answer.lower()
