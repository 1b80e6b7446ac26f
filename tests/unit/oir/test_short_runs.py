"""Searches that look at short runs first: what a short run is, what is estimated from it, and what ends up chosen."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch

from support.stand_ins import FakeScorer, FakeVae, make_trajectory, sd1_shaped_model, two_objects
from tools.bootstrap import load_pack

load_pack()
import comfy.model_management

from partedit_oir.core.charts import font
from partedit_oir.core.decoding import picture_decoder
from partedit_oir.core.inversion.ddim import ddim_step
from partedit_oir.core.oir import candidates as choice
from partedit_oir.core.oir.estimates import EDIT, KEEP, estimate
from partedit_oir.core.oir.making import make_candidates, make_runs
from partedit_oir.core.oir.memory import SearchMemory
from partedit_oir.core.oir.metric import combine
from partedit_oir.core.oir.report import Thumbnails, _tiles, board, contact_sheet, curves, score_plot, summary
from partedit_oir.core.oir.search import search_steps
from partedit_oir.core.oir.search_settings import SearchSettings
from partedit_oir.core.oir.short_runs import Run, full_run, residuals, run_levels

STEPS = 14
STRATEGY = "short-to-full"
VAE, SCORER = FakeVae(), FakeScorer()


@pytest.fixture(scope="module")
def setting():
    return two_objects(STEPS)


def run(setting, vae=None, scorer=None, batch_size=4, memory=None, shown=None, **settings):
    model, trajectory, pairs = setting
    return search_steps(
        model,
        trajectory,
        pairs,
        picture_decoder(vae or VAE),
        scorer or SCORER,
        SearchSettings(**{"strategy": STRATEGY, "batch_size": batch_size, "cfg": 3.0, **settings}),
        memory=memory,
        **(shown or {}),
    )


# --- a short run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 3, 7, 25, 50])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 8, 60])
def test_a_short_run_visits_few_levels_and_most_of_them_noisy(step, length):
    levels = run_levels(Run(step, length), 50)
    assert levels[0] == 50 - step and levels[-1] == 50 and levels == sorted(set(levels))
    assert len(levels) - 1 == min(step, length)
    gaps = [after - before for before, after in zip(levels, levels[1:])]
    if length >= step:
        assert levels == list(range(50 - step, 51))
    elif step >= 3 * length:
        assert gaps == sorted(gaps) and (length == 1 or gaps[0] < gaps[-1])


@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_a_short_run_that_changes_nothing_stays_on_the_trajectory(length):
    """With the noise that the inversion saw at every level. Without the correction, it would leave the path."""
    trajectory = make_trajectory(sd1_shaped_model(4), 10)
    z, sigmas = trajectory.latents[:, 0], trajectory.sigmas
    levels = run_levels(Run(9, length), 10)
    x, plain = z[levels[0]], z[levels[0]]
    for i, j, more in zip(levels, levels[1:], residuals(trajectory, levels)):
        noise = (z[i + 1] - z[i]) / (sigmas[i + 1] - sigmas[i])
        x = x + (sigmas[j] - sigmas[i]) * noise + more
        plain = plain + (sigmas[j] - sigmas[i]) * noise
    assert torch.allclose(x, z[10], atol=1e-4) and not torch.allclose(plain, z[10], atol=1e-2)
    assert residuals(trajectory, run_levels(full_run(9), 10)) is None


def test_short_runs_are_ddim_with_the_correction(setting):
    """By hand, one step after the other, from the model's own noise."""
    from partedit_oir.core.inversion.engine import run_loop
    from partedit_oir.core.latents import process_latent_out

    model, trajectory, pairs = setting
    levels = run_levels(Run(9, 3), STEPS)

    def by_hand(denoise):
        x = trajectory.at(9)
        for i, j, more in zip(levels, levels[1:], residuals(trajectory, levels)):
            now, after = trajectory.sigmas[i : i + 1], trajectory.sigmas[j : j + 1]
            x = ddim_step(x, denoise(x, now), now, after) + more
        return x

    made, rows, passes = make_runs(model, trajectory, pairs[0], [Run(9, 3)], cfg=3.0, batch_size=4)
    expected, _ = run_loop(
        model,
        by_hand,
        positive=pairs[0].conditioning,
        negative=trajectory.conditioning,
        cfg=3.0,
        latent_image=trajectory.latent_image,
        rows=1,
        sigmas=trajectory.sigmas,
    )
    expected = process_latent_out(model, trajectory.to_image_latent(expected))
    assert torch.allclose(made[Run(9, 3)], expected, atol=1e-6) and (rows, passes) == (2 * 3, 3)


def test_runs_of_all_lengths_share_batches(setting):
    model, trajectory, pairs = setting
    runs = [Run(12, 3), Run(12, 6), full_run(5), Run(8, 2), full_run(1)]
    together, rows, passes = make_runs(model, trajectory, pairs[0], runs, cfg=3.0, batch_size=5)
    assert rows == 2 * (3 + 6 + 5 + 2 + 1) and passes == 6
    for one in runs:
        alone, *_ = make_runs(model, trajectory, pairs[0], [one], cfg=3.0, batch_size=1)
        assert torch.allclose(together[one], alone[one], atol=1e-4)


# --- estimates ---------------------------------------------------------------------------------------------------


def test_full_runs_are_certain_and_short_ones_the_less_the_shorter():
    scores = {full_run(1): 0.1, Run(13, 3): 0.5, Run(19, 6): 0.4, Run(20, 3): 0.4, full_run(25): 0.3}
    found = estimate(range(1, 26), scores, EDIT)
    assert found.mean[0] == 0.1 and found.mean[24] == pytest.approx(0.3)
    assert found.deviation[0] == found.deviation[24] == 0.0 and bool((found.deviation[1:24] > 0).all())
    assert found.deviation[18] < found.deviation[12] < found.deviation[8]


def test_what_a_full_run_shows_of_a_short_ones_error_is_used_beside_it():
    """The short run at 16 said 0.5, the candidate has 0.7: what a short run said at 17 is too low, too."""
    scores = {full_run(1): 0.0, Run(16, 3): 0.5, Run(17, 3): 0.5, full_run(25): 1.0}
    before = estimate(range(1, 26), scores, KEEP).mean[16]
    after = estimate(range(1, 26), {**scores, full_run(16): 0.7}, KEEP).mean[16]
    assert after > before + 0.05


def test_scores_that_are_alike_stay_alike():
    found = estimate([1, 2, 3], {full_run(1): 0.25, Run(3, 2): 0.25}, EDIT)
    assert found.mean.tolist() == [0.25] * 3 and found.deviation.tolist() == [0.0] * 3


def test_estimates_hold_for_any_model_units():
    """S_e of a few hundredths and S_ne of a few millionths: only their ranges count."""
    scores = {full_run(1): 0.0, Run(13, 3): -0.5, Run(25, 3): -1.0}
    large = estimate(range(1, 26), scores, KEEP)
    small = estimate(range(1, 26), {run: 1e-6 * value for run, value in scores.items()}, KEEP)
    assert torch.allclose(1e6 * small.mean, large.mean) and torch.allclose(1e6 * small.deviation, large.deviation)


# --- choosing runs -----------------------------------------------------------------------------------------------


def curve(count, at, width, fall, power):
    """S_e that rises around ``at`` (and falls after it), S_ne that falls: what models give."""
    scores = {}
    for n in range(1, count + 1):
        edit = 1 / (1 + math.exp(min(50.0, (at - n / count) / width))) - fall * max(0.0, n / count - at)
        scores[n] = (0.2 + 0.1 * edit, -0.05 * (n / count) ** power)
    return scores


def short_scores(scores, one, rng):
    """What a short run may say: an error that grows with the length of its steps."""
    edit, keep = scores[one.step]
    error = (max(1.0, one.step / one.length) - 1) / len(scores)
    return edit + 0.1 * error * rng.gauss(-0.4, 0.7), keep * (1 + 0.3 * error * rng.gauss(0, 0.6))


def searched(scores, seed=0, weight=1.0):
    rng, turns = random.Random(seed), []

    def evaluate(runs):
        turns.append(runs)
        return {one: short_scores(scores, one, rng) for one in runs}

    seen = choice.search_runs(sorted(scores), STRATEGY, evaluate, weight)
    return seen, choice.compare(sorted(scores), seen, weight), turns


def reached(scores, step):
    total = combine(*zip(*(scores[n] for n in sorted(scores)))).total
    return total[sorted(scores).index(step)] / max(total)


CURVES = [
    (at, width, fall, power)
    for at in (0.15, 0.35, 0.55, 0.75, 0.9)
    for width in (0.01, 0.04)
    for fall in (0.0, 0.5)
    for power in (1.0, 2.0)
]


@pytest.mark.parametrize("count, rows, mean, often", [(25, 0.18, 0.95, 0.5), (50, 0.12, 0.98, 0.85)])
def test_few_rows_find_what_is_nearly_best(count, rows, mean, often):
    shares, spent = [], []
    for seed, shape in enumerate(CURVES):
        scores = curve(count, *shape)
        seen, found, _ = searched(scores, seed)
        shares.append(reached(scores, found.chosen))
        spent.append(sum(one.length for one in seen) / sum(scores))
    assert sum(spent) <= rows * len(spent) and max(spent) <= 2 * rows
    assert sum(shares) >= mean * len(shares) and sum(share >= 0.98 for share in shares) >= often * len(shares)


@pytest.mark.parametrize("count, apart", [(10, 1), (25, 1), (50, 2)])
def test_candidates_close_to_the_best_one_are_run_in_full_while_rows_are_left(count, apart):
    more = 0
    for seed, shape in enumerate(CURVES):
        scores = curve(count, *shape)
        seen, found, _ = searched(scores, seed)
        left = choice.BESIDE_LIMIT * choice._budget(sorted(scores)) - sum(one.length for one in seen)
        near = [n for n in (found.chosen - apart, found.chosen + apart) if n in scores]
        assert all(n in found.steps or n > left for n in near), (shape, found.steps)
        more += sum(n in found.steps for n in near)
    assert more


def test_a_better_candidate_outside_the_range_does_not_end_the_search():
    """A step set by hand before, between those of a stride, is remembered with the others."""
    scores = curve(50, 0.55, 0.04, 0.5, 1.0)
    candidates, best = range(2, 51, 2), max(range(1, 51, 2), key=lambda n: reached(scores, n))
    rng, seen = random.Random(1), {full_run(best): (1.0, 0.0)}
    while runs := choice.next_runs(candidates, seen, STRATEGY):
        assert all(one.step in candidates for one in runs)
        seen.update({one: short_scores(scores, one, rng) for one in runs})
    assert choice.compare(candidates, seen).chosen == best and any(one.step != best for one in seen if one.full)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 10, 50, 120])
def test_every_search_ends_with_a_candidate_run_in_full(count):
    rng = random.Random(count)
    for _ in range(6):
        scores = {n: (rng.random(), -rng.random()) for n in range(1, count + 1)}
        seen, found, turns = searched(scores, count)
        asked = [one for turn in turns for one in turn]
        assert len(asked) == len(set(asked)) == len(seen) and all(one.step in scores for one in asked)
        assert full_run(found.chosen) in seen
        assert found.metric.total[found.metric.best] == max(found.metric.total)
        assert not set(found.steps) & {one.step for one in found.short}


def test_scores_that_say_nothing_end_the_search():
    alike = choice.search_runs(range(5, 51), STRATEGY, lambda runs: dict.fromkeys(runs, (0.25, -0.5)))
    assert choice.compare(range(5, 51), alike).chosen == 5 and sum(one.length for one in alike) < 60


def test_the_weight_of_the_edit_steers_it():
    """S_e jumps at 8 and again, a little, at 20."""
    scores = {n: (edit + 0.04 * (n >= 20), keep) for n, (edit, keep) in curve(25, 0.3, 0.01, 0.0, 1.0).items()}
    low, high = (searched(scores, 1, weight)[1].chosen for weight in (0.5, 6.0))
    assert low < 12 and high >= 20


def test_both_parts_are_scaled_over_all_candidates():
    """Two full runs alone would be 0 and 1 in both parts; the estimates of all candidates give the scale."""
    scores = {full_run(1): (0.1, 0.0), full_run(9): (0.2, -0.1), Run(25, 3): (0.4, -1.0)}
    found = choice.compare(range(1, 26), scores)
    assert found.steps == (1, 9) and found.chosen == 9
    assert found.metric.edit_norm[1] < 0.9 and found.metric.keep_norm[1] > 0.5
    (short,) = found.short
    assert (short.step, short.length, short.edit, short.keep) == (25, 3, 0.4, -1.0)
    assert short.total == short.edit_norm + short.keep_norm


# --- with a model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(setting):
    return run(setting)


def test_the_chosen_candidate_is_bit_for_bit_the_one_run_alone(setting, found):
    model, trajectory, pairs = setting
    exhaustive = run(setting, strategy="exhaustive")
    for pair, entry, all_of in zip(pairs, found.pairs, exhaustive.pairs):
        alone = run(setting, batch_size=1).pairs[found.pairs.index(entry)]
        made, _, _ = make_candidates(model, trajectory, pair, [alone.chosen], cfg=3.0, batch_size=1)
        assert torch.equal(alone.latent, made[alone.chosen])
        for n, edit, keep in zip(entry.candidates, entry.metric.edit, entry.metric.keep):
            place = all_of.candidates.index(n)
            assert edit == pytest.approx(all_of.metric.edit[place], abs=1e-5)
            assert keep == pytest.approx(all_of.metric.keep[place], abs=1e-6)


def test_the_rows_of_short_runs_are_counted(setting, found):
    exhaustive = run(setting, strategy="exhaustive")
    assert found.exhaustive_rows == exhaustive.unet_rows == 2 * 2 * sum(range(1, STEPS + 1))
    assert found.unet_rows < 0.6 * exhaustive.unet_rows
    for entry in found.pairs:
        assert entry.chosen == entry.best and entry.short_runs
        least = 2 * (sum(entry.candidates) + sum(one.length for one in entry.short_runs))
        assert least <= entry.unet_rows <= least + 2 * 2 * STEPS, "a short run of a candidate run later counts, too"


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_inversion_steps(steps):
    found = run(two_objects(steps))
    assert all(1 <= n <= steps for n in found.chosen) and found.unet_rows <= found.exhaustive_rows + 2 * 2 * steps


@pytest.mark.parametrize("first, last, stride", [(5, 11, 1), (2, 14, 3), (6, 6, 1), (1, 14, 13)])
def test_ranges(setting, first, last, stride):
    found = run(setting, first=first, last=last, stride=stride)
    allowed = set(range(first, last + 1, stride))
    for entry in found.pairs:
        assert {*entry.candidates, *(one.step for one in entry.short_runs)} <= allowed and entry.chosen in allowed
    whole = run(setting, strategy="exhaustive", first=first, last=last, stride=stride)
    assert found.exhaustive_rows == whole.unet_rows


def test_the_picture_stands_in_for_the_first_candidate(setting):
    found = run(setting, published_first=True)
    whole = run(setting, strategy="exhaustive", published_first=True)
    assert found.exhaustive_rows == whole.unet_rows and found.pairs[0].metric.keep[0] == 0.0


def test_a_stopped_search_leaves_the_model_as_it_was(setting):
    model = setting[0]
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    interrupt = comfy.model_management.InterruptProcessingException

    class Cancelling(FakeVae):
        def decode(self, samples):
            if self.decoded == 3:  # among the short runs
                comfy.model_management.interrupt_current_processing(True)
            return super().decode(samples)

    vae = Cancelling()
    try:
        with pytest.raises(interrupt):
            run(setting, vae=vae)
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert vae.decoded == 4
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


def test_a_second_search_repeats_nothing_and_an_override_knows_what_was_found(setting):
    memory, seen = SearchMemory(), [{}, {}]
    notes = []

    def note(pair, one, picture):
        notes.append((pair, one))
        return f"{pair} {one.step} {one.length}"

    recalled = []
    shown = {
        "on_candidate": note,
        "on_remembered": lambda pair, one, mark, decode: recalled.append((pair, one, mark)),
        "on_scored": lambda pair, one, scored: seen[pair].__setitem__(one, scored),
    }
    first = run(setting, memory=memory, shown=shown)
    assert first.unet_rows > 0 and not recalled
    again = run(setting, memory=memory, shown=shown)
    assert again.unet_rows == 0 and again.chosen == first.chosen
    assert [(pair, one) for pair, one, _ in recalled] == notes
    assert all(mark == f"{pair} {one.step} {one.length}" for pair, one, mark in recalled)
    # another scorer looks at the same pictures
    other = run(setting, memory=memory, scorer=FakeScorer())
    assert other.unet_rows == 0 and other.chosen == first.chosen
    # a candidate that had a short run only, by hand: it runs in full now, and what was found stays known
    short = first.pairs[0].short_runs[-1]
    byhand = run(setting, memory=memory, overrides=[short.step, None])
    assert byhand.pairs[0].unet_rows == 2 * short.step and byhand.pairs[0].candidates == (short.step,)
    assert byhand.pairs[0].manual and byhand.pairs[0].found == first.chosen[0]
    # the other strategies take what was run in full from it, and no short run for a candidate
    whole = run(setting, memory=memory, strategy="exhaustive")
    fresh = run(setting, strategy="exhaustive")
    assert whole.chosen == fresh.chosen and whole.unet_rows < fresh.unet_rows and not whole.pairs[0].short_runs


def test_short_runs_are_shown_as_such(setting, found):
    thumbnails = Thumbnails(32)

    known = [{}, {}]
    again = run(
        setting,
        shown={
            "on_candidate": thumbnails.add_run,
            "on_scored": lambda pair, one, scored: known[pair].__setitem__(one, scored),
        },
    )
    entry = again.pairs[0]
    short = [one.step for one in entry.short_runs]
    assert f"; short runs of {', '.join(map(str, short))}" in summary(again)
    plain = json.loads(json.dumps(again.to_dict()))["pairs"][0]
    assert plain["candidates"] == list(entry.candidates) and not set(short) & set(plain["candidates"])
    assert [one["step"] for one in plain["short_runs"]] == short and plain["short_runs"][0]["length"] < short[0]
    assert curves(again)[0]["x"] == sorted([*entry.candidates, *short])
    latest = [{one.step: (one, scored) for one, scored in sorted(pair.items())} for pair in known]
    shown = board(again, [dict(pair.values()) for pair in latest])[0]["candidates"]
    assert [one["n"] for one in shown if "length" in one] == short
    assert {one["n"]: one["total"] for one in shown if "length" not in one} == dict(
        zip(entry.candidates, entry.metric.total)
    )
    captions = [caption for _, caption, _ in _tiles(0, entry, thumbnails)]
    assert sum("steps)" in caption for caption in captions) == len(short)
    # Pillow's own font draws a box for a character that it lacks
    box, *drawn = (bytes(font(13).getmask(letter)) for letter in ("\u2248", *set("".join(captions))))
    assert box not in drawn
    full_only = [len(pair.candidates) for pair in again.pairs]
    sheet = contact_sheet(again, thumbnails, columns=1)
    rows = (sheet.shape[1] - 8 - 2 * 30) / (thumbnails.get(0, entry.chosen).height + 28)
    assert rows == sum(full_only) + sum(len(pair.short_runs) for pair in again.pairs)
    assert score_plot(again).shape[1] == 2 * 300
