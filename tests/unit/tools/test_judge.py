"""The demo's judge: it ships, it is as good as its file says, and nothing worse may judge."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from demo.training.pictures import draw_scene, plain_scene
from demo.world import Look
from tools.evaluate.cases import Case, Pair, Pictures
from tools.evaluate.demo_world import success
from tools.evaluate.judge import LEAST, WEIGHTS, JudgeError, accuracy, check_accuracy, load_judge, the_judge


def test_it_ships_small_and_is_as_good_as_its_file_says():
    assert WEIGHTS.stat().st_size < 2_100_000
    with safe_open(str(WEIGHTS), "pt") as file:
        said = file.metadata()
    found = accuracy(the_judge(), range(6_100_000, 6_100_040))
    for name, least in LEAST.items():
        assert float(said[name]) >= least and found[name] >= least - 0.02, (name, found, said)


def test_a_judge_that_is_missing_broken_or_worse_may_not_judge(tmp_path):
    with pytest.raises(JudgeError, match=r"is missing\. Train it again: python -m tools\.evaluate\.judge"):
        load_judge(tmp_path / "none.safetensors")
    state = load_file(str(WEIGHTS))
    worse = dict.fromkeys(LEAST, "1.0") | {"colour": "0.9"}
    save_file(state, str(tmp_path / "worse.safetensors"), metadata=worse)
    with pytest.raises(JudgeError, match=r"colour on held-out images is 0\.900, expected 0\.97"):
        load_judge(tmp_path / "worse.safetensors")
    save_file(state, str(tmp_path / "unmeasured.safetensors"))
    with pytest.raises(JudgeError, match="object on held-out images is nan"):
        load_judge(tmp_path / "unmeasured.safetensors")
    state.pop(next(iter(state)))
    save_file(state, str(tmp_path / "half.safetensors"))
    with pytest.raises(JudgeError, match="does not hold this judge"):
        load_judge(tmp_path / "half.safetensors")
    check_accuracy(dict.fromkeys(LEAST, 1.0), "x")


@pytest.fixture
def generated(tmp_path):
    """A "generated" robot whose head should turn blue, and pictures of it with other heads."""

    def drawn(head):
        scene = plain_scene("robot", Look("red"), "snow", 40_000_123)
        thing = scene.things[0]
        looks = {part: Look(head) if part == "head" else look for part, look in thing.looks.items()}

        return Image.fromarray(
            draw_scene(dataclasses.replace(scene, things=(dataclasses.replace(thing, looks=looks),))).image
        )

    pictures = Pictures(tmp_path, 256)
    pair = Pair("a red robot", "a blue robot", colour="blue")
    case = Case("d", "n", "a red robot", "a blue robot", pairs=(pair,), generated=True, judged=("robot", "head"))
    return case.with_source(pictures.picture(drawn("red")), ""), pictures, drawn


def test_success_in_a_generated_picture_is_what_the_judge_sees(generated):
    case, pictures, drawn = generated
    assert success(drawn("blue"), case, pictures) == 1.0
    assert success(drawn("red"), case, pictures) == 0.0 == success(drawn("green"), case, pictures)
    empty = pictures.picture(Image.fromarray(np.full((256, 256, 3), 200, dtype=np.uint8)))
    assert success(drawn("blue"), case.with_source(empty, ""), pictures) is None
