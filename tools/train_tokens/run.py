"""Train several part tokens from one file, on this machine or, with Ray, on several.

    python3 run.py train-tokens CONFIG.yaml [--no-ray] [--cpu]

    output: my_tokens            # folder for tokens, plots, reports and logs, relative to this file
    model: sd_xl_base_1.0.safetensors      # or demo
    size: 1024
    settings: {steps: 2000, layers: first-8}      # for all tokens; see TrainPartToken. recipe: paper | pack
    retries: 2                   # how often to retry a task whose process died
    workers: 1                   # parallel processes without Ray
    ray: {address: auto, gpus_per_token: 1}       # leave out to run on this machine
    tokens:
      - name: cat_head
        part: head
        data: {folder: pictures/cat_head}         # cat1.png with cat1_mask.png, or images/ and masks/
      - name: quadruped_head
        data: {part_imagenet: {annotations: train.json, images: train, parts: [Quadruped Head], limit: 40}}
      - name: human_hair
        data: {pascal_part: {annotations: Annotations_Part, images: JPEGImages, object_class: person, parts: [hair]}}
        settings: {noise_low: 0.1, noise_high: 0.5}

Each token is a task; a retried task resumes from its last saved state. With Ray, all machines need this repository,
ComfyUI and the data under the same paths (a shared folder); Ray is an optional extra:
``pip install 'ray>=2.30'``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config_file import ConfigError
from ..host.layout import PACK_DIR, end_cleanly_when_told_to_stop, module_command, write_whole
from ..host.provision import locked
from .plan import Plan, Ray, read_plan
from .task import run_task


def run_here(plan: Plan, on_start: Callable[[str, int], None] | None = None) -> list[dict[str, Any]]:
    """Run each task in a process of its own, ``plan.workers`` at a time.

    Args:
        on_start: called with the task's name and process id whenever a process starts.

    Returns:
        One result per task, in the file's order; a failed one has the key ``error``.
    """
    waiting = [(task, 0) for task in plan.tasks]
    running: list[tuple[subprocess.Popen[str], dict[str, Any], int]] = []
    results: dict[str, dict[str, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < plan.workers:
                task, attempt = waiting.pop(0)
                process = _start(task)
                running.append((process, task, attempt))
                if on_start is not None:
                    on_start(task["name"], process.pid)
            time.sleep(0.05)
            for entry in [entry for entry in running if entry[0].poll() is not None]:
                running.remove(entry)
                process, task, attempt = entry
                result = _result_of(task, process.returncode)
                # A task that raised would raise again; one whose process died may have run out of memory.
                if result is None and attempt < plan.retries:
                    print(f"{task['name']}: the process died ({process.returncode}); retrying", flush=True)
                    waiting.insert(0, (task, attempt + 1))
                    continue
                name = task["name"]
                died = {
                    "name": name,
                    "error": f"the process died {attempt + 1} times (last exit code {process.returncode})",
                }
                results[name] = result or died
                _report(results[name])
    finally:
        for process, _, _ in running:
            process.terminate()
        for process, _, _ in running:
            process.wait()
    return [results[task["name"]] for task in plan.tasks]


def run_on_ray(plan: Plan, cpu: bool) -> list[dict[str, Any]]:
    """One Ray task per token; Ray itself retries a task whose worker or machine died.

    Raises:
        ImportError: Ray is not installed.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics unless the user asks for them
    options = plan.ray or Ray()
    environment = {key: os.environ[key] for key in ("COMFYUI_PATH", "OMP_NUM_THREADS") if key in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACK_DIR), os.environ.get("PYTHONPATH", "")]))
    ray.init(
        address=options.address,
        runtime_env={"env_vars": environment},
        ignore_reinit_error=True,
        include_dashboard=False if options.address is None else None,
    )
    try:
        remote = ray.remote(run_guarded).options(
            num_gpus=0 if cpu else options.gpus_per_token,
            num_cpus=options.cpus_per_token,
            max_retries=plan.retries,
            retry_exceptions=False,
        )
        names = {remote.remote(task): task["name"] for task in plan.tasks}
        pending, results = list(names), {}
        while pending:
            done, pending = ray.wait(pending, num_returns=1)
            name = names[done[0]]
            try:
                results[name] = ray.get(done[0])
            except ray.exceptions.RayError as error:
                results[name] = {"name": name, "error": f"{type(error).__name__}: {str(error)[:500]}"}
            _report(results[name])
    finally:
        ray.shutdown()
    return [results[task["name"]] for task in plan.tasks]


def run_guarded(task: dict[str, Any]) -> dict[str, Any]:
    """`run_task`, logged to the token's log file, with an exception returned as a result."""
    import traceback

    output = Path(task["output"])
    output.mkdir(parents=True, exist_ok=True)
    with (output / f"{task['name']}.log").open("a", encoding="utf-8") as file:

        def log(line: str) -> None:
            file.write(f"{time.strftime('%H:%M:%S')} {line}\n")
            file.flush()
            print(line, flush=True)

        try:
            return run_task(task, log)
        except Exception as error:
            file.write(traceback.format_exc())
            return {"name": task["name"], "error": f"{type(error).__name__}: {error}"}


def _start(task: dict[str, Any]) -> subprocess.Popen[str]:
    _result_file(task).unlink(missing_ok=True)
    command = [sys.executable, *module_command("tools.train_tokens.run", ["--task", json.dumps(task)])]
    return subprocess.Popen(command, cwd=PACK_DIR, text=True)


def _result_file(task: dict[str, Any]) -> Path:
    return Path(task["output"]) / f"{task['name']}.result.json"


def _result_of(task: dict[str, Any], code: int) -> dict[str, Any] | None:
    """The result a process wrote; None if it died before."""
    file = _result_file(task)
    if code != 0 or not file.is_file():
        return None
    result = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return result


def _report(result: dict[str, Any]) -> None:
    words = result.get("error") or f"IoU {result['part_iou']}, {result['seconds']} s, {result['file']}"
    print(f"{result['name']}: {words}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, nargs="?")
    parser.add_argument("--no-ray", action="store_true", help="run on this machine even if the file has a 'ray' entry")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.task:
        task = json.loads(options.task)
        result = run_guarded(task)
        write_whole(_result_file(task), json.dumps(result))
        return 0
    if options.config is None:
        parser.error("give a YAML file that lists the tokens to train")
    try:
        plan = read_plan(options.config)
    except (ConfigError, OSError) as error:
        print(f"train-tokens: {error}", file=sys.stderr)
        return 2
    for task in plan.tasks:
        task["cpu"] = options.cpu
    try:
        plan.output.mkdir(parents=True, exist_ok=True)
        with locked(plan.output / ".lock", "another training writes to this folder; waiting for it"):
            results = _run(plan, options.cpu, not options.no_ray)
            write_whole(plan.output / "results.json", json.dumps(results, indent=1))
    except OSError as error:
        print(f"train-tokens: {error}", file=sys.stderr)
        return 1
    return 1 if any("error" in result for result in results) else 0


def _run(plan: Plan, cpu: bool, use_ray: bool) -> list[dict[str, Any]]:
    if plan.ray is not None and use_ray:
        try:
            return run_on_ray(plan, cpu)
        except ImportError:
            print("Ray is not installed (pip install 'ray>=2.30'); running on this machine instead.", flush=True)
    return run_here(plan)


if __name__ == "__main__":
    end_cleanly_when_told_to_stop()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
