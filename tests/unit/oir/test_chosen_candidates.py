"""The search alone edits one object: its chosen candidates, all of them, and choosing another one by hand."""

from __future__ import annotations

import gc
import json

import pytest
import torch

from support.stand_ins import FakeScorer, FakeVae, two_objects
from tools.bootstrap import load_pack

load_pack()
from comfy_execution.graph_utils import ExecutionBlocker

from partedit_oir.core.decoding import picture_decoder
from partedit_oir.core.oir.making import make_candidates
from partedit_oir.core.oir.memory import TABLES, SearchMemory
from partedit_oir.nodes import step_search
from partedit_oir.nodes.step_search import InversionStepSearch

STEPS = 4
RANGE = (1, 0, 1)


@pytest.fixture
def setting():
    model, trajectory, pairs = two_objects(STEPS)
    return model, FakeVae(), trajectory, tuple(pairs), FakeScorer()


def search(setting, strategy="exhaustive", steps=RANGE, overrides="", cfg=3.0, **more):
    output = InversionStepSearch.execute(*setting, cfg, strategy, *steps, 4, "masked", False, overrides, **more)
    found, scores, image, latent, candidates = (output.args[place] for place in (0, 3, 4, 5, 6))
    return found, json.loads(scores), image, latent["samples"], candidates


def candidate(setting, pair, n, cfg=3.0):
    model, vae, trajectory, pairs, _ = setting
    latent = make_candidates(model, trajectory, pairs[pair], [n], cfg=cfg, batch_size=1)[0][n]
    return latent, picture_decoder(vae)(latent)


def test_the_chosen_candidates_come_as_picture_and_latent(setting):
    found, _, image, latent, candidates = search(setting)
    assert image.shape == (2, 64, 96, 3) and latent.shape == (2, 4, 8, 12)
    for pair, n in enumerate(found.chosen):
        expected, picture = candidate(setting, pair, n)
        assert torch.allclose(latent[pair], expected[0], atol=1e-5) and torch.allclose(image[pair], picture, atol=1e-5)
    assert not torch.allclose(latent[0], latent[1])
    assert isinstance(candidates, ExecutionBlocker) and "keep_candidates" in candidates.message


@pytest.mark.parametrize("strategy", ["exhaustive", "coarse-to-fine", "short-to-full"])
def test_every_candidate_on_demand(setting, strategy):
    found, _, image, _, candidates = search(setting, strategy, keep_candidates=True)
    order = [(pair, n) for pair, entry in enumerate(found.pairs) for n in entry.candidates]
    assert candidates.shape == (len(order), 64, 96, 3)
    for (pair, n), picture in zip(order, candidates):
        assert torch.allclose(picture, candidate(setting, pair, n)[1], atol=1e-5)
    for pair, entry in enumerate(found.pairs):
        assert torch.equal(image[pair], candidates[order.index((pair, entry.chosen))])


def test_choosing_by_hand_repeats_nothing(setting):
    first, scores, image, _, _ = search(setting)
    assert scores["unet_rows"] == 2 * 2 * sum(range(1, STEPS + 1))
    other = 3 if first.chosen[1] != 3 else 2
    setting[1].decoded = 0
    second, again, changed, latent, _ = search(setting, overrides=f"auto, {other}")
    assert again["unet_rows"] == 0 and setting[1].decoded == 3, "the picture itself and both chosen candidates"
    assert second.chosen == (first.chosen[0], other) and second.pairs[1].manual
    assert torch.equal(changed[0], image[0]) and not torch.equal(changed[1], image[1])
    expected, picture = candidate(setting, 1, other)
    assert torch.allclose(latent[1], expected[0], atol=1e-5) and torch.allclose(changed[1], picture, atol=1e-5)
    assert second.pairs[0].metric.total == first.pairs[0].metric.total
    assert [entry.remembered for entry in second.pairs] == [STEPS, 1]


def test_only_what_is_new_is_made(setting):
    _, few, _, _, _ = search(setting, steps=(2, 0, 2))
    assert few["unet_rows"] == 2 * 2 * (2 + 4)
    found, rest, _, _, candidates = search(setting, keep_candidates=True, edit_weight=2.0)
    assert rest["unet_rows"] == 2 * 2 * (1 + 3) and rest["edit_weight"] == 2.0
    assert [entry.remembered for entry in found.pairs] == [2, 2]
    for position, picture in enumerate(candidates[:STEPS]):
        assert torch.allclose(picture, candidate(setting, 0, position + 1)[1], atol=1e-5)
    model, vae, trajectory, pairs, scorer = setting
    fresh = InversionStepSearch.execute(
        model, vae, trajectory, pairs, scorer, 3.0, "exhaustive", *RANGE, 4, "masked", False, "", edit_weight=2.0
    ).args[0]
    assert [entry.metric.edit for entry in fresh.pairs] == [entry.metric.edit for entry in found.pairs]


@pytest.mark.parametrize("what", ["cfg", "model", "patched", "pair", "trajectory", "published_first"])
def test_what_a_candidate_depends_on_makes_it_anew(setting, what):
    from dataclasses import replace

    model, vae, trajectory, pairs, scorer = setting
    steps = (1, 3, 2)
    everything = search(setting, steps=steps)[1]["unet_rows"]
    rows, options = everything, {}
    if what == "cfg":
        options["cfg"] = 4.0
    elif what == "model":
        model = model.clone()
    elif what == "patched":
        name = next(name for name in model.model.state_dict() if name.endswith("input_blocks.0.0.weight"))
        model.add_patches({name: (torch.zeros_like(model.model.state_dict()[name]),)})
    elif what == "pair":
        pairs, rows = (pairs[0], replace(pairs[1])), everything // 2
    elif what == "trajectory":
        trajectory = replace(trajectory)
    changed = (model, vae, trajectory, pairs, scorer)
    if what == "published_first":
        args = (*changed, 3.0, "exhaustive", *steps, 4, "masked", True, "")
        found = json.loads(InversionStepSearch.execute(*args).args[3])
        rows -= 2 * 2 * 1
    else:
        found = search(changed, steps=steps, **options)[1]
    assert found["unet_rows"] == rows


@pytest.mark.parametrize("what", ["scorer", "vae", "mask_mode", "score_text"])
def test_what_a_score_depends_on_scores_anew(setting, what):
    model, vae, trajectory, pairs, scorer = setting
    search(setting)
    calls = len(scorer.calls)
    scorer, vae = (FakeScorer() if what == "scorer" else scorer), (FakeVae() if what == "vae" else vae)
    mode, text = "masked", "target phrase"
    if what == "mask_mode":
        mode = "published_bias"
    if what == "score_text":
        text = "guided prompt"
    args = (model, vae, trajectory, pairs, scorer, 3.0, "exhaustive", *RANGE, 4, mode, False, "")
    found = json.loads(InversionStepSearch.execute(*args, score_text=text).args[3])
    assert found["unet_rows"] == 0
    assert len(scorer.calls) - (0 if what == "scorer" else calls) == 2 + 2 * STEPS
    assert scorer.calls[-1].mode == mode
    assert scorer.calls[-1].text == ("a cat and a throne" if what == "score_text" else "throne")


def test_nothing_is_held_longer_than_what_it_came_from(monkeypatch):
    memory = SearchMemory()
    monkeypatch.setattr(step_search, "MEMORY", memory)
    model, trajectory, pairs = two_objects(STEPS)
    search((model, FakeVae(), trajectory, tuple(pairs), FakeScorer()), keep_candidates=True)
    gc.collect()
    # the VAE and the scorer have gone, so their scores went when a table was last looked for
    memory.table(pairs[0], (model,), "other")
    assert len(memory) == 2 * STEPS + STEPS
    del trajectory
    gc.collect()
    for pair in pairs:
        memory.table(pair, (model,), "other")
    assert len(memory) == 0
    del pair
    pairs.clear()
    gc.collect()
    assert not memory._tables


def test_a_pair_remembers_few_settings_only(setting):
    for cfg in range(2, 7):
        search(setting, steps=(1, 1, 1), cfg=float(cfg))
    assert len(step_search.MEMORY) == 2 * TABLES


def test_a_remembered_score_whose_candidate_has_gone_is_made_again(setting):
    """The table of candidates may be forgotten before that of their scores."""
    first = search(setting)[0]
    candidates, scores = step_search.MEMORY._tables[setting[3][0]]
    assert set(candidates.content) == set(scores.content) and len(scores.content) == STEPS
    candidates.content.clear()
    again = search(setting)[0]
    assert again.chosen == first.chosen and again.pairs[0].unet_rows == first.pairs[0].unet_rows > 0
    assert again.pairs[1].unet_rows == 0
