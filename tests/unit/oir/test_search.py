"""Optimal inversion step search: which candidates run, what is reported, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from support.stand_ins import FakeScorer, FakeVae, latent, make_pair, make_trajectory, two_objects
from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.decoding import picture_decoder
from partedit_oir.core.oir.making import make_candidates
from partedit_oir.core.oir.search import search_steps
from partedit_oir.core.oir.search_settings import SearchSettings

STEPS = 12
STRATEGIES = ("short-to-full", "coarse-to-fine", "exhaustive")


@pytest.fixture(scope="module")
def setting(pack):
    return two_objects(STEPS)


def run(setting, pairs=None, scorer=None, vae=None, on_candidate=None, **settings):
    model, trajectory, own = setting
    vae = vae or FakeVae()
    return search_steps(
        model,
        trajectory,
        own if pairs is None else pairs,
        picture_decoder(vae),
        scorer or FakeScorer(),
        SearchSettings(batch_size=4, **settings),
        on_candidate=on_candidate,
    )


def test_exhaustive_search_looks_at_all_and_counts_the_rows(setting):
    result = run(setting, strategy="exhaustive")
    assert [entry.candidates for entry in result.pairs] == [tuple(range(1, STEPS + 1))] * 2
    assert result.unet_rows == result.exhaustive_rows == 2 * 2 * sum(range(1, STEPS + 1))
    for entry in result.pairs:
        assert entry.chosen == entry.best == entry.candidates[entry.metric.total.index(max(entry.metric.total))]
        for values in (entry.metric.edit_norm, entry.metric.keep_norm):
            assert (min(values), max(values)) == (0.0, 1.0)
        assert entry.metric.total == pytest.approx(
            [a + b for a, b in zip(entry.metric.edit_norm, entry.metric.keep_norm)]
        )
        assert entry.metric.keep[0] > entry.metric.keep[-1], "more steps change more"


def test_coarse_to_fine_reports_what_really_ran(setting):
    full, quick = (run(setting, strategy=name) for name in ("exhaustive", "coarse-to-fine"))
    assert quick.exhaustive_rows == full.unet_rows
    for all_of, some in zip(full.pairs, quick.pairs):
        assert set(some.candidates) < set(all_of.candidates)
        assert some.unet_rows == 2 * sum(some.candidates) < all_of.unet_rows
        for n, score in zip(some.candidates, some.metric.edit):
            assert score == pytest.approx(all_of.metric.edit[all_of.candidates.index(n)], abs=1e-5)


def test_scores_are_those_of_the_candidates(setting):
    """S_e and S_ne by another way: decode one candidate and score it."""
    model, trajectory, pairs = setting
    from partedit_oir.core.oir.metric import keep_score

    result = run(setting, strategy="exhaustive", cfg=3.0)
    made, _, _ = make_candidates(model, trajectory, pairs[1], [7], cfg=3.0, batch_size=1)
    decode = picture_decoder(FakeVae())
    picture, source = decode(made[7]), decode(trajectory.latent_image)
    entry = result.pairs[1]
    assert entry.metric.edit[6] == pytest.approx(FakeScorer().score(picture, "throne", mask=pairs[1].mask), abs=1e-5)
    assert entry.metric.keep[6] == pytest.approx(keep_score(picture, source, pairs[1].mask), abs=1e-6)


def test_each_pair_is_scored_with_its_own_phrase_and_mask(setting):
    scorer = FakeScorer()
    run(setting, scorer=scorer, mask_mode="published_bias", stride=6)
    pairs = setting[2]
    assert {call.mode for call in scorer.calls} == {"published_bias"}
    for call in scorer.calls:
        owner = next(pair for pair in pairs if pair.target_phrase == call.text)
        assert torch.equal(call.mask, owner.mask)
    assert {call.text for call in scorer.calls} == {"tiger", "throne"}


def test_one_candidate_is_decoded_at_a_time(setting):
    """Every picture is scored, handed on and dropped before the next one is decoded."""
    import gc
    import weakref

    model, trajectory, pairs = setting
    plain, pictures, held = picture_decoder(FakeVae()), [], []

    def decode(samples):
        gc.collect()
        held.append(sum(ref() is not None for ref in pictures[1:]))  # the first one is the source
        picture = plain(samples)
        pictures.append(weakref.ref(picture))
        return picture

    settings = SearchSettings(strategy="exhaustive", stride=3, batch_size=4)
    search_steps(model, trajectory, pairs, decode, FakeScorer(), settings)
    assert held == [0] * (1 + 2 * 4)


class Growing(FakeScorer):
    """S_e that rises from one candidate of a pair to the next."""

    def score(self, image, text, mask=None, mode="masked"):
        super().score(image, text, mask, mode)
        return 0.01 * len(self.calls)


def test_the_weight_of_the_edit_decides_which_step_is_chosen(setting):
    """S_e is best at the last step, S_ne mostly not, so the weight decides; the node hands it on."""
    from partedit_oir.nodes.step_search import InversionStepSearch

    model, trajectory, pairs = setting
    options = (3.0, "exhaustive", 1, 0, 4, 2, "masked", False, "")

    def found(weight):
        inputs = (model, FakeVae(), trajectory, tuple(pairs), Growing(), *options)
        return InversionStepSearch.execute(*inputs, edit_weight=weight, score_text="guided prompt").args

    (edit, _, _, text, *_), rest = found(10.0), found(0.1)[0]
    scores = json.loads(text)
    assert edit.chosen == (9, 9) != rest.chosen
    assert scores["edit_weight"] == edit.edit_weight == 10.0
    assert scores["score_text"] == edit.score_text == "guided prompt"
    for entry in edit.pairs:
        assert entry.metric.total == pytest.approx(
            [10 * a + b for a, b in zip(entry.metric.edit_norm, entry.metric.keep_norm)]
        )


def test_overrides_are_used_and_not_searched(setting):
    seen = []
    overrides = [None, 3]
    result = run(setting, overrides=overrides, on_candidate=lambda k, run, picture: seen.append((k, run.step)))
    assert result.pairs[1].candidates == (3,) and result.pairs[1].manual and result.chosen[1] == 3
    assert not result.pairs[0].manual and len(result.pairs[0].candidates) > 1
    first = result.pairs[0]
    looked = {*first.candidates, *(short.step for short in first.short_runs)}
    assert (1, 3) in seen and {n for k, n in seen if k == 0} == looked
    assert run(setting, overrides=[0, STEPS]).chosen == (0, STEPS)


def test_what_cannot_work_is_refused_before_sampling(setting, monkeypatch):
    import comfy.samplers

    model, _, pairs = setting
    noisy = make_trajectory(model, 4, method="edit_friendly_ddpm")
    recorded = make_trajectory(model, 4, method="ledits_pp", record_noise_maps=True)
    two = make_trajectory(model, 4, latent(batch=2))
    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", lambda *a, **k: pytest.fail("sampling started"))
    for trajectory, name in ((noisy, "edit_friendly_ddpm"), (recorded, "ledits_pp")):
        message = rf"^trajectory: was inverted with {name}, .* Choose a ddim method in Invert Latent\.$"
        with pytest.raises(ValueError, match=message):
            run((model, trajectory, pairs))
    with pytest.raises(ValueError, match="has 2 images, but OIR edits one at a time"):
        run((model, two, pairs))
    with pytest.raises(ValueError, match=r"mask of 'cat' → 'tiger': the mask is 64×96 .* the image is 96×64"):
        run(setting, pairs=[make_pair("cat", "tiger", torch.ones(96, 64))])
    with pytest.raises(ValueError, match=r"no value lies above 0\.5"):
        run(setting, pairs=[make_pair("cat", "tiger", torch.full((64, 96), 0.4))])
    with pytest.raises(
        ValueError, match=r"^overrides: 13 is outside .* has steps 1 to 12 .*Give a step in that range, or 'auto'"
    ):
        run(setting, overrides=[13, None])
    with pytest.raises(ValueError, match="1 given for 2"):
        run(setting, overrides=[3])
    with pytest.raises(ValueError, match="strategy: 'random' is not one of"):
        run(setting, strategy="random")
    with pytest.raises(ValueError, match="inverted with 'a cat and a chair'"):
        run(setting, pairs=[replace(pairs[0], source_prompt="a cat, a chair")])
    with pytest.raises(ValueError, match=r"^edit_weight: expected a number above 0 .*got -2\.0"):
        run(setting, edit_weight=-2.0)
    with pytest.raises(ValueError, match="pairs: is empty"):
        run(setting, pairs=[])
    dot = torch.zeros(64, 96)
    dot[3, 3] = 1.0
    with pytest.raises(ValueError, match="nothing is left of the mask at 12×8"):
        run(setting, pairs=[make_pair("cat", "tiger", dot)])
    with pytest.raises(ValueError, match=r"^vae: is empty"):
        picture_decoder(None)
    other = FakeVae()
    other.latent_channels = 16  # of Flux
    with pytest.raises(ValueError, match=r"^vae: decodes latents with 16 channels"):
        picture_decoder(other, setting[0])


def test_a_model_or_text_encoder_of_another_family_is_refused(setting, monkeypatch):
    import comfy.samplers

    from support.tiny_models import tiny_sdxl

    model, trajectory, pairs = setting
    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", lambda *a, **k: pytest.fail("sampling started"))
    with pytest.raises(ValueError, match=r"^model: is not the one .*trajectory: its text embedding is 768 wide"):
        run((tiny_sdxl(), trajectory, pairs))
    wide = [[torch.zeros(1, 77, 2048), {}]]
    with pytest.raises(ValueError, match=r"^pairs: 'cat' → 'tiger': its text embedding is 2048 wide, .* 768"):
        run(setting, pairs=[replace(pairs[0], conditioning=wide)])
    format_of = model.get_model_object

    class Sixteen:
        latent_channels = 16

    monkeypatch.setattr(model, "get_model_object", lambda n: Sixteen() if n == "latent_format" else format_of(n))
    with pytest.raises(ValueError, match=r"^model: uses 16 latent channels, but the trajectory has 4"):
        run(setting)


def test_what_the_scorer_refuses_is_known_before_sampling(setting, monkeypatch):
    """A text longer than the scorer's context, for example."""
    import comfy.samplers

    class Strict(FakeScorer):
        def score(self, image, text, mask=None, mode="masked"):
            raise ValueError(f"tokenizer: gave 99 tokens for {text!r}")

    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", lambda *a, **k: pytest.fail("sampling started"))
    with pytest.raises(ValueError, match="99 tokens for 'tiger'"):
        run(setting, scorer=Strict())


def test_a_candidate_that_is_nan_is_named(setting):
    class Overflowing(FakeVae):
        def decode(self, samples):
            picture = super().decode(samples)
            return picture * float("nan") if self.decoded == 3 else picture

    with pytest.raises(ValueError, match=r"candidate 7 of 'cat' → 'tiger' holds NaN or infinite values.*fp32-vae"):
        run(setting, vae=Overflowing(), strategy="exhaustive", stride=6)


def test_scores_that_are_all_alike_leave_the_picture_most_as_it_is(setting):
    class Same(FakeScorer):
        def score(self, image, text, mask=None, mode="masked"):
            return 0.25

    whole = [make_pair("cat", "tiger", torch.ones(64, 96))]  # nothing outside: S_ne is alike, too
    for strategy in STRATEGIES:
        found = run(setting, pairs=whole, scorer=Same(), strategy=strategy, first=2)
        assert found.chosen == (2,) and set(found.pairs[0].metric.total) == {0.0}


def test_node_gives_step_sheet_plot_and_scores(pack, setting):
    from partedit_oir.nodes.step_search import InversionStepSearch

    model, trajectory, pairs = setting
    options = (3.0, "exhaustive", 1, 0, 4, 2, "masked", False, "auto, 5")
    search, sheet, plot, scores, *_ = InversionStepSearch.execute(
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
    assert first["series"]["S"] == pytest.approx(search.pairs[0].metric.total) and second["x"] == [5]
    assert json.loads(json.dumps(output.ui)) == output.ui
    (text,) = output.ui["text"]
    assert text.splitlines()[1].endswith("step 5 (set by hand)") and "40 UNet rows, exhaustive 40" in text


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


def test_growing_sockets_arrive_as_the_host_hands_them_over(pack):
    """The prompt's dotted names through ComfyUI's own resolver."""
    from comfy_api.latest import _io

    from partedit_oir.nodes.step_search import InversionStepSearch, all_pairs

    if not hasattr(_io, "Autogrow"):
        pytest.skip("this ComfyUI has no growing sockets")
    a, b, c = (make_pair("cat", name, torch.ones(64, 96)) for name in "abc")
    for sockets in ({"more_pairs.pairs_0": (b,), "more_pairs.pairs_1": (c,)}, {}):
        live = {name: ["4", 0] for name in ("pairs", *sockets)}
        accepted, _, v3_data = _io.get_finalized_class_inputs(InversionStepSearch.INPUT_TYPES(), live)
        assert set(sockets) <= set(accepted["optional"])
        inputs = _io.build_nested_inputs({"pairs": (a,), **sockets}, v3_data)
        found = all_pairs(inputs["pairs"], inputs.get("more_pairs"))
        assert found == ((a, b, c) if sockets else (a,))


def test_a_stopped_search_leaves_the_model_as_it_was(setting):
    import comfy.model_management

    interrupt = comfy.model_management.InterruptProcessingException
    model = setting[0]
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    expected = run(setting, strategy="exhaustive", stride=6)

    class Stopping(FakeVae):
        def decode(self, samples):
            if self.decoded == 2:
                raise interrupt
            return super().decode(samples)

    class Cancelling(FakeVae):
        def decode(self, samples):
            # the cancel button: the next UNet call, or the next candidate, notices
            comfy.model_management.interrupt_current_processing(True)
            return super().decode(samples)

    for vae in (Stopping(), Cancelling()):
        try:
            with pytest.raises(interrupt):
                run(setting, vae=vae, strategy="exhaustive", stride=6)
        finally:
            comfy.model_management.interrupt_current_processing(False)
        assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
        assert not model.patches and not any(model.wrappers.values())
    assert vae.decoded == 1, "stopped in the UNet, before any candidate"
    again = run(setting, strategy="exhaustive", stride=6)
    assert [entry.metric.edit for entry in again.pairs] == [entry.metric.edit for entry in expected.pairs]


def test_the_chosen_candidates_are_framed(pack, setting):
    """The frame's colour is in the sheet: green for a searched step, amber for one set by hand."""
    from partedit_oir.core.oir import report
    from partedit_oir.core.oir.metric import Metric
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
            metric=Metric((0.1, 0.2), (-0.1, -0.2), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), best=1),
            manual=manual,
        )
        sheet = report.contact_sheet(StepSearch((entry,), steps=2, strategy="exhaustive", cfg=1.0), thumbnails)
        pixels = (sheet[0] * 255).round().to(torch.int).reshape(-1, 3)
        return {tuple(colour) for colour in pixels.tolist()}

    assert report.BEST in colours(False) and report.MANUAL not in colours(False)
    assert report.MANUAL in colours(True) and report.BEST not in colours(True)


def test_the_plot_shows_three_curves_and_the_chosen_step(setting):
    from partedit_oir.core.oir import report
    from partedit_oir.core.oir.metric import Metric
    from partedit_oir.core.oir.types import PairSearch, StepSearch

    scores = {"edit": (0.1, 0.3, 0.2), "keep": (-0.1, -0.2, -0.3)}
    norms = {"edit_norm": (0.0, 1.0, 0.5), "keep_norm": (1.0, 0.5, 0.0), "total": (1.0, 1.5, 0.5)}
    metric = Metric(**scores, **norms, best=1)
    entry = PairSearch(setting[2][0], chosen=5, candidates=(1, 5, 10), metric=metric)

    def share(picture, colour):
        return float(((picture * 255 - torch.tensor(colour)).abs().amax(-1) < 24).float().mean())

    def panel(chosen):
        search = StepSearch((replace(entry, chosen=chosen),), steps=10, strategy="exhaustive", cfg=1.0)
        return report.score_plot(search)[0]

    plot = panel(5)
    for _, colour, _ in report.CURVES:
        assert share(plot, colour) > 0.001
    # the panel's axis runs from 48 to width - 20; the line of the chosen step is the only green in it
    for chosen in (5, 10):
        at = round(48 + (plot.shape[1] - 68) * chosen / 10)
        green = {n: panel(n)[60:240, at - 2 : at + 3] for n in (1, chosen)}
        green = {n: float((c[..., 1] - c[..., [0, 2]].amax(-1) > 0.15).any(1).float().mean()) for n, c in green.items()}
        assert green[chosen] > 0.8 and green[1] == 0.0

    def top(weight):
        """Where the highest S of the plot lies, as a share of the panel's axis."""
        weighted = replace(entry, chosen=1, metric=replace(metric, total=(1.0, weight + 0.5, 0.5)))
        search = StepSearch((weighted,), steps=10, strategy="exhaustive", cfg=1.0, edit_weight=weight)
        panel = report.score_plot(search)[0][44:260, 60:]
        white = (panel > 0.95).all(-1).any(1).nonzero()
        return 1 - float(white[0]) / 216

    # S = weight + 0.5 on an axis that ends at weight + 1
    assert top(1.0) == pytest.approx(0.75, abs=0.03) and top(9.0) == pytest.approx(0.95, abs=0.03)


def test_an_override_still_knows_what_was_found(setting, pack):
    from partedit_oir.core.oir.memory import SearchMemory
    from partedit_oir.core.oir.report import board

    model, trajectory, pairs = setting
    vae, scorer, memory = FakeVae(), FakeScorer(), SearchMemory()

    def again(**settings):
        known = [{} for _ in pairs]
        result = search_steps(
            model,
            trajectory,
            pairs,
            picture_decoder(vae),
            scorer,
            SearchSettings(batch_size=4, **settings),
            on_scored=lambda pair, run, scored: known[pair].__setitem__(run, scored),
            memory=memory,
        )
        return result, board(result, known)

    unknown, shown = again(overrides=[3, None], strategy="exhaustive")
    assert unknown.pairs[0].found is None and [one["n"] for one in shown[0]["candidates"]] == [3]
    full, all_shown = again(strategy="exhaustive")
    assert [entry.found for entry in full.pairs] == list(full.chosen) == [pair["chosen"] for pair in all_shown]
    assert [one["total"] for one in all_shown[0]["candidates"]] == list(full.pairs[0].metric.total)
    other = 1 if full.chosen[0] != 1 else 2
    byhand, shown = again(overrides=[other, None], strategy="exhaustive")
    assert byhand.unet_rows == 0 and byhand.pairs[0].candidates == (other,)
    assert (byhand.pairs[0].chosen, byhand.pairs[0].found) == (other, full.chosen[0])
    assert shown[0]["candidates"] == all_shown[0]["candidates"] and shown[0]["manual"]
    # what was scored beyond the range is not mixed in, and a range that was not searched has no best
    _, shown = again(overrides=[other, None], strategy="exhaustive", first=2, last=4)
    assert {one["n"] for one in shown[0]["candidates"]} == {2, 3, 4, other}
    beyond, _ = again(overrides=[other, None], strategy="exhaustive", cfg=2.0)
    assert beyond.pairs[0].found is None
