"""Evaluate methods on data: pictures, metrics, and a table beside the papers' figures.

    python3 run.py evaluate CONFIG.yaml [--plan] [--server ADDRESS] [--cpu]
    python3 run.py evaluate --demo --quick

    output: evaluation           # folder for everything, relative to this file
    model: sd_xl_base_1.0.safetensors      # as the servers list it, or demo
    size: 1024
    settings: {steps: 50, cfg: 7.5, sampler_name: ddim, scheduler: normal}
    score_scorer: {clip_scorer: clip-vit-large-patch14}
    data:
      - name: my pictures
        folder: pictures         # with edits.yaml or edits.csv
    methods:
      - partedit
      - {method: partedit, sweep: {omega: [1.0, 1.5, 2.0]}}
      - latent_blending
    servers: [http://10.0.0.5:8188, http://10.0.0.6:8188]     # leave out to start one here

A stopped run continues where it was; see docs/evaluate.md for all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..config_file import ConfigError
from ..host.existing import has_accelerator
from ..host.layout import PACK_DIR, end_cleanly_when_told_to_stop, write_whole
from ..host.provision import locked
from .cases import SOURCE, Case
from .cluster import Cluster
from .config import Plan, is_token_file, read_plan, server_address
from .demo_checks import measure, said
from .jobs import NoServerLeft, Outcome, share
from .page import page
from .tables import markdown, plan_text, report, table
from .work import Bench, EditJob
from .worker import ServerGone, Worker

CONFIGS = Path(__file__).with_name("configs")
Results = dict[tuple[str, str, str], dict[str, Any]]


class Progress:
    """A line for each finished job, with the time that is left."""

    def __init__(self, total: int, kept: int) -> None:
        self.total, self.kept, self.count, self.started = total, kept, kept, time.monotonic()

    def __call__(self, job: EditJob, outcome: Outcome[EditJob]) -> None:
        self.count += 1
        made = self.count - self.kept
        left = (time.monotonic() - self.started) / made * (self.total - self.count)
        seconds = "" if outcome.value is None else f" {outcome.value['seconds']:.1f} s"
        text = f"{seconds.strip()} on {outcome.place}"
        if outcome.error or outcome.missing:
            text = f"FAILED: {outcome.error}" if outcome.error else f"left out: {outcome.missing}"
        end = f", {_time(left)} left" if self.count < self.total else ""
        print(f"[{self.count}/{self.total}] {job.case.data}, {job.case.name}, {job.name}: {text}{end}", flush=True)


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def evaluate(plan: Plan, runners: Sequence[Any]) -> tuple[dict[tuple[str, str], Case], Results]:
    """Do everything that is not done yet. Returns the final cases and all results, see `tables.report`.

    Raises:
        ConfigError: a server lacks a node, a model or a value.
        NoServerLeft: see `jobs.share`.
    """
    bench = Bench(plan)
    opened = open_all(runners)
    if problems := bench.know_tokens({runner.place: runner.info for runner in opened}):
        raise ConfigError("\n".join(problems))
    every = [
        EditJob(case, method) for case in plan.cases for method in plan.methods_for(case.data) if not method.lacks(case)
    ]
    sources = [EditJob(case) for case in plan.cases if case.generated]
    absent: dict[str, str] = {}
    for runner in opened:
        # All servers lack the same things mostly; the others are asked for one job of each method.
        few = list({(job.case.data, job.name): job for job in every}.values())
        asked = [*sources, *every] if runner is opened[0] else [*sources[:1], *few]
        problems, missing = bench.check(asked, runner.info)
        absent |= missing
        if problems:
            problems += [f"{name} would be left out: {why}" for name, why in missing.items()]
            raise ConfigError("\n".join(f"{runner.place}: {problem}" for problem in problems))

    for name, why in absent.items():
        print(f"{name} is left out: {why}", flush=True)
    failed, _ = _share(bench, sources, opened)
    cases: dict[tuple[str, str], Case] = {}
    results: Results = {}
    jobs: list[EditJob] = []
    for case in plan.cases:
        final: Case | None = case
        if case.generated:
            final = bench.with_source(EditJob(case))
        for method in plan.methods_for(case.data):
            place = (case.data, case.name, str(method.name))
            why = method.lacks(case) or absent.get(str(method.name), "")
            if not why and final is not None and final.generated and not final.mask and _needs_mask(method):
                why = "the token saw its part nowhere in the generated source"
            if why:
                results[place] = {"lacks": why}
            elif final is None:
                results[place] = {
                    "error": f"its source could not be generated: {failed[(case.data, case.name, SOURCE)]}"
                }
            else:
                jobs.append(EditJob(final, method))
        cases[(case.data, case.name)] = final or case
    errors, lacking = _share(bench, jobs, opened)
    for job in jobs:
        place = (job.case.data, job.case.name, job.name)
        if place in lacking:
            results[place] = {"lacks": lacking[place]}
        else:
            results[place] = {"error": errors[place]} if place in errors else bench.kept(job) or {}
    return cases, results


def _needs_mask(method: Any) -> bool:
    return method.told_mask or getattr(method, "given_mask", False)


Reasons = dict[tuple[str, str, str], str]


def _share(bench: Bench, jobs: list[EditJob], runners: Sequence[Any]) -> tuple[Reasons, Reasons]:
    """Do those of the jobs that are not done yet; returns why some failed, and what others lack."""
    waiting = [job for job in jobs if bench.kept(job) is None]
    progress = Progress(len(jobs), len(jobs) - len(waiting))
    if len(waiting) < len(jobs):
        print(f"{len(jobs) - len(waiting)} of {len(jobs)} are there from an earlier run", flush=True)
    errors: Reasons = {}
    lacking: Reasons = {}

    def done(outcome: Outcome[EditJob]) -> None:
        place = (outcome.job.case.data, outcome.job.case.name, outcome.job.name)
        if outcome.error:
            errors[place] = outcome.error
        if outcome.missing:
            lacking[place] = outcome.missing
        progress(outcome.job, outcome)

    if waiting:
        share(waiting, runners, bench.do, done, bench.config.retries)
    return errors, lacking


def open_all(runners: Sequence[Any]) -> list[Any]:
    """Start or reach all servers at once; those that answer.

    Raises:
        NoServerLeft: none does.
    """
    problems: dict[int, str] = {}

    def open_one(number: int) -> None:
        try:
            runners[number].open()
        except ServerGone as error:
            problems[number] = str(error)

    threads = [threading.Thread(target=open_one, args=(number,), daemon=True) for number in range(len(runners))]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.5)
    for problem in problems.values():
        print(problem, file=sys.stderr, flush=True)
    opened = [runner for number, runner in enumerate(runners) if number not in problems]
    if not opened:
        raise NoServerLeft("no server could be started or reached.")
    return opened


@contextlib.contextmanager
def servers(plan: Plan, addresses: Sequence[str], cpu: bool, use_ray: bool) -> Iterator[list[Any]]:
    """The servers of a plan, stopped at the end if they were started here."""
    config = plan.config
    cpu = cpu or not has_accelerator(Path(sys.executable))
    with contextlib.ExitStack() as stack:
        runners: list[Any] = [Worker(address, limit=config.limit_seconds) for address in addresses or config.servers]
        if config.ray is not None and use_ray:
            try:
                runners += stack.enter_context(Cluster(config.ray, cpu, config.limit_seconds)).runners()
            except ImportError:
                print("Ray is not installed (pip install 'ray>=2.30'); running on this machine.", flush=True)
        if not runners:
            count = max(config.start, 1)
            threads = None
            if cpu and count > 1 and "OMP_NUM_THREADS" not in os.environ:
                threads = max(1, (os.cpu_count() or 1) // count)
            print(f"starting ComfyUI on the {'CPU' if cpu else 'GPU'} ...", flush=True)
            runners = [Worker("", cpu, threads, config.limit_seconds) for _ in range(count)]
        for runner in runners:
            stack.callback(runner.close)
        yield runners


def write_report(
    plan: Plan, cases: dict[tuple[str, str], Case], results: Results, checks: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write report.json, report.md and index.html; returns the report.

    Args:
        checks: see `demo_checks.measure`.
    """
    values = report(plan, cases, results, checks)
    bench = Bench(plan)
    methods = [str(method.name) for method in plan.methods]
    files = {
        (data, name, method): bench.store.picture(case, method)
        for (data, name), case in cases.items()
        for method in methods
    }
    write_whole(plan.output / "report.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    write_whole(plan.output / "report.md", markdown(values))
    write_whole(plan.output / "index.html", page(values, plan.output, files))
    return values


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="run.py evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, nargs="?")
    parser.add_argument("--demo", action="store_true", help="the demo model on its own world, instead of a file")
    parser.add_argument("--quick", action="store_true", help="with --demo: few edits and steps, under 3 minutes")
    parser.add_argument("--token", action="store_true", help="with --demo: the token laboratory instead of edits")
    parser.add_argument("--plan", action="store_true", help="only show what would run")
    parser.add_argument("--output", type=Path, help="folder for everything, instead of the file's")
    parser.add_argument("--server", action="append", default=[], metavar="ADDRESS", help="use this server; repeatable")
    parser.add_argument("--rows-per-second", type=float, help="UNet rows per second, for the hours of --plan")
    parser.add_argument("--no-ray", action="store_true", help="run on this machine even if the file has a 'ray' entry")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    options = parser.parse_args(arguments)
    if options.demo == (options.config is not None):
        parser.error("give either a YAML file, or --demo")
    if options.quick and not options.demo:
        parser.error("--quick goes with --demo")
    if options.token and (not options.demo or options.quick):
        parser.error("--token goes with --demo alone; in a file of your own, write 'kind: token'")
    if options.rows_per_second is not None and not options.rows_per_second > 0:
        parser.error(f"--rows-per-second: expected a positive number, got {options.rows_per_second:g}")
    try:
        addresses = [server_address(one) for one in options.server]
    except ValueError as error:
        parser.error(f"--server: {error}")
    config, output = options.config, options.output and options.output.absolute()
    if options.demo:
        name = "demo_token" if options.token else "demo_quick" if options.quick else "demo"
        config, output = CONFIGS / f"{name}.yaml", output or PACK_DIR / "output" / f"evaluate_{name}"
    try:
        if is_token_file(config):
            from .tokens.run import run_token

            if options.plan or options.server:
                parser.error("a token laboratory runs in this process: --plan and --server do not go with it")
            return run_token(config, output, options.cpu)
        plan = read_plan(config, output, write=not options.plan)
        if options.plan:
            print(plan_text(plan, options.rows_per_second or plan.config.rows_per_second))
            return 0
        plan.output.mkdir(parents=True, exist_ok=True)
        with (
            locked(plan.output / ".lock", "another evaluation writes to this folder; waiting for it"),
            servers(plan, addresses, options.cpu, not options.no_ray) as runners,
        ):
            cases, results = evaluate(plan, runners)
        checks = measure(plan.config.checks, plan.output / "checks.json")
        values = write_report(plan, cases, results, checks)
    except (ConfigError, OSError, ValueError) as error:
        if not isinstance(error, ConfigError | OSError) and not is_token_file(config):
            raise
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    except NoServerLeft as error:
        print(f"evaluate: {error} Run the same command again to continue.", file=sys.stderr)
        return 1
    for data in values["data"]:
        head, rows = table(data)
        print(f"\n{data['name']}\n" + "\n".join("  ".join(row) for row in [head, *rows]))
    print("".join(f"\n{line}" for line in said(checks)))
    print(f"\nlook at the pictures: {plan.output / 'index.html'}")
    return 1 if any(row["failed"] for data in values["data"] for row in data["rows"]) else 0


if __name__ == "__main__":
    end_cleanly_when_told_to_stop()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
