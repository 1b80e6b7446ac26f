"""run.py train-tokens: the file is checked first, tokens are trained, a dead worker's task is tried again."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.bootstrap import load_pack
from tools.train_tokens.run import main, run_here
from tools.train_tokens.tasks import ConfigError, read_plan, run_task

load_pack()
from partedit_oir.core.partedit.token_files import load_token

CONFIG = """
output: out
model: demo
size: 128
settings: {steps: 40, noise_count: 1, layers: output.3, save_every: 10, held_out: 0.25}
tokens:
  - name: square
    part: bright square
    data: {folder: pairs}
  - name: again
    data: {folder: {path: pairs, limit: 4}}
    settings: {seed: 2, recipe: paper}
"""


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(4):
        picture = random.integers(0, 40, (128, 128, 3), dtype=np.uint8)
        mask = np.zeros((128, 128), dtype=np.uint8)
        mask[16 * number : 16 * number + 48, 40:88] = 255
        picture[mask > 0] = (255, 20, 230)
        Image.fromarray(picture).save(folder / f"{number}.png")
        Image.fromarray(mask).save(folder / f"{number}_mask.png")
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    return file


def test_a_token_with_all_that_belongs_to_it(config):
    plan = read_plan(config)
    assert [task["name"] for task in plan.tasks] == ["square", "again"]
    assert [task["settings"].get("recipe") for task in plan.tasks] == [None, "paper"]
    result = run_task(plan.tasks[0], lambda line: None)
    out = config.parent / "out"
    assert sorted(os.listdir(out)) == ["square.json", "square.overlays.png", "square.plot.png", "square.safetensors"]
    token = load_token(out / "square.safetensors")
    assert token.names == ("bright square",) and token.metadata["pictures"] == "4"
    assert json.loads((out / "square.json").read_text()) == result
    assert 0 < result["part_iou"]["bright square"] <= 1


def test_a_dead_worker_s_task_is_tried_again_and_goes_on(config):
    """The first process is killed as soon as it has saved a state; the second one starts from there."""
    text = CONFIG.replace("steps: 40", "steps: 4000").replace("save_every: 10", "save_every: 20")
    config.write_text(text[: text.index("  - name: again")])
    plan = read_plan(config)
    state = config.parent / "out" / "square.training.safetensors"
    started: list[int] = []

    def kill_the_first(name, pid):
        started.append(pid)
        if len(started) > 1:
            return

        def wait_and_kill():
            while not state.is_file():
                time.sleep(0.01)
            os.kill(pid, signal.SIGKILL)

        threading.Thread(target=wait_and_kill, daemon=True).start()

    # Enough to be caught in the middle; the second run is shortened, which a state allows.
    results = run_here(plan, lambda name, pid: (kill_the_first(name, pid), plan.tasks[0]["settings"].update(steps=300)))
    assert len(started) == 2
    assert "error" not in results[0] and results[0]["resumed_from"] >= 20
    assert results[0]["stopped_at"] >= results[0]["resumed_from"]
    assert not state.exists()


def test_a_task_that_fails_is_reported_and_the_others_go_on(config):
    (config.parent / "pairs" / "3_mask.png").unlink()
    config.write_text(CONFIG.replace("data: {folder: pairs}", "data: {folder: other}"))
    (config.parent / "other").mkdir()
    for name in ("0.png", "0_mask.png", "1.png", "1_mask.png"):
        (config.parent / "other" / name).write_bytes((config.parent / "pairs" / name).read_bytes())
    assert main([str(config), "--cpu"]) == 1
    results = json.loads((config.parent / "out" / "results.json").read_text())
    assert "error" not in results[0]
    assert "no mask for 3" in results[1]["error"]
    assert "no mask for 3" in (config.parent / "out" / "again.log").read_text()


def test_without_ray_it_runs_here(config, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # an import of it fails, installed or not
    config.write_text(CONFIG[: CONFIG.index("  - name: again")] + "ray: {gpus_per_token: 0}\n")
    assert main([str(config), "--cpu"]) == 0
    assert "Ray is not installed" in capsys.readouterr().out
    assert (config.parent / "out" / "square.safetensors").is_file()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is installed for the tests on Linux only")
def test_on_ray(config):
    config.write_text(CONFIG + "ray: {cpus_per_token: 1}\n")
    assert main([str(config), "--cpu"]) == 0
    results = json.loads((config.parent / "out" / "results.json").read_text())
    assert [result["name"] for result in results] == ["square", "again"]
    assert all(Path(result["file"]).is_file() for result in results)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is installed for the tests on Linux only")
def test_ray_tries_a_dead_worker_s_task_again(config):
    """The worker is killed once it has saved a state; Ray starts the task anew, and it goes on from there."""
    text = CONFIG.replace("steps: 40", "steps: 2000").replace("save_every: 10", "save_every: 20")
    config.write_text(text[: text.index("  - name: again")] + "ray: {cpus_per_token: 1}\n")
    out = config.parent / "out"
    killed: list[int] = []

    def wait_and_kill():
        while not (out / "square.training.safetensors").is_file():
            time.sleep(0.01)
        killed.extend(workers(out / "square.log"))
        os.kill(killed[0], signal.SIGKILL)

    threading.Thread(target=wait_and_kill, daemon=True).start()
    assert main([str(config), "--cpu"]) == 0
    (result,) = json.loads((out / "results.json").read_text())
    assert len(killed) == 1 and len(set(workers(out / "square.log"))) == 2
    assert "error" not in result and 20 <= result["resumed_from"] < 2000


def test_the_readme_s_example_is_understood(tmp_path, repository):
    text = (repository / "tokens" / "README.md").read_text(encoding="utf-8")
    base = tmp_path / "base"
    for folder in ("pictures/cat_head", "train", "Annotations_Part", "JPEGImages"):
        (base / folder).mkdir(parents=True)
    checkpoint = tmp_path / "ComfyUI/models/checkpoints/sd_xl_base_1.0.safetensors"
    checkpoint.parent.mkdir(parents=True)
    for file in (checkpoint, base / "train.json"):
        file.write_text("")
    config = base / "config.yaml"
    config.write_text(text.partition("```yaml\n")[2].partition("```")[0])
    plan = read_plan(config)
    assert [task["name"] for task in plan.tasks] == ["cat_head", "quadruped_head", "human_hair"]
    assert plan.tasks[0]["model"] == str(checkpoint) and plan.tasks[2]["settings"]["noise_high"] == 0.5
    assert plan.output == base / "my_tokens"


def workers(log):
    """Ids of the processes that a token's log tells of."""
    return [int(line.split("process ")[1].split(",")[0]) for line in log.read_text().splitlines() if "process " in line]


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("tokens:", "tokenz:", "unknown key tokenz"),
        ("name: square", "name: ../square", r"tokens\[0\].name"),
        ("name: again", "name: square", "is used twice"),
        ("folder: pairs}", "folder: nowhere}", "nowhere does not exist"),
        ("{folder: pairs}", "{web: pairs}", r"tokens\[0\].data: expected exactly one of"),
        ("steps: 40", "stepz: 40", "unknown setting stepz"),
        ("steps: 40", "steps: 0", "steps: expected at least 1"),
        ("steps: 40", "recipe: papers", r"tokens\[0\].settings: recipe: expected one of paper, pack, got 'papers'"),
        ("size: 128", "size: 100", "multiple of 8"),
        ("model: demo", "model: missing.safetensors", r"missing.safetensors does not exist"),
        ("output: out", "output: !!python/object/apply:os.system ['touch ran']", "is not valid YAML"),
        ("tokens:", "tokens: [", "is not valid YAML"),
    ],
)
def test_the_file_is_checked_before_anything_runs(config, old, new, words):
    config.write_text(CONFIG.replace(old, new, 1))
    with pytest.raises(ConfigError, match=words):
        read_plan(config)
    assert not (config.parent / "out").exists() and not Path("ran").exists()
