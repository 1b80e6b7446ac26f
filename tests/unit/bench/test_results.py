"""What the benchmarks report: scores outside a part, means, and files that a cut run leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tools.decibels import EQUAL_DB


@pytest.fixture
def part():
    part = np.zeros((64, 64), dtype=bool)
    part[20:40, 20:40] = True
    return part


def test_the_part_and_its_border_do_not_count(pack, part):
    from bench.scores import GROW, outside, psnr

    source = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
    edit = source.clone()
    edit[20 - GROW + 2 : 40, 20:40] = 0.0
    found, ssim = outside(source, edit, part)
    assert found == psnr(source, source) == EQUAL_DB and ssim < 1.0  # a window of SSIM reaches inside
    assert psnr(source, source + 1e-6) == EQUAL_DB, "the rounding of floats is no difference"
    edit[:8] = (edit[:8] + 0.1).clamp(max=1)
    assert outside(source, edit, part)[0] < 40
    assert psnr(source, edit) == pytest.approx(float(-10 * torch.log10(((source - edit) ** 2).mean())), abs=1e-3)


def test_no_mean_is_lifted_by_equal_pictures(pack):
    """Each benchmark once had a number for them: 99 or 100 dB, which is what its means then were made of."""
    from bench import flow_edits, object_edits, object_limits, real_images, scores

    figures = [{"psnr_outside_db": db, "both": 0.0} for db in (EQUAL_DB, 20.0, 24.0)]
    wanted = {"psnr_outside_db": 22.0, "psnr_outside_db_equal": 1, "both": 0.0}
    assert scores.means(figures) == wanted
    assert scores.means(figures[:1]) == {"psnr_outside_db": "equal", "psnr_outside_db_equal": 1, "both": 0.0}
    names = ["source", "oir", "oir_weighted", *(f"{m} {n}" for m in object_edits.GRIDDED for n in object_edits.GRID)]
    records = [{"figures": {name: {**one, "ms_ssim": 0.5} for name in names}, "edit": []} for one in figures]
    assert object_edits.table(records)["methods"]["oir"] == {**wanted, "ms_ssim": 0.5}
    assert flow_edits.means is scores.means
    limits = [{"edited": [True, True], "steps": [1, 1], "kept_db": one["psnr_outside_db"]} for one in figures]
    whole = [{"pairs": [], "whole": dict.fromkeys(object_limits.WHOLE, one)} for one in limits]
    found = object_limits.summary(whole)["reassembled"]["OIR"]
    assert (found["kept_db"], found["kept_db_equal"], found["both_kept"]) == (22.0, 1, 1.0)
    measured = real_images.Measured({}, ("ddim",), ("as recorded",))
    measured.values = {str(k): {"ddim": {"as recorded": [db, 20, db, 9, 0.5, 1]}} for k, db in enumerate((1000, 30))}
    found = measured.means()["ddim"]["as recorded"]
    assert (found["replay_psnr_db"], found["replay_psnr_db_equal"], found["success"]) == (30, 1, 1)


def test_a_cut_run_keeps_what_it_has_and_replaces_nothing(pack, tmp_path, monkeypatch):
    from bench import results

    monkeypatch.setattr(results, "RESULTS", tmp_path)
    sheet = np.zeros((4, 4, 3), dtype=np.uint8)
    results.write_result("edits", {"edits": 60}, sheet)
    results.write_result("edits", {"edits": 3}, sheet, whole=False)
    assert json.loads((tmp_path / "edits.json").read_text(encoding="utf-8")) == {"edits": 60}
    assert json.loads((tmp_path / "edits.partial.json").read_text(encoding="utf-8")) == {"edits": 3}
    results.write_result("edits", {"edits": 61}, sheet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edits.jpg", "edits.json"]
