"""run.py evaluate: the plan, sharing between servers, and the tables."""

from __future__ import annotations

import threading
import time

import pytest
import yaml
from PIL import Image

from support.evaluation import SIZE, box, write_config
from tools import decibels
from tools.config_file import ConfigError
from tools.evaluate.cases import Case, Pair, Pictures, file_name
from tools.evaluate.config import read_plan
from tools.evaluate.demo_world import success
from tools.evaluate.jobs import NoServerLeft, share
from tools.evaluate.page import page
from tools.evaluate.run import main
from tools.evaluate.scores import COLUMNS, means, with_kept
from tools.evaluate.store import Store
from tools.evaluate.tables import markdown, plan_text, published, report
from tools.evaluate.work import Bench, EditJob
from tools.evaluate.worker import JobError, ServerGone


def test_success_is_the_parts_colour(tmp_path):
    pictures = Pictures(tmp_path, SIZE)
    mask = pictures.mask(box(20, 60))
    case = Case("d", "n", "a red cat", "a blue cat", pairs=(Pair("a red cat", "a blue cat", mask, "blue"),))
    assert success(Image.new("RGB", (SIZE, SIZE), (50, 90, 200)), case, pictures) == 1.0
    assert success(Image.new("RGB", (SIZE, SIZE), (214, 44, 46)), case, pictures) == 0.0
    found = case.with_source("x.png", mask)
    assert success(Image.new("RGB", (SIZE, SIZE), (50, 90, 200)), found, pictures) is None, "no exact mask"


def test_the_plan_counts_pictures_and_rows_and_writes_nothing(tmp_path):
    methods = [
        {"method": "partedit", "sweep": {"omega": [1.0, 1.5]}},
        {"method": "oir", "strategy": "exhaustive"},
        {"method": "oir", "name": "one step", "fixed_step": 30},
        "sdedit",
    ]
    data = [{"demo": {"kind": "parts", "count": 2}}, {"name": "made", "demo": {"kind": "generated", "count": 3}}]
    data.append({"name": "two", "demo": {"kind": "objects", "count": 1}})
    plan = read_plan(write_config(tmp_path, data, methods, settings={"steps": 50}), write=False)
    text = " ".join(plan_text(plan, 100.0).split())
    # Source and edit, guided: 4 rows a step; LEDITS++ inverts without the model.
    assert "partedit, omega 1.5 2 pictures 400 rows" in text
    # 50 rows of inversion, and 1275 guided steps.
    assert f"oir 2 pictures {2 * (50 + 2 * 1275):,} rows" in text
    assert f"one step 2 pictures {2 * (50 + 2 * 30)} rows" in text
    assert "partedit, omega 1.0 0 pictures 0 rows (1 left out: no part token)" in text
    assert "generated sources 3 pictures 300 rows" in text
    # Two objects: also their own passes to the reassembly, re-inversion, and the last pass.
    assert f"oir 1 pictures ≤ {50 + 2 * 2 * 1275 + 2 * 2 * 40 + 10 + 2 * 20:,} rows" in text
    assert "hours at 100 rows per second" in text and not (tmp_path / "evaluation").exists()


def test_a_method_may_be_for_some_data_only(tmp_path):
    data = [{"name": name, "demo": {"count": 2}} for name in ("a", "b")]
    methods = ["sdedit", {"method": "partedit", "data": ["b"], "sweep": {"omega": [1.0, 1.5]}}]
    plan = read_plan(write_config(tmp_path, data, methods))
    assert [[m.name for m in plan.methods_for(name)] for name in "ab"] == [
        ["sdedit"],
        ["sdedit", "partedit, omega 1.0", "partedit, omega 1.5"],
    ]
    first, second = plan_text(plan, None).split("b: 2 edits")
    assert "partedit" not in first and second.count("partedit") == 2
    values = report(plan, {}, {})
    assert [len(one["rows"]) for one in values["data"]] == [1, 3]
    assert list(values["data"][0]["edits"][0]["results"]) == ["sdedit"]
    with pytest.raises(ConfigError, match=r"'partedit' is for the data 'c', but there is only \['a', 'b'\]"):
        read_plan(write_config(tmp_path, data, [{"method": "partedit", "data": ["c"]}]))


def test_what_a_method_is_for_is_no_part_of_what_its_edits_depend_on(tmp_path):
    keys = []
    for only in (None, ["demo"]):
        method = {"method": "sdedit", **({"data": only} if only else {})}
        plan = read_plan(write_config(tmp_path, [{"demo": {"count": 1}}], [method]))
        keys.append(Bench(plan).key(EditJob(plan.cases[0], plan.methods[0])))
    assert keys[0] == keys[1]


def offered(content):
    """What a server says of its part tokens."""
    return {"LoadPartToken": {"input": {"required": {"part_token": [["a"], {"partedit_contents": content}]}}}}


def test_a_token_that_was_trained_again_makes_its_edits_again_and_no_others(tmp_path):
    """Its name stays the same, and so did the results of the old one."""
    methods = ["partedit", {"method": "partedit", "name": "given", "given_mask": True}, "sdedit"]
    plan = read_plan(write_config(tmp_path, [{"demo": {"kind": "generated", "count": 1}}], methods))
    (case,) = plan.cases
    jobs = [EditJob(case), *(EditJob(case, method) for method in plan.methods)]
    keys = []
    for content in ("old", "new"):
        bench = Bench(plan)
        assert bench.know_tokens({"one": offered({case.token: content, "other": content})}) == []
        keys.append([bench.key(job) for job in jobs])
    # The generated source's mask is found by the token.
    assert [old == new for old, new in zip(*keys)] == [False, False, True, True]
    bench = Bench(plan)
    wrong = bench.know_tokens({"one": offered({case.token: "old"}), "two": offered({case.token: "new"})})
    assert wrong == [f"two: its token {case.token} is not that of one"]
    assert Bench(plan).know_tokens({"older pack": {}}) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"methods": ["partedit", "partedit"]}, "'partedit' is used twice"),
        ({"methods": ["p2p"]}, "expected one of partedit, oir"),
        ({"methods": [{"method": "partedit", "omega": 9.0}]}, "omega"),
        ({"methods": [{"method": "oir", "sweep": {"edit_weight": 3}}]}, "list of values"),
        ({"data": [{"demo": {}, "folder": "."}]}, "exactly one of"),
        ({"data": [{"demo": {}}, {"demo": {}}]}, "used twice"),
        ({"servers": ["ftp://x"]}, "expected an address"),
        ({"size": 100}, "multiple of 8"),
        ({"output": 3.5, "seed": 1}, "unknown key seed"),
        # These once ended in an IndexError, or in another step than was asked for.
        ({"methods": [{"method": "oir", "fixed_step": 60}]}, "'oir': fixed_step: is 60, but there are 50 steps"),
        ({"methods": [{"method": "oir", "first_step": 8, "last_step": 5}]}, "first_step: is 8, after last_step"),
        ({"methods": [{"method": "one_step", "steps": 20, "step": 30}]}, "step: is 30, but there are 20 steps"),
        ({"methods": [{"method": "partedit", "name": "source"}]}, "that of the generated sources' files"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_runs(tmp_path, capsys, change, says):
    values = {"data": [{"demo": {"count": 1}}], "methods": ["unchanged"], **change}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    assert main([str(file)]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "evaluation").exists()


class Flaky:
    """A server that is lost at some of its jobs."""

    def __init__(self, name, fails=(), returns=True):
        self.place, self.fails, self.returns, self.did = name, set(fails), returns, []

    def reopen(self, patience):
        return self.returns

    def do(self, job):
        time.sleep(0.005)
        self.did.append(job)
        if len(self.did) in self.fails:
            raise ServerGone("gone")
        return job


def shared(jobs, servers, work=lambda server, job: server.do(job), **options):
    outcomes = []
    share(jobs, servers, work, outcomes.append, log=lambda text: None, **options)
    return outcomes


def test_every_job_is_done_once_whatever_dies():
    servers = [Flaky("a", fails={3}, returns=False), Flaky("b"), Flaky("c", fails={2, 5})]
    outcomes = shared(range(40), servers)
    assert sorted(one.job for one in outcomes) == list(range(40)) and not any(one.error for one in outcomes)
    assert len(servers[0].did) == 3 and servers[1].did and servers[2].did


def test_a_job_that_kills_every_server_fails_alone():
    def work(server, job):
        if job == 2:
            raise ServerGone("out of memory")
        if job == 3:
            raise JobError("no such file")
        return server.do(job)

    errors = {one.job: one.error for one in shared(range(6), [Flaky("a"), Flaky("b")], work, retries=1)}
    assert "lost 2 times" in errors[2] and "out of memory" in errors[2] and errors[3] == "no such file"
    assert not any(errors[job] for job in (0, 1, 4, 5))


def test_without_servers_the_jobs_that_are_left_are_counted():
    with pytest.raises(NoServerLeft, match="4 of 5 jobs"):
        shared(range(5), [Flaky("a", fails={2}, returns=False)])


def test_a_fault_of_the_program_itself_is_not_swallowed():
    def work(server, job):
        raise ZeroDivisionError

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        shared(range(5), [Flaky("a"), Flaky("b")], work)
    assert threading.active_count() <= before + 2


def test_a_result_counts_only_when_it_is_whole(tmp_path):
    store, case = Store(tmp_path), Case("d", "A case: 1", "a", "b")
    store.write(case, "m", {"key": "k", "pictures": ["edited"]}, {"edited": b"png"})
    assert store.read(case, "m", "k") and store.read(case, "m", "other") is None
    store.picture(case, "m").unlink()
    assert store.read(case, "m", "k") is None
    assert file_name("A case: 1") != file_name("a case? 1") and file_name("plain_1") == "plain_1"
    # Devices on Windows, whatever follows the first dot.
    assert [file_name(name).split("-")[0] for name in ("con", "aux.b", "COM1", "cone")] == ["x", "x", "x", "cone"]


def results_of(plan):
    """Results of two methods, of which one failed once."""
    results = {}
    for number, case in enumerate(plan.cases):
        scores = {column.key: None for column in COLUMNS} | {"psnr": 20.0 + number, "ssim": 0.5}
        results[(case.data, case.name, "sdedit")] = {"scores": scores, "seconds": 2.0}
        results[(case.data, case.name, "partedit")] = {"scores": {**scores, "psnr": 30.0}, "seconds": 1.0}
    results[(case.data, case.name, "partedit")] = {"error": "<broken>"}
    return results


def test_tables_are_means_beside_the_papers_figures(tmp_path):
    file = write_config(tmp_path, [{"demo": {"count": 2}}], ["partedit", "sdedit"])
    plan = read_plan(file)
    values = report(plan, {(case.data, case.name): case for case in plan.cases}, results_of(plan))
    rows = values["data"][0]["rows"]
    assert [row["scores"]["psnr"] for row in rows] == [30.0, 20.5] and [row["failed"] for row in rows] == [1, 0]
    assert rows[0]["scores"]["lpips"] is None and any("LPIPS" in note for note in values["notes"])
    text = markdown(values)
    # Alpha-CLIP is missing: masked CLIP stands in its place, and its name says so.
    assert "masked CLIP fg ↑" in text and "αCLIP fg ↑" in text.split("Published")[1]
    assert "| partedit | no | 1 (1 failed) | – | – | – | 30.0 |" in text
    assert "PartEdit with LEDITS++ | no | 85.59 | 28.29 | 26.3 | 0.76 | 56.94" in text
    html = page(values, tmp_path, {})
    assert "&lt;broken&gt;" in html and "<broken>" not in html and "85.59" in html
    assert means([{"psnr": 1.0}, {"psnr": None}, {}])["psnr"] == 1.0


def test_equal_pictures_are_known_by_what_the_node_gives(pack):
    from partedit_oir.core import metrics

    assert decibels.EQUAL_DB == metrics.EQUAL_DB


def test_pictures_that_are_equal_to_their_source_do_not_lift_the_mean_psnr(tmp_path):
    """Edit Metrics gives 1000 for them; a pasted-back row once showed 1000.0 dB, and a mixed one would any number."""
    assert means([{"psnr": 1000.0}, {"psnr": 26.0}, {"psnr": 28.0}])["psnr"] == 27.0
    plan = read_plan(write_config(tmp_path, [{"demo": {"count": 2}}], ["partedit", "sdedit"]))
    results = results_of(plan)
    scored = [one for one in results.values() if "scores" in one]
    for one, psnr in zip(scored, (1000.0, 1000.0, 26.0), strict=True):
        one["scores"]["psnr"] = psnr
    values = report(plan, {(case.data, case.name): case for case in plan.cases}, results)
    first, second = (
        line.split(" | ")[6] for line in markdown(values).splitlines() if line.startswith(("| part", "| sded"))
    )
    assert (first, second) == ("equal", "26.0 (1)")
    assert "<td>equal</td>" in page(values, tmp_path, {}), "one of its two edits failed, so it is compared with nothing"
    for place, one in results.items():
        if "error" in one:
            results[place] = scored[0]
    values = report(plan, {(case.data, case.name): case for case in plan.cases}, results)
    assert "<td class=best>equal</td>" in page(values, tmp_path, {})


def test_success_counts_as_kept_only_with_the_background():
    assert with_kept({"success": 100.0, "psnr": 20.0})["kept"] == 100
    assert with_kept({"success": 0.0, "psnr": 40.0})["kept"] == 0
    assert with_kept({"success": 100.0, "psnr": 19.9})["kept"] == 0
    assert "kept" not in with_kept({"success": None, "psnr": 30.0}) and "kept" not in with_kept({"success": 100.0})


def test_the_published_averages_are_those_of_their_rows():
    """A slip in a figure would show: the paper's average is the mean of its two CLIP columns."""
    for name in ("partedit_synthetic", "partedit_real"):
        for row in published()[name]["rows"]:
            assert row["alpha_avg"] == pytest.approx((row["alpha_fg"] + row["alpha_bg"]) / 2, abs=0.011), row["method"]
