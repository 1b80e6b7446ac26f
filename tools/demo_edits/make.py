"""The demo: every entry of ``tools/demo_edits/edits.json`` on a real server, as pictures, a page and a report.

Loads a template of ``workflows/`` as a user would, changes the widgets that the entry names, runs it and keeps what its
output nodes show. ``index.html`` shows all of it; each picture carries its workflow.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image

from ..host.client import Client, PromptError, RunResult
from ..host.existing import has_accelerator
from ..host.graph import WorkflowError, set_widgets, to_prompt
from ..host.layout import PACK_DIR, RUNTIME, Host, end_cleanly_when_told_to_stop, write_whole
from ..host.link import link_pack
from ..host.server import Server, ServerError
from .page import page
from .pictures import Shown, mask_of, measure, overlay, previews, role, save_with_workflow, sheet

WORKFLOWS = PACK_DIR / "workflows"
EDITS = PACK_DIR / "tools" / "demo_edits" / "edits.json"


class Progress:
    """One line that updates in place on a terminal; elsewhere, only the final line is printed."""

    def __init__(self, label: str) -> None:
        self.label, self.live = label, sys.stdout.isatty()

    def __call__(self, node: str, step: int, steps: int) -> None:
        if self.live:
            count = f" {step}/{steps}" if steps else ""
            print(f"\r{self.label}: {node}{count}".ljust(100), end="", flush=True)

    def done(self, text: str) -> None:
        print(("\r" if self.live else "") + f"{self.label}: {text}".ljust(100 if self.live else 0), flush=True)


def words(prompt: dict[str, Any]) -> list[str]:
    """What the graph asks for, one line per edit: "before → after"."""
    lines = []
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] == "PartEditPrompt":
            lines += [f"{inputs['source']} → {edit}" for edit in str(inputs["edit"]).splitlines() if edit.strip()]
        if node["class_type"] == "EditingPair":
            lines.append(f"{inputs['source_phrase']} → {inputs['target_phrase']}")
    return lines


def collect(client: Client, result: RunResult, prompt: dict[str, Any], info: dict[str, Any]) -> list[Shown]:
    """The images of all output nodes, in the order of the graph.

    Raises:
        PromptError: the run gave no image.
    """
    shown = []
    for key, node in prompt.items():
        items = result.outputs.get(key, {}).get("images") or []
        if node["class_type"] != "PreviewImage":
            continue
        for number, item in enumerate(items, 1):
            title = node["_meta"]["title"] + (f" {number}" if len(items) > 1 else "")
            image = Image.open(io.BytesIO(client.view(item))).convert("RGB")
            shown.append(Shown(title, role(prompt, info, key), image))
    if not shown:
        raise PromptError("the run returned no image")
    return shown


def keep(
    shown: list[Shown], entry: dict[str, Any], output: Path, workflow: dict[str, Any], prompt: dict[str, Any]
) -> None:
    """Write an entry's images and workflow, and add to the entry what the page and the report need.

    A part edit gives its source, the source under its mask, and its edits, with what was measured on the first edit;
    other graphs give their images as they are.
    """
    source = next((one.image for one in shown if one.role == "source"), None)
    edits = [one for one in shown if one.role == "edited"]
    mask = mask_of(shown, source.size) if source is not None else None
    if source is not None and mask is not None and edits:
        first = next(one for one in shown if one.role == "source")
        panels = [first, Shown("Mask", "mask", overlay(source, mask)), *edits]
        panels = [one for one in shown if not one.role] + panels
        entry.update(measure(source, mask, edits[0].image))
    else:
        panels = shown
    entry["pictures"] = []
    for number, one in enumerate(panels, 1):
        file = f"{entry['name']}_{number}.png"
        save_with_workflow(one.image, output / file, workflow, prompt)
        entry["pictures"].append({"file": file, "title": one.title, "wide": one.image.width > 1.6 * one.image.height})
    entry["workflow"] = f"{entry['name']}.json"
    write_whole(output / entry["workflow"], json.dumps(workflow, indent=2) + "\n")
    square = [one.image for one in panels if one.image.width <= 1.6 * one.image.height]
    entry["file"] = f"{entry['name']}.png"
    save_with_workflow(sheet(square, entry["title"]), output / entry["file"], workflow, prompt)


def run_edits(client: Client, output: Path) -> list[dict[str, Any]]:
    """Run everything; sections with their entries, an entry with ``error`` if it failed.

    Stops if the server no longer answers.
    """
    info = client.object_info()
    described = json.loads(EDITS.read_text(encoding="utf-8"))["sections"]
    total = sum(len(section["edits"]) for section in described)
    number, sections = 0, []
    for section in described:
        entries: list[dict[str, Any]] = []
        sections.append({"title": section["title"], "text": section["text"], "entries": entries})
        template = json.loads((WORKFLOWS / f"{section['template']}.json").read_text(encoding="utf-8"))
        for edit in section["edits"]:
            number += 1
            progress = Progress(f"{number}/{total} {edit['name']}")
            entry: dict[str, Any] = {"name": edit["name"], "title": edit["title"], "inputs": edit["inputs"]}
            entries.append(entry)
            try:
                workflow = set_widgets(template, edit["inputs"], info)
                prompt = previews(to_prompt(workflow, info))
                entry["words"] = words(prompt)
                result = client.run(prompt, progress)
                entry["seconds"] = round(result.seconds, 2)
                keep(collect(client, result, prompt, info), entry, output, workflow, prompt)
            except (PromptError, WorkflowError) as error:
                entry["error"] = str(error)
                progress.done(f"FAILED: {error}")
                continue
            except OSError as error:
                # No answer, or none in time: the others would wait just as long for nothing.
                entry["error"] = f"no answer from the server: {error}"
                progress.done(f"FAILED: {entry['error']}")
                return sections
            progress.done(f"{entry['seconds']:.1f} s -> {output / entry['file']}")
    return sections


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py demo", description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    root = Path(os.environ["COMFYUI_PATH"])
    host = Host(root, Path(sys.executable), private=root.is_relative_to(RUNTIME))
    name = link_pack(host)
    started = time.monotonic()
    cpu = options.cpu or not has_accelerator(host.python)
    print(f"starting ComfyUI on the {'CPU' if cpu else 'GPU'} ...", flush=True)
    with Server(host, cpu=cpu, pack_name=name) as server:
        server.start()
        client = Client(server.base_url, alive=server.alive)
        stats = client.get_json("/system_stats")
        ready = time.monotonic() - started
        sections = run_edits(client, options.output)
        entries = [entry for section in sections for entry in section["entries"]]
        failed = [entry["name"] for entry in entries if "error" in entry]
        if failed:
            print(f"the last lines of the server's log:\n{server.tail()}", file=sys.stderr)
    report = {
        "comfyui": stats["system"].get("comfyui_version"),
        "torch": stats["system"].get("pytorch_version"),
        "device": [device.get("name") for device in stats.get("devices", [])],
        "seconds_to_start": round(ready, 1),
        "seconds": round(time.monotonic() - started, 1),
        "edits": entries,
    }
    write_whole(options.output / "report.json", json.dumps(report, indent=2) + "\n")
    about = (
        f"Made by the demo model that comes with the pack, on ComfyUI {report['comfyui']} "
        f"({', '.join(map(str, report['device']))}), in {report['seconds']:g} s with the start of the server."
    )
    index = options.output / "index.html"
    write_whole(index, page(sections, about))
    print(f"{len(entries) - len(failed)} of {len(entries)} runs in {report['seconds']} s; look at them: {index}")
    return 1 if failed or not entries else 0


if __name__ == "__main__":
    end_cleanly_when_told_to_stop()
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except ServerError as error:
        sys.exit(f"\n{error}")
