"""run.py evaluate on real servers: two share the work, one of them is killed, and nothing is lost or done twice."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import threading
from collections import Counter

import pytest
import yaml
from PIL import Image

from tools.evaluate.cluster import RayWorker
from tools.evaluate.config import read_plan
from tools.evaluate.run import evaluate, main, write_report
from tools.evaluate.work import Bench
from tools.evaluate.worker import Worker
from tools.host.server import Server

pytestmark = pytest.mark.slow

SMALL = {
    "output": "out",
    "size": 128,
    "settings": {"steps": 2, "sampler_name": "dpmpp_2m"},
    "data": [
        {"name": "parts", "demo": {"kind": "parts", "count": 3}},
        {"name": "made", "demo": {"kind": "generated", "count": 1}},
        {"name": "pairs", "demo": {"kind": "objects", "count": 1}},
    ],
    "methods": [
        "partedit",
        {"method": "oir", "strategy": "coarse-to-fine"},
        {"method": "sdedit", "strength": 0.5},
        "latent_blending",
        "one_step",
        "unchanged",
    ],
}


def write(folder, **changes):
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({**SMALL, **changes}))
    return file


@pytest.fixture
def made(monkeypatch):
    """Counts how often each edit is made by a server."""
    counted: Counter[tuple[str, str, str]] = Counter()
    make = Bench._make

    def count(self, server, job, key):
        result = make(self, server, job, key)
        counted[(job.case.data, job.case.name, job.name)] += 1
        return result

    monkeypatch.setattr(Bench, "_make", count)
    return counted


def test_two_servers_share_the_work_and_one_is_killed(server, host, pack_name, tmp_path, monkeypatch, made):
    plan = read_plan(write(tmp_path))
    with Server(host, cpu=True, pack_name=pack_name, threads=1) as other:
        other.start()
        workers = [Worker(server.base_url), Worker(other.base_url)]
        tasks: Counter[str] = Counter()
        do = Bench.do

        def counting(self, worker, job):
            tasks[worker.place] += 1
            if worker is workers[1] and tasks[worker.place] == 3:
                # Its keeper leads a process group with the server in it.
                threading.Timer(0.05, os.killpg, (other.process.pid, signal.SIGKILL)).start()
            return do(self, worker, job)

        monkeypatch.setattr(Bench, "do", counting)
        cases, results = evaluate(plan, workers)
        assert not other.alive() and min(tasks.values()) >= 3, tasks

    assert not [one["error"] for one in results.values() if "error" in one]
    # Parts: every method. A generated part: too, its mask is the token's. Pairs have no token.
    expected = {place for place in results if "lacks" not in results[place]}
    assert len(results) == 5 * 6 and len(expected) == 29
    assert {place for place in made if place[2] != "source"} == expected
    for data, name, method in expected:
        assert Image.open(Bench(plan).store.picture(cases[data, name], method)).size == (128, 128)
        assert results[data, name, method]["scores"]["psnr"] > 3, (data, name, method)
    edited = [results["parts", case.name, "latent_blending"]["scores"] for case in plan.data[0].cases]
    assert all(one["success"] in (0.0, 100.0) and one["clip_fg"] is not None for one in edited)

    # Again: everything is there. A changed setting: only that method is made again.
    before = made.copy()
    again = evaluate(read_plan(write(tmp_path)), [Worker(server.base_url)])
    assert made == before and again[1] == results
    methods = [
        {**one, "strength": 0.6} if isinstance(one, dict) and one["method"] == "sdedit" else one
        for one in SMALL["methods"]
    ]
    changed = read_plan(write(tmp_path, methods=methods))
    cases, results = evaluate(changed, [Worker(server.base_url)])
    more = made - before
    assert len(more) == 5 and {place[2] for place in more} == {"sdedit"}
    values = write_report(changed, cases, results)
    assert [row["edits"] for row in values["data"][0]["rows"]] == [3] * 6
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    for file in [part.split('"')[0] for part in html.split('src="')[1:]]:
        assert (tmp_path / "out" / file).is_file(), file


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is installed for the tests on Linux only")
def test_ray_starts_the_servers(tmp_path, monkeypatch, made, capsys):
    """The servers live in Ray's own processes; one that is lost with its actor is started again."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else other programs may starve the workers
    data = [{"name": "parts", "demo": {"kind": "parts", "count": 2}}]
    file = write(tmp_path, data=data, methods=["sdedit", "unchanged"], ray={"cpus_per_server": 1})
    run, calls = RayWorker.run, []

    def lose_it_once(self, *arguments):
        calls.append(self)
        if len(calls) == 3:
            self.cluster.ray.kill(self.actor)
        return run(self, *arguments)

    monkeypatch.setattr(RayWorker, "run", lose_it_once)
    assert main([str(file), "--cpu"]) == 0
    assert sorted(made.values()) == [1] * 4 and "goes to the next server" in capsys.readouterr().out


def test_peers_beside_a_server_and_what_is_missing_for_some(server, tmp_path, capsys, made):
    """Graphs and diffusers on the same weights; a method whose own files are not there is a line in the table."""
    methods = [
        {"method": "edit_friendly_ddpm", "skip": 0.5},
        "pnp_inversion",
        {"method": "latent_blending", "objects": "guided prompt"},
        {"method": "latent_blending", "objects": "target phrase", "name": "phrases"},
        "ledits_pp",
        "diffedit",
        "inpaint_pipeline",
        {"method": "virtual_inversion", "strength": 1.0},
        {"method": "instruct_pix2pix", "folder": "no_such_folder"},
        {"method": "inpainting", "checkpoint": "no_such.safetensors"},
        {"method": "oir", "name": "oir, no reassembly", "fixed_step": 2, "reassembly": 0.0, "reinversion": 0.0},
    ]
    data = [{"name": name, "demo": {"kind": name, "count": 1}} for name in ("parts", "objects", "generated")]
    file = write(tmp_path, data=data, methods=methods, settings={"steps": 4, "sampler_name": "dpmpp_2m"})
    assert main([str(file), "--server", server.base_url]) == 0, capsys.readouterr()
    values = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    for one in values["data"]:
        rows = {row["method"]: row for row in one["rows"]}
        assert "no InstructPix2Pix in" in rows["instruct_pix2pix"]["lacks"][0]
        assert "does not offer 'no_such.safetensors'" in rows["inpainting"]["lacks"][0]
        done = {name: row for name, row in rows.items() if name not in ("instruct_pix2pix", "inpainting")}
        assert [row["edits"] for row in done.values()] == [1] * 9, (one["name"], rows)
        # Told a mask, a method keeps what is outside it; the edit of everything does not.
        known = {name: row["scores"]["psnr"] for name, row in done.items()}
        assert min(known["latent_blending"], known["inpaint_pipeline"]) > known["ledits_pp"], known
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "no InstructPix2Pix in" in text and "no_such.safetensors" in text
    assert made.pop(("parts", values["data"][0]["edits"][0]["name"], "diffedit")) == 1


def test_what_a_server_lacks_is_said_before_anything_runs(server, tmp_path, capsys, made):
    methods = ["unchanged", {"method": "inpainting", "checkpoint": "no_such.safetensors"}]
    methods.append("sdedit")
    file = write(tmp_path, methods=methods, settings={"steps": 2, "sampler_name": "dpmpp2m"})
    assert main([str(file), "--server", server.base_url]) == 2
    said = capsys.readouterr().err
    left_out = "inpainting would be left out: CheckpointLoaderSimple.ckpt_name: the server does not offer"
    assert f"{left_out} 'no_such.safetensors'" in said
    assert "KSampler.sampler_name: the server does not offer 'dpmpp2m'. It has: dpmpp_2m" in said and not made


def test_the_quick_demo(server, tmp_path, capsys):
    assert main(["--demo", "--quick", "--server", server.base_url, "--output", str(tmp_path)]) == 0
    values = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    parts, pairs, made = values["data"]
    assert [row["edits"] for row in parts["rows"]] == [2] * 8 and [row["edits"] for row in made["rows"]] == [1] * 7
    assert pairs["rows"][0]["lacks"] == ["no part token"] and pairs["rows"][1]["edits"] == 1
    # A blended edit keeps the background better than one that is told no place.
    by_name = {row["method"]: row["scores"] for row in parts["rows"]}
    assert by_name["partedit"]["psnr"] > by_name["sdedit"]["psnr"] + 3
    # Both parts take their new colour; a generated picture is judged by the judge.
    assert by_name["partedit"]["success"] == 100
    assert {row["method"]: row["scores"]["success"] for row in made["rows"]}["unchanged"] == 0
    assert by_name["unchanged"]["psnr"] > by_name["sdedit"]["psnr"] and by_name["unchanged"]["success"] == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Published: PartEdit, Table 1" in text and "Published: OIR, Table 1" in text
    assert "look at the pictures" in capsys.readouterr().out
