"""What S_e compares the masked object with: the target phrase (published code) or the guided prompt (paper)."""

from __future__ import annotations

import pytest

from support.stand_ins import FakeScorer, FakeVae, two_objects
from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.decoding import picture_decoder
from partedit_oir.core.oir.search import search_steps
from partedit_oir.core.oir.search_settings import SearchSettings
from partedit_oir.nodes.step_search import InversionStepSearch


def scored(**settings):
    model, trajectory, pairs = two_objects(6)
    scorer, decode = FakeScorer(), picture_decoder(FakeVae())
    options = SearchSettings(batch_size=4, stride=3, **settings)
    result = search_steps(model, trajectory, pairs, decode, scorer, options)
    return {call.text for call in scorer.calls}, pairs, result


def test_the_guided_prompt_can_be_what_is_scored():
    texts, pairs, result = scored(score_text="guided prompt")
    assert texts == {pair.guided_prompt for pair in pairs}
    assert result.to_dict()["score_text"] == "guided prompt"


def test_the_target_phrase_stays_the_default():
    """Saved workflows have no value for it."""
    texts, pairs, result = scored()
    assert texts == {pair.target_phrase for pair in pairs}
    assert result.to_dict()["score_text"] == "target phrase"
    entry = next(one for one in InversionStepSearch.define_schema().inputs if one.id == "score_text")
    assert entry.default == "target phrase" and entry.optional


def test_another_text_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match="score_text: 'source prompt' is not one of target phrase, guided prompt"):
        scored(score_text="source prompt")
