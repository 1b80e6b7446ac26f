"""The token laboratory: its measures on maps whose answer is known, its studies on the demo, and what it keeps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tools.evaluate.measured import Measured
from tools.evaluate.run import main
from tools.evaluate.tokens import engine
from tools.evaluate.tokens.config import STUDIES, read_token_plan
from tools.evaluate.tokens.plots import DRAW
from tools.evaluate.tokens.run import measure, summary, write_report

SMALL = {
    "kind": "token",
    "output": "lab",
    "model": "demo",
    "part": "robot head",
    "size": 128,
    "training": 4,
    "settings": {"steps": 30, "noise_count": 2},
    "judge_levels": 2,
    "layers_at_once": 4,
    "reading_levels": 4,
    "counts": [1, 4, 99],
    "draws": 2,
    "folds": 3,
    "word": "head",
    "prompt": "a robot with a head",
}


def write(folder, **changes):
    file = folder / "lab.yaml"
    file.write_text(yaml.safe_dump({**SMALL, "data": {"folder": "pictures"}, **changes}))
    return file


@pytest.fixture(scope="module")
def folder(pack, tmp_path_factory):
    """Seven drawn robots and their heads, as a folder of one's own."""
    from demo.training.parts import single_scenes

    folder = tmp_path_factory.mktemp("lab")
    (folder / "pictures").mkdir()
    for number, picture in enumerate(single_scenes(("robot",), 4_000_000, 7)):
        mask = picture.part_mask("head", ("robot",)).astype(np.uint8) * 255
        Image.fromarray(picture.image).resize((128, 128)).save(folder / "pictures" / f"{number}.png")
        Image.fromarray(mask).resize((128, 128)).save(folder / "pictures" / f"{number}_mask.png")
    return folder


@pytest.fixture(scope="module")
def done(folder):
    """A whole laboratory, its plan and what it said."""
    plan = read_token_plan(write(folder))
    plan.output.mkdir()
    said = []
    report = measure(plan, said.append)
    write_report(plan, report)
    return plan, report, said


def test_iou_and_the_inner_point():
    a, b = torch.zeros(3, 8, 8, dtype=torch.bool), torch.zeros(3, 8, 8, dtype=torch.bool)
    a[0, :4], b[0, 2:6] = True, True
    a[1, :4] = True
    assert engine.iou(a, b).tolist() == pytest.approx([1 / 3, 0, 1])
    region = torch.zeros(20, 20, dtype=torch.bool)
    region[2:9, 3:10], region[15:17, 1:19] = True, True
    assert engine.inner_point(region).tolist() == [[6.0, 5.0]]


def test_perfect_maps_have_an_iou_of_one_and_a_worse_threshold_less(pack):
    truth = torch.zeros(2, 32, 32, dtype=torch.bool)
    truth[:, 8:20, 8:20] = True
    maps = truth.float()[:, None] * 0.8 + 0.1
    assert engine.scores(maps, truth) == {"adaptive": 1.0, "otsu": 1.0}
    y = torch.linspace(0, 1, 32)[None, None, :, None].expand(1, 1, 32, 32)
    half = torch.zeros(1, 32, 32, dtype=torch.bool)
    half[:, 16:] = True
    each = [float(engine.map_ious(y, half, omega)["adaptive"]) for omega in (0.5, 1.0, 1.5)]
    assert each[0] < each[1] and each[1] == pytest.approx(1.0, abs=0.07)


def test_a_word_of_several_tokens_and_a_word_that_is_not_there(pack):
    from partedit_oir.demo.loader import load_demo_model

    _, clip, _ = load_demo_model()
    assert engine.word_columns(clip, "a robot with a head", "head") == [5]
    assert engine.word_columns(clip, "a red robot with a red head", "red head") == [6, 7]
    with pytest.raises(ValueError, match="does not hold the word 'legs'"):
        engine.word_columns(clip, "a robot with a head", "legs")


def test_every_study_measures_what_it_says(done):
    _, report, _ = done
    studies = report["studies"]
    assert tuple(studies) == STUDIES and set(STUDIES) == set(DRAW)
    assert report["pictures"] == {"training": 4, "held out": 3}
    layers = studies["layers"]["layers"]
    # The demo has seven cross-attention layers; the decoder's find parts and the encoder's hardly do.
    assert len(layers) == 7 and studies["layers"]["best_eight"][0].startswith("output")
    alone = {name: one["alone"]["adaptive"] for name, one in layers.items()}
    assert max(alone.values()) == alone[studies["layers"]["best_eight"][0]] > 0.4
    noise = studies["noise"]
    assert noise["levels"] == [0.875, 0.625, 0.375, 0.125]
    assert {name: len(each) for name, each in noise["iou"].items()} == {"early": 4, "middle": 4, "late": 4}
    # 99 pictures are not there: all that are.
    assert studies["pictures"]["counts"] == [1, 4] and len(studies["pictures"]["draws"]["4"]) == 2
    folds = studies["folds"]
    values = [one["adaptive"] for one in folds["folds"]]
    assert len(values) == 3 and folds["mean"] == pytest.approx(np.mean(values))
    assert folds["std"] == pytest.approx(np.std(values, ddof=1)) and folds["pictures"] == 7
    paddings = studies["paddings"]["paddings"]
    assert set(paddings) == {"background", "start_of_text", "end_of_text", "context", "zero", "none"}
    # Read over what it was trained over, the token is the same token.
    own = next(iter(paddings.values()))["read_trained_over"]
    assert paddings[own]["read"] == pytest.approx(paddings[own]["trained"])
    assert paddings[own]["read"] == pytest.approx(studies["word"]["token"])
    assert len({round(one["read"]["adaptive"], 4) for one in paddings.values()}) > 2
    assert set(studies["omega"]["adaptive"]) == {"0.5", "0.75", "1", "1.25", "1.5", "2"}
    assert studies["omega"]["otsu"] == pytest.approx(studies["word"]["token"]["otsu"])
    assert studies["word"]["token"]["adaptive"] > studies["word"]["all layers"]["adaptive"]
    assert "no SAM checkpoint" in studies["sam"]["missing"]


def test_the_report_shows_every_study(done):
    plan, report, _ = done
    html = (plan.output / "index.html").read_text(encoding="utf-8")
    text = (plan.output / "report.md").read_text(encoding="utf-8")
    for name in STUDIES:
        assert (plan.output / f"{name}.png").is_file() == (name != "sam")
        assert (f'src="{name}.png"' in html) == (f"({name}.png)" in text) == (name != "sam")
    assert "no SAM checkpoint" in html and "the best 7 of 7 are output" in html
    assert json.loads((plan.output / "report.json").read_text(encoding="utf-8"))["studies"] == report["studies"]
    assert len(summary(report)) == len(STUDIES)


def test_nothing_is_measured_twice_and_a_change_measures_its_own_study_again(done, folder):
    _, report, _ = done
    again = measure(read_token_plan(write(folder)), lambda text: None)
    assert again["measured"] == 0 and again["studies"] == report["studies"]
    changed = measure(read_token_plan(write(folder, omegas=[1.0, 3.0], draws=1)), lambda text: None)
    assert changed["measured"] == 1 and set(changed["studies"]["omega"]["adaptive"]) == {"1", "3"}


def test_memory_keeps_what_was_made_before_it_was_stopped(tmp_path):
    def stop():
        raise KeyboardInterrupt

    memory = Measured(tmp_path / "m.json", "x")
    assert memory("a", 1, lambda: 5) == 5
    with pytest.raises(KeyboardInterrupt):
        memory("b", 1, stop)
    assert Measured(tmp_path / "m.json", "x")("a", 1, stop) == 5
    with pytest.raises(KeyboardInterrupt):
        Measured(tmp_path / "m.json", "x")("a", 2, stop)
    (tmp_path / "m.json").write_text("{broken")
    assert Measured(tmp_path / "m.json", "x")("a", 1, lambda: 6) == 6


def test_sam_with_one_point_is_read_by_its_three_heads(folder, monkeypatch):
    """With a SAM whose readings are known: the part, its box, everything."""
    from partedit_oir.core.vision.sam import SamModel

    class Known:
        def readings(self, image, points, labels=None):
            x, y = points[0].long().tolist()
            alike = (image - image[y, x]).abs().amax(-1) < 0.05
            everything = torch.ones_like(alike)
            return torch.stack([alike, everything, torch.zeros_like(alike)]), torch.tensor([0.2, 0.9, 0.1])

    monkeypatch.setattr(SamModel, "from_file", lambda path: Known())
    (folder / "sam.pth").write_bytes(b"")
    report = measure(read_token_plan(write(folder, sam="sam.pth", studies=["sam"])), lambda text: None)
    found = report["studies"]["sam"]
    assert found["readings"][2] == 0 and found["rated best"] == found["readings"][1] < found["readings"][0]
    assert found["best of three"] >= found["readings"][0] and found["token"]["adaptive"] > 0.3
    missing = measure(read_token_plan(write(folder, sam="no.pth", studies=["sam"])), lambda text: None)
    assert "no.pth does not exist" in missing["studies"]["sam"]["missing"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"studies": ["layer"]}, "studies"),
        ({"prompt": "a robot"}, "does not hold the word 'head'"),
        ({"model": "no.safetensors"}, "does not exist"),
        ({"stretches": {"early": [0.9, 0.1]}}, "the smaller first"),
        ({"methods": ["partedit"]}, "unknown key methods"),
        ({"data": {"folder": "nowhere"}}, "nowhere"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_runs(folder, capsys, change, says):
    assert main([str(write(folder, output="refused", **change)), "--cpu"]) == 2
    assert says in capsys.readouterr().err and not (folder / "refused").exists()


def test_the_command_for_the_demo_reads_its_own_file(folder, capsys):
    from tools.evaluate.run import CONFIGS

    plan = read_token_plan(CONFIGS / "demo_token.yaml")
    assert plan.config.training == 40 and plan.settings["steps"] == 200
    with pytest.raises(SystemExit):
        main(["--token", str(write(folder))])
    assert "--token goes with --demo" in capsys.readouterr().err
