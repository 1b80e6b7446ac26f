"""Memory, threads and open files of one server over hundreds of edits and searches.

    python3 run.py bench load [--edits 300] [--searches 50]

Each job is a small one on the demo model with a seed of its own, so that nothing comes out of ComfyUI's cache: part
edits of 128 x 128 pixels with 3 steps, and step searches over 3 candidates. After each job the server process is
looked at from outside. The first ten jobs of a kind fill caches; from then on memory has to stay level.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tools.host.client import Client
from tools.host.graph import set_inputs, to_prompt
from tools.host.layout import PACK_DIR, RUNTIME, Host
from tools.host.link import link_pack
from tools.host.server import Server

from .results import RESULTS, write_result

NAME = "load"
WARM = 10
# For each kind of job, what the server holds after each.
Records = dict[str, list[dict[str, int]]]


def prompt_of(template: str, info: dict[str, Any], changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The prompt of a shipped template with other settings, ``changes[class][input]``."""
    workflow = json.loads((PACK_DIR / "workflows" / f"{template}.json").read_text(encoding="utf-8"))
    return set_inputs(to_prompt(workflow, info), changes)


def edit_job(info: dict[str, Any], seed: int) -> dict[str, Any]:
    size = {"EmptyLatentImage": {"width": 128, "height": 128}}
    return prompt_of("partedit_demo", info, {**size, "FeatureBlendSampler": {"seed": seed, "steps": 3}})


def search_job(info: dict[str, Any], seed: int) -> dict[str, Any]:
    changes: dict[str, dict[str, Any]] = {
        "KSampler": {"seed": seed, "steps": 2},
        "InvertLatent": {"steps": 3},
        "InversionStepSearch": {"strategy": "exhaustive"},
    }
    return prompt_of("oir_demo", info, changes)


def server_process(server: Server) -> psutil.Process:
    """The process that runs ComfyUI: the largest among those that were started."""
    assert server.process is not None
    started = psutil.Process(server.process.pid)
    return max([started, *started.children(recursive=True)], key=lambda one: one.memory_info().rss)


def watch(process: psutil.Process) -> dict[str, int]:
    files = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    return {"megabytes": process.memory_info().rss >> 20, "threads": process.num_threads(), "files": files}


def run_load(
    server: Server, client: Client, edits: int, searches: int, so_far: Callable[[Records], None] = lambda found: None
) -> Records:
    """Run the jobs one after the other; for each kind, what the server holds after each job.

    Args:
        so_far: gets the records after every 25 jobs.
    """
    info, process = client.object_info(), server_process(server)
    found: Records = {"edits": [], "searches": []}
    for kind, job, count in (("edits", edit_job, edits), ("searches", search_job, searches)):
        for number in range(count):
            client.run(job(info, 1000 + number))
            # History keeps every picture's name for ever; an artist's server is emptied in the same way.
            client.post_json("/history", {"clear": True})
            found[kind].append(watch(process))
            if number % 25 == 24:
                print(f"{kind}: {number + 1} of {count}, {found[kind][-1]}", flush=True)
                so_far(found)
    return found


def growth(records: list[dict[str, int]], key: str) -> float:
    """Median of the last tenth over the median of the tenth after the first ``WARM`` jobs."""
    values = [record[key] for record in records[WARM:]]
    part = max(1, len(values) // 10)
    first, last = sorted(values[:part])[part // 2], sorted(values[-part:])[part // 2]
    return last / first


def plot(found: Records, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 1, figsize=(8, 7), sharex=True, constrained_layout=True)
    border = len(found["edits"])
    for axis, (key, unit) in zip(axes, (("megabytes", "MB resident"), ("threads", "threads"), ("files", "open files"))):
        values = [record[key] for kind in ("edits", "searches") for record in found[kind]]
        axis.plot(range(1, len(values) + 1), values, linewidth=1)
        axis.axvline(border + 0.5, color="grey", linestyle=":")
        axis.set_ylabel(unit)
        axis.set_ylim(0, max(values) * 1.15)
    axes[0].set_title(f"One server: {border} part edits, then {len(found['searches'])} step searches")
    axes[-1].set_xlabel("job")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=300)
    parser.add_argument("--searches", type=int, default=50)
    options = parser.parse_args()
    root = Path(os.environ["COMFYUI_PATH"])
    host = Host(root, Path(sys.executable), private=root.is_relative_to(RUNTIME))
    with Server(host, cpu=True, pack_name=link_pack(host)) as server:
        server.start()
        client = Client(server.base_url, alive=server.alive)

        def keep(records: Records) -> None:
            write_result(NAME, {"jobs": records}, whole=False)

        found = run_load(server, client, options.edits, options.searches, keep)
    whole = options.edits >= 300 and options.searches >= 50
    summary = {
        kind: {key: round(growth(records, key), 3) for key in records[0]}
        for kind, records in found.items()
        if len(records) > WARM + 1
    }
    write_result(NAME, {"last tenth / first tenth after ten jobs": summary, "jobs": found}, whole=whole)
    if whole:
        plot(found, RESULTS / f"{NAME}.png")


if __name__ == "__main__":
    main()
