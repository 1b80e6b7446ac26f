"""OIR against what the published implementation computed, through the pack's own code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tools.parity import oir as parity_oir
from tools.parity.drawn_weights import standard_normal

DATA = Path(__file__).parent / "data" / "oir"
CASES = sorted(DATA.glob("*.json"))


def test_there_are_cases():
    assert {path.stem for path in CASES} == {"two_pairs", "late_reassembly"}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case_agrees(pack, path):
    result = parity_oir.run_case(path)
    assert result["ok"] is True
    # the tolerance of the contract is 1e-4; rounding alone stays far below it
    assert max(result[kind] for kind in ("inversion", "candidates", "final")) <= 2e-5


def test_a_wrong_prompt_is_noticed(pack):
    """The comparison can fail: exchanging the guided prompts of the pairs leaves the inversion alone, nothing else."""
    path = DATA / "two_pairs.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["guided_prompts"].reverse()
    z0 = torch.from_numpy(0.8 * standard_normal(settings["seed"] + 5, 1, 4, 16, 16))
    results, golden = parity_oir.compute_case(settings, z0), load_file(path.with_suffix(".safetensors"))
    errors = {name: parity_oir.relative_error(value, golden[name]) for name, value in results.items()}
    assert errors["inversion"] <= 1e-5
    assert min(errors["candidates_0"], errors["candidates_1"], errors["final"]) > 1e-2


def test_a_case_above_the_tolerance_is_not_ok(pack, tmp_path, monkeypatch):
    monkeypatch.setattr(parity_oir, "TOLERANCE", 1e-12)
    assert parity_oir.run_case(CASES[0])["ok"] is False
