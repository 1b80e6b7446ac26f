"""What S_e compares the masked object with: the target phrase (published code) or the guided prompt (paper)."""

from __future__ import annotations

import pytest

from support.stand_ins import FakeScorer, FakeVae, two_objects


def scored(pack_search, **settings):
    model, trajectory, pairs = two_objects(6)
    scorer, decode = FakeScorer(), pack_search.picture_decoder(FakeVae())
    options = pack_search.SearchSettings(batch_size=4, stride=3, **settings)
    result = pack_search.search_steps(model, trajectory, pairs, decode, scorer, options)
    return {call.text for call in scorer.calls}, pairs, result


def test_the_guided_prompt_can_be_what_is_scored(pack):
    from partedit_oir.core.oir import search

    texts, pairs, result = scored(search, score_text="guided prompt")
    assert texts == {pair.guided_prompt for pair in pairs}
    assert result.to_dict()["score_text"] == "guided prompt"


def test_the_target_phrase_stays_the_default(pack):
    """Saved workflows have no value for it."""
    from partedit_oir.core.oir import search
    from partedit_oir.nodes.step_search import InversionStepSearch

    texts, pairs, result = scored(search)
    assert texts == {pair.target_phrase for pair in pairs}
    assert result.to_dict()["score_text"] == "target phrase"
    entry = next(one for one in InversionStepSearch.define_schema().inputs if one.id == "score_text")
    assert entry.default == "target phrase" and entry.optional


def test_another_text_is_refused_before_anything_runs(pack):
    from partedit_oir.core.oir import search

    with pytest.raises(ValueError, match="score_text: 'source prompt' is not one of target phrase, guided prompt"):
        scored(search, score_text="source prompt")
