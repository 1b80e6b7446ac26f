"""PartEdit's golden cases through the product's own code; inputs are drawn again, outputs lie in data/partedit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

DATA = Path(__file__).parent / "data" / "partedit"
CASES = sorted(DATA.glob("*.json"))


def test_all_seven_cases_are_here():
    assert len(CASES) == 7


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case_agrees_with_the_published_implementation(path, pack):
    from tools.parity.partedit import MASK_TOLERANCE, TOLERANCE, compute_case, draw_inputs, worst_error

    settings = json.loads(path.read_text(encoding="utf-8"))
    golden = load_file(str(path.with_suffix(".safetensors")))
    result = compute_case(settings, draw_inputs(settings["seed"], settings["parts"]))
    steps = golden["steps"].tolist()
    assert worst_error(result["source_latents"][steps], golden["source_latents"]) < TOLERANCE
    assert worst_error(result["edit_latents"][steps], golden["edit_latents"]) < TOLERANCE
    assert worst_error(result["masks_16"], golden["masks_16"]) < MASK_TOLERANCE
    assert worst_error(result["masks_64"][-1:], golden["masks_64"]) < MASK_TOLERANCE
