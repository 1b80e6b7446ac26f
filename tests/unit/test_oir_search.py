"""Optimal inversion step search: which candidates run, what is reported, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from bench.stand_ins import FakeScorer, FakeVae, latent, make_pair, make_trajectory, two_objects

STEPS = 12


@pytest.fixture(scope="module")
def search(pack):
    from partedit_oir.core.oir import search

    return search


@pytest.fixture(scope="module")
def setting(pack):
    return two_objects(STEPS)


def run(search, setting, pairs=None, scorer=None, vae=None, on_candidate=None, **settings):
    model, trajectory, own = setting
    vae = vae or FakeVae()
    return search.search_steps(
        model,
        trajectory,
        own if pairs is None else pairs,
        search.picture_decoder(vae),
        scorer or FakeScorer(),
        search.SearchSettings(batch_size=4, **settings),
        on_candidate=on_candidate,
    )


def test_exhaustive_search_looks_at_all_and_counts_the_rows(search, setting):
    result = run(search, setting, strategy="exhaustive")
    assert [entry.candidates for entry in result.pairs] == [tuple(range(1, STEPS + 1))] * 2
    assert result.unet_rows == result.exhaustive_rows == 2 * 2 * sum(range(1, STEPS + 1))
    for entry in result.pairs:
        assert entry.chosen == entry.best == entry.candidates[entry.total.index(max(entry.total))]
        for values in (entry.edit_norm, entry.keep_norm):
            assert (min(values), max(values)) == (0.0, 1.0)
        assert entry.total == pytest.approx([a + b for a, b in zip(entry.edit_norm, entry.keep_norm)])
        assert entry.keep[0] > entry.keep[-1], "more steps change more"


def test_coarse_to_fine_reports_what_really_ran(search, setting):
    full, quick = (run(search, setting, strategy=name) for name in ("exhaustive", "coarse-to-fine"))
    assert quick.exhaustive_rows == full.unet_rows
    for all_of, some in zip(full.pairs, quick.pairs):
        assert set(some.candidates) < set(all_of.candidates)
        assert some.unet_rows == 2 * sum(some.candidates) < all_of.unet_rows
        for n, score in zip(some.candidates, some.edit):
            assert score == pytest.approx(all_of.edit[all_of.candidates.index(n)], abs=1e-5)


def test_scores_are_those_of_the_candidates(search, setting):
    """S_e and S_ne by another way: decode one candidate and score it."""
    model, trajectory, pairs = setting
    from partedit_oir.core.oir.metric import keep_score

    result = run(search, setting, strategy="exhaustive", cfg=3.0)
    made, _, _ = search.make_candidates(model, trajectory, pairs[1], [7], cfg=3.0, batch_size=1)
    decode = search.picture_decoder(FakeVae())
    picture, source = decode(made[7]), decode(trajectory.latent_image)
    entry = result.pairs[1]
    assert entry.edit[6] == pytest.approx(FakeScorer().score(picture, "throne", mask=pairs[1].mask), abs=1e-5)
    assert entry.keep[6] == pytest.approx(keep_score(picture, source, pairs[1].mask), abs=1e-6)


def test_each_pair_is_scored_with_its_own_phrase_and_mask(search, setting):
    scorer = FakeScorer()
    run(search, setting, scorer=scorer, mask_mode="published_bias", stride=6)
    pairs = setting[2]
    assert {call.mode for call in scorer.calls} == {"published_bias"}
    for call in scorer.calls:
        owner = next(pair for pair in pairs if pair.target_phrase == call.text)
        assert torch.equal(call.mask, owner.mask)
    assert {call.text for call in scorer.calls} == {"tiger", "throne"}


def test_one_candidate_is_decoded_at_a_time(search, setting):
    """Every picture is scored, handed on and dropped before the next one is decoded."""
    import gc
    import weakref

    alive, order = [], []

    class Watching(FakeVae):
        def decode(self, samples):
            gc.collect()
            order.append(sum(ref() is not None for ref in alive[1:]))
            picture = super().decode(samples)
            alive.append(weakref.ref(picture))
            return picture

    run(search, setting, vae=Watching(), strategy="exhaustive", stride=3)
    # the picture that was decoded last may still be bound to the loop's name
    assert len(order) == 1 + 2 * 4 and max(order) <= 1


def test_overrides_are_used_and_not_searched(search, setting):
    seen = []
    overrides = [None, 3]
    result = run(search, setting, overrides=overrides, on_candidate=lambda k, n, picture: seen.append((k, n)))
    assert result.pairs[1].candidates == (3,) and result.pairs[1].manual and result.chosen[1] == 3
    assert not result.pairs[0].manual and len(result.pairs[0].candidates) > 1
    assert (1, 3) in seen and len(seen) == 1 + len(result.pairs[0].candidates)
    assert run(search, setting, overrides=[0, STEPS]).chosen == (0, STEPS)


def test_what_cannot_work_is_refused_before_sampling(search, setting, monkeypatch):
    import comfy.samplers

    model, _, pairs = setting
    noisy = make_trajectory(model, 4, method="edit_friendly_ddpm")
    two = make_trajectory(model, 4, latent(batch=2))
    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", lambda *a, **k: pytest.fail("sampling started"))
    with pytest.raises(ValueError, match="inverted with edit_friendly_ddpm"):
        run(search, (model, noisy, pairs))
    with pytest.raises(ValueError, match="one image at a time, this one holds 2"):
        run(search, (model, two, pairs))
    with pytest.raises(ValueError, match="mask of 'cat' → 'tiger': the mask is 64×96"):
        run(search, setting, pairs=[make_pair("cat", "tiger", torch.ones(96, 64))])
    with pytest.raises(ValueError, match=r"no value lies above 0\.5"):
        run(search, setting, pairs=[make_pair("cat", "tiger", torch.full((64, 96), 0.4))])
    with pytest.raises(ValueError, match="outside this trajectory"):
        run(search, setting, overrides=[13, None])
    with pytest.raises(ValueError, match="1 given for 2"):
        run(search, setting, overrides=[3])
    with pytest.raises(ValueError, match="strategy is 'random'"):
        run(search, setting, strategy="random")
    from dataclasses import replace

    with pytest.raises(ValueError, match="inverted with 'a cat and a chair'"):
        run(search, setting, pairs=[replace(pairs[0], source_prompt="a cat, a chair")])
    with pytest.raises(ValueError, match="no editing pairs"):
        run(search, setting, pairs=[])


def test_node_gives_step_sheet_plot_and_scores(pack, setting):
    from partedit_oir.nodes.step_search import InversionStepSearch

    model, trajectory, pairs = setting
    options = (3.0, "exhaustive", 1, 0, 4, 2, "masked", False, "auto, 5")
    search, sheet, plot, scores = InversionStepSearch.execute(
        model, FakeVae(), trajectory, tuple(pairs), FakeScorer(), *options
    ).args
    data = json.loads(scores)
    assert [pair["chosen"] for pair in data["pairs"]] == list(search.chosen)
    assert data["pairs"][0]["candidates"] == [1, 5, 9] and len(data["pairs"][0]["S"]) == 3
    assert data["pairs"][1]["manual"] is True and data["unet_rows"] == search.unet_rows == 2 * (15 + 5)
    for image in (sheet, plot):
        assert image.ndim == 4 and image.shape[0] == 1 and image.shape[-1] == 3
        assert float(image.min()) >= 0.0 and float(image.max()) <= 1.0
    assert plot.shape[1] == 2 * 300


def test_the_editor_gets_curves_and_what_the_search_took(pack, setting):
    from partedit_oir.nodes.step_search import InversionStepSearch

    model, trajectory, pairs = setting
    options = (3.0, "exhaustive", 1, 0, 4, 2, "masked", False, "auto, 5")
    output = InversionStepSearch.execute(model, FakeVae(), trajectory, tuple(pairs), FakeScorer(), *options)
    search, (first, second) = output.args[0], output.ui["curve"]
    assert first["title"] == pairs[0].label and first["x"] == [1, 5, 9] and first["best"] == search.chosen[0]
    assert first["series"]["S"] == pytest.approx(search.pairs[0].total) and second["x"] == [5]
    assert json.loads(json.dumps(output.ui)) == output.ui
    (text,) = output.ui["text"]
    assert text.splitlines()[1].endswith("step 5 (set by hand)") and "40 UNet rows, exhaustive 30" in text


def test_pairs_come_in_the_order_of_their_sockets(pack, setting):
    """The growing sockets come behind the first one, the tenth behind the second, and empty ones count nothing."""
    from partedit_oir.nodes.step_search import all_pairs

    a, b, c, d = (make_pair("cat", name, torch.ones(64, 96)) for name in "abcd")
    more = {"pairs_10": (d,), "pairs_2": (b, c), "pairs_3": None}
    assert all_pairs((a,), more) == (a, b, c, d) and all_pairs((a,), None) == (a,)
    model, trajectory, _ = setting
    from partedit_oir.nodes.step_search import InversionStepSearch

    options = (3.0, "exhaustive", 4, 4, 1, 2, "masked", False, "")
    inputs = (model, FakeVae(), trajectory, (a,), FakeScorer(), *options)
    found = InversionStepSearch.execute(*inputs, more_pairs={"pairs_0": (b,)}).args[0]
    assert [entry.pair for entry in found.pairs] == [a, b]


def test_sockets_grow_where_the_host_can(pack):
    from comfy_api.latest import io

    from partedit_oir.nodes.step_search import InversionStepSearch

    grown = [entry for entry in InversionStepSearch.define_schema().inputs if entry.id == "more_pairs"]
    assert len(grown) == hasattr(io, "Autogrow")
    for entry in grown:
        assert entry.optional and entry.template.min == 0 and entry.template.input.io_type == "EDITING_PAIR"


def test_a_stopped_search_leaves_the_model_as_it_was(search, setting):
    import comfy.model_management

    interrupt = comfy.model_management.InterruptProcessingException
    model = setting[0]
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    expected = run(search, setting, strategy="exhaustive", stride=6)

    class Stopping(FakeVae):
        def decode(self, samples):
            if self.decoded == 2:
                raise interrupt
            return super().decode(samples)

    with pytest.raises(interrupt):
        run(search, setting, vae=Stopping(), strategy="exhaustive", stride=6)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    assert not model.patches and not any(model.wrappers.values())
    again = run(search, setting, strategy="exhaustive", stride=6)
    assert [entry.edit for entry in again.pairs] == [entry.edit for entry in expected.pairs]


def test_the_chosen_candidates_are_framed(pack, setting):
    """The frame's colour is in the sheet: green for a searched step, amber for one set by hand."""
    from partedit_oir.core.oir import report
    from partedit_oir.core.oir.types import PairSearch, StepSearch

    pair = setting[2][0]
    thumbnails = report.Thumbnails(32)
    for n in (1, 2):
        thumbnails.add(0, n, torch.zeros(64, 96, 3))

    def colours(manual):
        entry = PairSearch(
            pair,
            chosen=2,
            candidates=(1, 2),
            edit=(0.1, 0.2),
            keep=(-0.1, -0.2),
            edit_norm=(0.0, 1.0),
            keep_norm=(1.0, 0.0),
            total=(1.0, 1.0),
            best=2,
            manual=manual,
        )
        sheet = report.contact_sheet(StepSearch((entry,), steps=2, strategy="exhaustive", cfg=1.0), thumbnails)
        pixels = (sheet[0] * 255).round().to(torch.int).reshape(-1, 3)
        return {tuple(colour) for colour in pixels.tolist()}

    assert report.BEST in colours(False) and report.MANUAL not in colours(False)
    assert report.MANUAL in colours(True) and report.BEST not in colours(True)
