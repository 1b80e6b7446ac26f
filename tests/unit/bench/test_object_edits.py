"""The benchmark of two-object edits: its cases, its rule of success, and that it replays what the pack does."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench import object_cases, object_edits, object_methods
from demo.training.pictures import draw_scene
from support.stand_ins import (
    FakeScorer,
    FakeVae,
    latent,
    make_pair,
    make_trajectory,
    prompt_conditioning,
    relative_error,
    sd1_shaped_model,
)
from tools.decibels import EQUAL_DB
from tools.evaluate.judge import COLOUR_NAMES, LABELS, Verdict


def truth(picture):
    """What a judge without a fault would say of a generator picture."""
    labels, owner = picture.labels[2::4, 2::4], picture.owner[2::4, 2::4]
    colours = np.zeros_like(labels)
    for index, thing in enumerate(picture.scene.things, 1):
        for part, look in thing.looks.items():
            colours[(owner == index) & (labels == LABELS.index((thing.name, part)) + 1)] = COLOUR_NAMES.index(
                look.colour
            )
    return Verdict(labels, colours, np.zeros_like(labels))


def test_cases_change_both_objects_in_prompts_that_say_so():
    edits = [object_cases.edit_case(number) for number in range(object_cases.EDITS)]
    assert Counter(change.what for edit in edits for change in edit.changes) == {"colour": 60, "kind": 60}
    assert len({edit.source for edit in edits}) > 50
    for edit in edits:
        assert " on the left and " in edit.source and " on the right, " in edit.source
        for change in edit.changes:
            assert edit.source.count(change.before) == 1 and change.before != change.after
        picture = draw_scene(edit.scene)
        masks = [object_cases.object_mask(picture, position) for position in (0, 1)]
        assert min(mask.mean() for mask in masks) > 0.02 and not (masks[0] & masks[1]).any()
    assert object_cases.edit_case(7) == object_cases.edit_case(7)


def test_the_rule_holds_for_drawn_edits_and_for_no_source():
    reached = []
    for number in range(object_cases.EDITS):
        edit = object_cases.edit_case(number)
        picture = draw_scene(edit.scene)
        before, after = truth(picture), truth(edit.drawn_after())
        for position, change in enumerate(edit.changes):
            mask = object_cases.object_mask(picture, position)
            assert not object_cases.is_edited(before, mask, change)
            reached.append(object_cases.is_edited(after, mask, change))
    assert np.mean(reached) > 0.95


def test_a_smear_or_another_colour_is_no_success():
    edit = object_cases.edit_case(0)
    picture = draw_scene(edit.scene)
    change, mask = edit.changes[0], object_cases.object_mask(picture, 0)
    region = mask[2::4, 2::4]
    label = 1 + next(k for k, (name, _) in enumerate(LABELS) if name == change.name)
    colour = COLOUR_NAMES.index(change.colour)

    def verdict(share, colour):
        rows, columns = np.nonzero(region)
        count = int(share * len(rows))
        labels = np.zeros_like(region, dtype=int)
        labels[rows[:count], columns[:count]] = label
        return Verdict(labels, np.full_like(labels, colour), np.zeros_like(labels))

    assert object_cases.is_edited(verdict(0.5, colour), mask, change)
    assert not object_cases.is_edited(verdict(0.2, colour), mask, change)
    assert not object_cases.is_edited(verdict(0.5, (colour + 1) % 9), mask, change)
    assert not object_cases.is_edited(verdict(0.5, colour), object_cases.object_mask(picture, 1), change)


@pytest.fixture(scope="module")
def setting(pack):
    model = sd1_shaped_model(4)
    left = torch.zeros(64, 64)
    left[:, :32] = 1.0
    return model, make_trajectory(model, 12, latent()), make_pair("cat", "tiger", left)


def test_replay_takes_the_steps_that_the_pack_takes(setting):
    from partedit_oir.core.decoding import picture_decoder
    from partedit_oir.core.oir.search import search_steps
    from partedit_oir.core.oir.search_settings import SearchSettings

    model, trajectory, pair = setting

    def run(strategy):
        settings = SearchSettings(cfg=3.0, strategy=strategy, batch_size=4)
        return search_steps(model, trajectory, [pair], picture_decoder(FakeVae()), FakeScorer(), settings).pairs[0]

    full, quick = run("exhaustive"), run("coarse-to-fine")
    metric = full.metric
    recorded = {"candidates": list(full.candidates), "S_e": list(metric.edit), "S_ne": list(metric.keep)}
    recorded["best"] = full.best
    chosen, rows, reached = object_edits.replay(recorded)
    assert (chosen, rows) == (quick.chosen, sum(quick.candidates)) and quick.unet_rows == 2 * rows
    assert reached == pytest.approx(metric.total[full.candidates.index(quick.chosen)] / max(metric.total))
    figures = object_edits.coarse_to_fine([recorded, recorded])
    assert figures["pairs"] == 2 and figures["share_of_rows"] == pytest.approx(rows / sum(range(13)))


@pytest.fixture
def bench(setting):
    made = object.__new__(object_methods.Bench)
    made.model, made.studio = setting[0], SimpleNamespace(text=prompt_conditioning)
    return made


def test_blending_keeps_the_latent_outside_the_masks(bench, setting):
    _, trajectory, pair = setting
    plain = bench.from_noise(trajectory, [pair], [4, 9], 1, blend=False)
    blended = bench.from_noise(trajectory, [pair], [4, 9], 1, blend=True)
    for n in (4, 9):
        assert relative_error(blended[n][..., 4:], trajectory.latent_image[..., 4:]) < 1e-5
        assert relative_error(blended[n][..., :4], trajectory.latent_image[..., :4]) > 0.01
        assert relative_error(plain[n][..., 4:], trajectory.latent_image[..., 4:]) > 0.01
    alone = bench.from_noise(trajectory, [pair], [4], 1, blend=True)
    assert relative_error(alone[4], blended[4]) < 1e-5, "levels share a batch and nothing else"


def test_figures_of_the_source_and_of_the_drawn_edit(pack, monkeypatch):
    """The floor and the ceiling of the rule, with a judge that knows the truth; distances are to the source."""
    from tools.evaluate.judge import Judge

    edit = object_cases.edit_case(0)
    before, after = draw_scene(edit.scene), edit.drawn_after()
    pictures = {name: torch.tensor(drawn.image) / 255 for name, drawn in (("source", before), ("generator", after))}
    spoilt = pictures["generator"].clone()
    spoilt[:48] = 1 - spoilt[:48]
    pictures["spoilt"] = spoilt
    monkeypatch.setattr(object_edits, "judge", lambda model, stack: [truth(before), truth(after), truth(after)])
    found = object_edits.figures(Judge().eval(), edit, before, pictures)
    source, drawn, repainted = found["source"], found["generator"], found["spoilt"]
    assert (source["objects"], source["both"], source["both_kept"]) == (0.0, 0.0, 0.0)
    assert source["ms_ssim"] == pytest.approx(1.0) and source["feature_distance"] == pytest.approx(0.0, abs=1e-6)
    assert source["psnr_outside_db"] == EQUAL_DB
    assert drawn["both"] == repainted["both"] == 1.0
    assert repainted["psnr_outside_db"] < object_edits.KEPT_DB and repainted["both_kept"] == 0.0
    assert repainted["ms_ssim"] < drawn["ms_ssim"] < 1.0


def record(number, both, ms_ssim):
    """One edit's record with the same figures for every method but one."""
    names = ["source", "generator", "vae", "oir", "oir_weighted"]
    names += [f"{method} {n}" for method in object_edits.GRIDDED for n in object_edits.GRID]
    figures = {name: {"both": 0.0, "ms_ssim": 0.5} for name in names}
    middle, last = (f"sdedit {object_edits.GRID[at]}" for at in (1, -1))
    figures[middle], figures[last] = ({"both": both, "ms_ssim": value} for value in (ms_ssim, 0.1))
    edit = [[change.what, change.before, change.after] for change in object_cases.edit_case(number).changes]
    return {"edit": edit, "figures": figures, "pictures": {name: np.zeros((256, 256, 3), np.uint8) for name in names}}


def test_table_names_the_best_level_by_success_and_then_likeness():
    records = [record(0, 1.0, 0.7), record(3, 0.0, 0.9)]
    table, best = object_edits.table(records), f"sdedit {object_edits.GRID[1]}"
    assert table["methods"][best] == {"both": 0.5, "ms_ssim": 0.8}
    assert table["best"]["sdedit"] == best
    assert table["both_by_change"]["colour+kind"][best] == 1.0
    assert table["both_by_change"]["kind+kind"][best] == 0.0
    assert table["both_by_change"]["colour+colour"]["oir"] is None
    sheet = object_edits.contact_sheet(records, table["best"])
    assert sheet.shape == (18 + 2 * 160, 6 * 160, 3), "the source, both of OIR, and the best of each grid"


def test_a_cut_run_is_kept_beside_the_last_whole_one(pack, tmp_path, monkeypatch):
    import json

    from bench import results

    for module in (object_edits, results):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    scores = {"candidates": [1, 2, 3], "S_e": [0.1, 0.3, 0.2], "S_ne": [0.0, -0.1, -0.3], "best": 2}
    records = [
        {**record(number, 1.0, 0.7), "scores": [scores, scores], "steps": {"oir": [2, 2]}, "seconds": 1.0}
        for number in (0, 3)
    ]
    object_edits.report(records, False, "fp32")
    cut = {"object_edits.partial.jpg", "object_edits.partial.json", "object_edits_scores.partial.json"}
    assert {path.name for path in tmp_path.iterdir()} == cut
    object_edits.report(records, True, "fp32")
    assert {path.name for path in tmp_path.iterdir()} == {name.replace(".partial", "") for name in cut}
    kept = json.loads((tmp_path / "object_edits.json").read_text("utf-8"))
    assert (kept["edits"], kept["coarse_to_fine"]["pairs"], kept["seconds_an_edit"]) == (2, 4, 1.0)
    assert len(kept["failed"]) == 2 and set(kept["best"]) == set(object_edits.GRIDDED)
    recorded = json.loads((tmp_path / "object_edits_scores.json").read_text("utf-8"))
    assert object_edits.coarse_to_fine(recorded) == kept["coarse_to_fine"]


def test_feature_distance_grows_with_the_change():
    from bench.perceptual import feature_distance
    from tools.evaluate.judge import Judge

    torch.manual_seed(0)
    source = torch.rand(64, 64, 3)
    noise = torch.rand(64, 64, 3)
    pictures = torch.stack([source, 0.9 * source + 0.1 * noise, 0.5 * source + 0.5 * noise])
    same, near, far = feature_distance(Judge().eval(), pictures, source)
    assert same == pytest.approx(0.0, abs=1e-6) and 0 < near < far < 4
