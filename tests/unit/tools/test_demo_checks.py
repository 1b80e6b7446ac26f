"""What `evaluate --demo` measures of the demo's own models: real figures, kept, and told as they are."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from demo.training.studio import Studio
from tools.config_file import ConfigError
from tools.evaluate import demo_checks
from tools.evaluate.config import Check, read_plan
from tools.evaluate.demo_checks import CHECKS, SAID, measure, prompt_of, said


@pytest.fixture(scope="module")
def studio():
    return Studio()


def test_the_models_that_ship_are_as_good_as_their_card_says(studio):
    drawn = demo_checks.prompts(studio, 3)
    assert drawn["object"] == drawn["colour"] == drawn["both"] == 1 and drawn["wrong"] == []
    assert demo_checks.vae(studio, 4)["psnr_db"] > 27
    found = demo_checks.tokens(studio, 5)["parts"]
    assert all(one["adaptive"] > 0.5 for one in found.values()) and found["robot torso"]["adaptive"] > 0.75


def test_a_model_that_draws_something_else_is_seen(studio, monkeypatch):
    monkeypatch.setattr(studio, "sample", lambda prompts, seed: torch.zeros(len(prompts), 4, 32, 32))
    drawn = demo_checks.prompts(studio, 3)
    assert drawn["both"] == 0 and len(drawn["wrong"]) == 3 and drawn["wrong"][0].startswith(prompt_of(0)[0])


def test_figures_are_kept_and_told(tmp_path, monkeypatch):
    figures = {"pictures": 3, "psnr_db": 30.25}
    monkeypatch.setitem(CHECKS, "vae", lambda studio: figures)
    assert measure(["vae"], tmp_path / "checks.json", log=lambda line: None) == {"vae": figures}
    monkeypatch.setitem(CHECKS, "vae", lambda studio: pytest.fail("measured again"))
    again = measure(["vae"], tmp_path / "checks.json")
    assert said(again) == ["VAE: 30.2 dB over 3 drawn pictures."] and set(SAID) == set(CHECKS) == set(get_args(Check))


def test_they_are_of_the_demo_only(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "model: sd_xl.safetensors\nchecks: [vae]\ndata: [{demo: {kind: parts, count: 1}}]\nmethods: [unchanged]\n"
    )
    with pytest.raises(ConfigError, match=r"checks: these are of the demo's models, but model is 'sd_xl\.safetensors'"):
        read_plan(file)
