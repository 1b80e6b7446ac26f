"""run.py train-tokens: the file is checked first, tokens are trained, a dead worker's task is tried again."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.bootstrap import load_pack
from tools.config_file import ConfigError
from tools.evaluate.peers.client import PeerProcess
from tools.train_tokens import run as run_module
from tools.train_tokens.plan import read_plan
from tools.train_tokens.run import main, run_guarded, run_here
from tools.train_tokens.task import made_from, run_task

load_pack()
from partedit_oir.core.partedit.token_files import load_token

CONFIG = """
output: out
model: demo
size: 64
settings: {steps: 40, noise_count: 1, layers: output.3, save_every: 10, held_out: 0.25}
tokens:
  - name: square
    part: bright square
    data: {folder: pairs}
  - name: again
    data: {folder: {path: pairs, limit: 4}}
    settings: {seed: 2, recipe: paper}
"""


def write_config(place):
    """A configuration file with its pictures."""
    folder = place / "pairs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(4):
        picture = random.integers(0, 40, (64, 64, 3), dtype=np.uint8)
        mask = np.zeros((64, 64), dtype=np.uint8)
        mask[8 * number : 8 * number + 24, 20:44] = 255
        picture[mask > 0] = (255, 20, 230)
        Image.fromarray(picture).save(folder / f"{number}.png")
        Image.fromarray(mask).save(folder / f"{number}_mask.png")
    file = place / "config.yaml"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path)


def test_a_token_with_all_that_belongs_to_it(config):
    plan = read_plan(config)
    assert [task["name"] for task in plan.tasks] == ["square", "again"]
    assert [task["settings"].get("recipe") for task in plan.tasks] == [None, "paper"]
    result = run_task(plan.tasks[0], lambda line: None)
    out = config.parent / "out"
    assert sorted(os.listdir(out)) == ["square.json", "square.overlays.png", "square.plot.png", "square.safetensors"]
    token = load_token(out / "square.safetensors")
    assert token.names == ("bright square",) and token.metadata["pictures"] == "4"
    assert (token.metadata["model"], token.metadata["data"]) == ("demo", "folder: pairs")
    assert json.loads((out / "square.json").read_text()) == result
    assert 0 < result["part_iou"]["bright square"] <= 1


# A worker as `run_here` sees it, without the seconds that a real one takes to import ComfyUI.
WORKER = """
import json, os, sys, time
task, result, seen = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
open(seen, "a").write(task["name"] + "\\n")
time.sleep(0.2)
deaths = int(task["note"] or 0)
if open(seen).read().split().count(task["name"]) <= deaths:
    os._exit(9)
answer = {"name": task["name"], "part_iou": {}, "seconds": 0, "file": ""}
json.dump({"name": task["name"], "error": "ValueError: no"} if task["part"] == "broken" else answer, open(result, "w"))
"""


@pytest.fixture
def workers_started(monkeypatch, tmp_path):
    """Stands in for real workers; gives back the file with one line per process, as they were started."""
    seen = tmp_path / "seen"

    def start(task):
        run_module._result_file(task).parent.mkdir(exist_ok=True)
        arguments = [json.dumps(task), str(run_module._result_file(task)), str(seen)]
        return subprocess.Popen([sys.executable, "-S", "-c", WORKER, *arguments], text=True)

    monkeypatch.setattr(run_module, "_start", start)
    return seen


def three_tokens(config, first, head=""):
    tokens = [{"name": name, "data": {"folder": "pairs"}} for name in "abc"]
    tokens[0] |= first
    config.write_text(f"output: out\n{head}\ntokens: {json.dumps(tokens)}")
    return read_plan(config)


def test_a_task_whose_process_died_is_tried_again(config, workers_started):
    results = run_here(three_tokens(config, {"note": "2"}))
    assert [result["name"] for result in results] == ["a", "b", "c"] and not any("error" in one for one in results)
    assert workers_started.read_text().split() == ["a", "a", "a", "b", "c"]


def test_a_task_whose_process_always_dies_is_given_up_and_the_others_run(config, workers_started):
    results = run_here(three_tokens(config, {"note": "9"}, head="retries: 1"))
    assert "died 2 times" in results[0]["error"] and not any("error" in one for one in results[1:])
    assert workers_started.read_text().split() == ["a", "a", "b", "c"]


def test_a_task_that_failed_by_itself_is_not_tried_again(config, workers_started):
    results = run_here(three_tokens(config, {"part": "broken"}))
    assert results[0] == {"name": "a", "error": "ValueError: no"} and not any("error" in one for one in results[1:])
    assert workers_started.read_text().split() == ["a", "b", "c"]


def test_no_more_processes_than_workers_run_at_a_time(config, workers_started):
    alive, most = [], 0

    def count(name, pid):
        nonlocal most
        alive.append(Path(f"/proc/{pid}"))
        most = max(most, sum(one.exists() for one in alive))

    results = run_here(three_tokens(config, {}, head="workers: 2"), on_start=count)
    assert [result["name"] for result in results] == ["a", "b", "c"] and len(alive) == 3
    assert most == 2 or not Path("/proc").is_dir()


@pytest.mark.slow
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
    results = run_here(plan, lambda name, pid: (kill_the_first(name, pid), plan.tasks[0]["settings"].update(steps=100)))
    assert len(started) == 2
    assert "error" not in results[0] and results[0]["resumed_from"] >= 20
    assert results[0]["stopped_at"] >= results[0]["resumed_from"]
    assert not state.exists()


@pytest.mark.slow
def test_a_task_that_fails_is_reported_and_the_others_go_on(config):
    (config.parent / "pairs" / "3_mask.png").unlink()
    config.write_text(CONFIG.replace("data: {folder: pairs}", "data: {folder: other}") + "workers: 2\n")
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
    # In this process instead of one that has to import ComfyUI first.
    monkeypatch.setattr(run_module, "run_here", lambda plan: [run_guarded(task) for task in plan.tasks])
    config.write_text(CONFIG[: CONFIG.index("  - name: again")] + "ray: {gpus_per_token: 0}\n")
    assert main([str(config), "--cpu"]) == 0
    assert "Ray is not installed" in capsys.readouterr().out
    assert (config.parent / "out" / "square.safetensors").is_file()


@pytest.fixture(scope="module")
def ray_run(tmp_path_factory):
    """Two tokens trained on a Ray of this machine; the first one's worker is killed once it has saved a state.

    Returns:
        The folder of the results, and the killed process.
    """
    config = write_config(tmp_path_factory.mktemp("ray"))
    text = CONFIG.replace("steps: 40", "steps: 1000").replace("save_every: 10", "save_every: 20")
    config.write_text(text.replace("settings: {seed: 2}", "settings: {steps: 40}") + "ray: {cpus_per_token: 1}\n")
    out = config.parent / "out"
    killed: list[int] = []

    def wait_and_kill():
        while not (out / "square.training.safetensors").is_file():
            time.sleep(0.01)
        killed.extend(workers(out / "square.log"))
        os.kill(killed[0], signal.SIGKILL)

    threading.Thread(target=wait_and_kill, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # else other programs may starve the workers
        assert main([str(config), "--cpu"]) == 0
    return out, killed


with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is installed for the tests on Linux only"
)


@with_ray
@pytest.mark.slow
def test_on_ray(ray_run):
    results = json.loads((ray_run[0] / "results.json").read_text())
    assert [result["name"] for result in results] == ["square", "again"]
    assert all(Path(result["file"]).is_file() for result in results)


@with_ray
@pytest.mark.slow
def test_ray_tries_a_dead_worker_s_task_again(ray_run):
    """Ray starts the task anew, and it goes on from the saved state."""
    out, killed = ray_run
    result = json.loads((out / "results.json").read_text())[0]
    assert len(killed) == 1 and len(set(workers(out / "square.log"))) == 2
    assert "error" not in result and 20 <= result["resumed_from"] < 1000


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
        ("tokens:", "tokenz:", "the file: unknown key tokenz. Known keys: crops, flip, model"),
        ("tokens:", "tokenz:\nsizes:", "the file: unknown keys tokenz, sizes"),
        (CONFIG, "output: out", "tokens: is missing"),
        (CONFIG, "tokens: []", "tokens: expected at least one entry"),
        (CONFIG, "tokens: square", "tokens: expected a valid list, got 'square'"),
        (CONFIG, "tokens: [square]", r"tokens\[0\]: expected keys and values, got 'square'"),
        (CONFIG, "- square", r"the file: expected keys and values, got \['square'\]"),
        ("name: square", "name: ../square", r"tokens\[0\].name: '../square' may contain"),
        (
            "name: square",
            "title: square",
            r"tokens\[0\]: unknown key title. Known keys: data, name, note, part, settings",
        ),
        ("  - name: again\n    data", "  - data", r"tokens\[1\].name: is missing"),
        ("name: again", "name: square", "tokens: the name 'square' is used twice"),
        ("name: again", "name: Square", "tokens: the name 'square' is used twice"),
        ("part: bright square", "part: [bright]", r"tokens\[0\].part: expected a valid string, got \['bright'\]"),
        ("folder: pairs}", "folder: nowhere}", r"tokens\[0\].data.folder.path: .*nowhere does not exist"),
        ("{folder: pairs}", "{web: pairs}", r"tokens\[0\].data: expected exactly one of folder, part_imagenet"),
        ("{folder: pairs}", "{folder: pairs, demo: {}}", r"tokens\[0\].data: expected exactly one of"),
        ("{folder: pairs}", "pairs", r"tokens\[0\].data: expected exactly one of"),
        ("limit: 4", "limits: 4", r"tokens\[1\].data.folder: unknown key limits. Known keys: limit, path"),
        ("limit: 4", "limit: '4'", r"tokens\[1\].data.folder.limit: expected a valid integer, got '4'"),
        ("limit: 4", "limit: 0", r"tokens\[1\].data.folder.limit: expected greater than or equal to 1, got 0"),
        (
            "{folder: pairs}",
            "{part_imagenet: {images: pairs, parts: [Head]}}",
            r"tokens\[0\].data.part_imagenet.annotations: is missing",
        ),
        (
            "{folder: pairs}",
            "{pascal_part: {annotations: pairs, images: pairs, object_class: cat, parts: []}}",
            r"tokens\[0\].data.pascal_part.parts: expected at least one entry",
        ),
        (
            "{folder: pairs}",
            "{demo: {objects: [dragon], part: head}}",
            r"tokens\[0\].data.demo.objects: the demo model knows no 'dragon'. It knows: cat, dog",
        ),
        (
            "{folder: pairs}",
            "{demo: {objects: [cat, car], part: head}}",
            r"tokens\[0\].data.demo.part: a car has no 'head'. It has: body, hood, wheels",
        ),
        ("steps: 40", "stepz: 40", r"settings: unknown key stepz. Known keys: batch_size, cache_device"),
        ("steps: 40", "steps: 0", "settings.steps: expected at least 1, got 0"),
        ("steps: 40", "recipe: papers", "settings.recipe: expected one of paper, pack, got 'papers'"),
        ("steps: 40", "steps: many", "settings.steps: expected a valid integer, got 'many'"),
        ("steps: 40", "steps: true", "settings.steps: expected a valid integer, got True"),
        ("seed: 2", "seed: two", r"tokens\[1\].settings.seed: expected a valid integer, got 'two'"),
        ("{seed: 2,", "{part_names: [a],", r"tokens\[1\].settings: unknown key part_names"),
        ("size: 64", "size: 100", "size: expected a multiple of 8, at least 64, got 100"),
        ("size: 64", "size: 64\nflip: 'no'", "flip: expected a valid boolean, got 'no'"),
        ("size: 64", "size: 64\ncrops: -1", "crops: expected greater than or equal to 0, got -1"),
        ("size: 64", "size: 64\nworkers: 0", "workers: expected greater than or equal to 1, got 0"),
        ("size: 64", "size: 64\nray: {cpus: 1}", "ray: unknown key cpus. Known keys: address, cpus_per_token"),
        ("model: demo", "model: missing.safetensors", r"model: .*missing.safetensors does not exist"),
        ("output: out", "output: !!python/object/apply:os.system ['touch ran']", "is not valid YAML"),
        ("tokens:", "tokens: [", "is not valid YAML"),
    ],
)
def test_the_file_is_checked_before_anything_runs(config, old, new, words):
    text = CONFIG.replace(old, new, 1)
    assert text != CONFIG
    config.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_plan(config)
    assert not (config.parent / "out").exists() and not Path("ran").exists()


def test_everything_that_is_wrong_is_said_at_once(config):
    config.write_text(CONFIG.replace("size: 64", "size: 100").replace("name: again", "title: again"))
    with pytest.raises(ConfigError) as error:
        read_plan(config)
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == ["size", "tokens[1]"]


def test_what_the_file_leaves_out_has_its_default(config):
    config.write_text(
        "tokens: [{name: 2024, data: {folder: pairs}}, {name: b, data: {demo: {objects: [cat], part: head}}}]"
    )
    plan = read_plan(config)
    assert (plan.output, plan.retries, plan.workers, plan.ray) == (config.parent / "tokens", 2, 1, None)
    first, second = plan.tasks
    assert first["name"] == first["part"] == "2024" and first["data"] == {
        "folder": {"path": str(config.parent / "pairs")}
    }
    assert (first["model"], first["size"], first["flip"], first["crops"], first["settings"]) == (
        "demo",
        256,
        True,
        0,
        {},
    )
    assert second["data"] == {"demo": {"objects": ["cat"], "part": "head", "pictures": 20, "first_seed": 4_000_000}}
    assert json.loads(json.dumps(plan.tasks)) == plan.tasks


def test_the_settings_of_a_token_go_before_those_of_the_file(config):
    config.write_text(CONFIG.replace("seed: 2", "steps: 7, learning_rate: 3"))
    settings = [task["settings"] for task in read_plan(config).tasks]
    assert [one["steps"] for one in settings] == [40, 7]
    assert settings[1] == {**settings[0], "steps": 7, "learning_rate": 3, "recipe": "paper"}


def test_a_token_says_what_it_was_made_from_without_paths():
    coco = {"annotations": "/home/me/train.json", "images": "/home/me/train", "parts": ["Quadruped Head", "Tail"]}
    task = {"data": {"part_imagenet": coco}, "model": "/models/sd_xl.safetensors", "prompt": "a cat", "note": "mine"}
    assert made_from(task) == {
        "model": "sd_xl.safetensors",
        "data": "part_imagenet: train.json; Quadruped Head, Tail",
        "prompt": "a cat",
        "note": "mine",
    }


@pytest.mark.skipif(os.name != "posix", reason="a script as the interpreter")
def test_processes_start_with_a_python_that_searches_only_its_own_folders(tmp_path, monkeypatch):
    """ComfyUI's portable edition for Windows has such a one: neither PYTHONPATH nor the current folder count."""
    isolated = tmp_path / "python"
    isolated.write_text(f"#!/bin/sh\nexec '{sys.executable}' -I \"$@\" --help\n")
    isolated.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(isolated))
    run_module._start({"name": "a", "output": str(tmp_path)}).wait()
    peers = PeerProcess()
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command))
    peers._start()
    peers.log.unlink()
    monkeypatch.undo()
    done = subprocess.run(started[0], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "--cpu" in done.stdout, done.stderr
    started.clear()
