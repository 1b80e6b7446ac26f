"""What the benchmarks report: scores outside a part, means, and files that a cut run leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch


@pytest.fixture
def part():
    part = np.zeros((64, 64), dtype=bool)
    part[20:40, 20:40] = True
    return part


def test_the_part_and_its_border_do_not_count(pack, part):
    from bench.scores import GROW, PSNR_CAP, outside, psnr

    source = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
    edit = source.clone()
    edit[20 - GROW + 2 : 40, 20:40] = 0.0
    found, ssim = outside(source, edit, part)
    assert found == PSNR_CAP and psnr(source, source) == PSNR_CAP and ssim < 1.0  # a window of SSIM reaches inside
    edit[:8] = (edit[:8] + 0.1).clamp(max=1)
    assert outside(source, edit, part)[0] < 40
    assert psnr(source, edit) == pytest.approx(float(-10 * torch.log10(((source - edit) ** 2).mean())), abs=1e-3)


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
