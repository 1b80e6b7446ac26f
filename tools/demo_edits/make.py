"""The demo: every edit of ``tools/demo_edits/edits.json`` on a real server, as side-by-side images and a report.

Loads ``workflows/partedit_demo.json`` as a user would, changes the inputs that an edit names, and asks for three
images: the source, the mask and the edit.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..host.client import Client, PromptError
from ..host.existing import has_accelerator
from ..host.graph import WorkflowError, set_inputs, to_prompt
from ..host.layout import PACK_DIR, RUNTIME, Host, end_cleanly_when_told_to_stop, write_whole
from ..host.link import link_pack
from ..host.server import Server, ServerError

WORKFLOW = PACK_DIR / "workflows" / "partedit_demo.json"
EDITS = PACK_DIR / "tools" / "demo_edits" / "edits.json"
SAMPLER = "FeatureBlendSampler"
# Outputs of the sampler, by place in its schema.
EDITED, SOURCE, MASK = 0, 1, 2
PANEL = 384


def with_pictures(prompt: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The prompt with its output nodes replaced by three that give source, mask and edit as images.

    Raises:
        WorkflowError: no FeatureBlendSampler, or no node with a VAE output.
    """
    kept = {key: node for key, node in prompt.items() if not object_info[node["class_type"]].get("output_node")}
    samplers = [key for key, node in kept.items() if node["class_type"] == SAMPLER]
    decoders = [
        [key, slot]
        for key, node in kept.items()
        for slot, kind in enumerate(object_info[node["class_type"]]["output"])
        if kind == "VAE"
    ]
    if not samplers or not decoders:
        raise WorkflowError(f"the demo needs a {SAMPLER} and a node with a VAE output")
    for name, slot in (("edit", EDITED), ("source", SOURCE)):
        decode = {"samples": [samplers[0], slot], "vae": decoders[0]}
        kept[f"demo_{name}_decode"] = {"class_type": "VAEDecode", "inputs": decode}
        kept[f"demo_{name}"] = {"class_type": "PreviewImage", "inputs": {"images": [f"demo_{name}_decode", 0]}}
    kept["demo_mask_image"] = {"class_type": "MaskToImage", "inputs": {"mask": [samplers[0], MASK]}}
    kept["demo_mask"] = {"class_type": "PreviewImage", "inputs": {"images": ["demo_mask_image", 0]}}
    return kept


def fetch(client: Client, outputs: dict[str, Any], name: str) -> Image.Image:
    """The first image of one of the demo's own output nodes."""
    images = outputs.get(f"demo_{name}", {}).get("images") or []
    if not images:
        raise PromptError(f"the run returned no {name} image")
    return Image.open(io.BytesIO(client.view(images[0]))).convert("RGB")


def side_by_side(source: Image.Image, mask: np.ndarray, edit: Image.Image, title: str) -> Image.Image:
    """Source, source with the mask laid over it in magenta, and edit, under one line of text."""
    picture = np.asarray(source, dtype=np.float32)
    weight = mask[..., None] * 0.6
    overlay = picture * (1 - weight) + np.array([255, 0, 200], dtype=np.float32) * weight
    panels = [source, Image.fromarray(overlay.round().astype(np.uint8)), edit]
    gap, head = 8, 36
    height = round(PANEL * source.height / source.width)
    sheet = Image.new("RGB", (3 * PANEL + 4 * gap, height + head + gap), (24, 24, 28))
    for index, panel in enumerate(panels):
        sheet.paste(panel.resize((PANEL, height), Image.Resampling.LANCZOS), (gap + index * (PANEL + gap), head))
    ImageDraw.Draw(sheet).text((gap, 8), title, fill=(235, 235, 235), font=ImageFont.load_default(size=18))
    return sheet


def measure(source: Image.Image, mask: np.ndarray, edit: Image.Image) -> dict[str, float | None]:
    """The mask's fraction of the image, PSNR outside it (dB) and mean change inside it."""
    a, b = (np.asarray(image, dtype=np.float64) / 255 for image in (source, edit))
    inside, outside = mask > 0.5, mask < 0.05
    error = float(((a - b)[outside] ** 2).mean()) if outside.any() else float("nan")
    # JSON has no infinity: an unchanged background is reported as null.
    psnr = None if not error > 0 else round(-10 * math.log10(error), 2)
    change = float(np.abs(a - b)[inside].mean()) if inside.any() else 0.0
    return {"mask_share": round(float(inside.mean()), 4), "psnr_outside_db": psnr, "change_inside": round(change, 4)}


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


def run_edits(client: Client, output: Path) -> list[dict[str, Any]]:
    """Run all edits; one report entry each, with ``error`` if it failed. Stops if the server no longer answers."""
    info = client.object_info()
    base = with_pictures(to_prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")), info), info)
    edits = json.loads(EDITS.read_text(encoding="utf-8"))["edits"]
    entries = []
    for number, edit in enumerate(edits, 1):
        name = edit["name"]
        progress = Progress(f"edit {number}/{len(edits)} {name}")
        entry: dict[str, Any] = {"name": name, "inputs": edit["inputs"]}
        entries.append(entry)
        try:
            result = client.run(set_inputs(base, edit["inputs"]), progress)
            source, mask_image, edited = (fetch(client, result.outputs, kind) for kind in ("source", "mask", "edit"))
        except (PromptError, WorkflowError) as error:
            entry["error"] = str(error)
            progress.done(f"FAILED: {error}")
            continue
        except OSError as error:
            # No answer, or none in time: the other edits would wait just as long for nothing.
            entry["error"] = f"no answer from the server: {error}"
            progress.done(f"FAILED: {entry['error']}")
            break
        mask = np.asarray(mask_image.convert("L").resize(source.size), dtype=np.float32) / 255
        file = output / f"{name}.png"
        side_by_side(source, mask, edited, edit.get("title", name)).save(file)
        entry.update(file=file.name, seconds=round(result.seconds, 2), **measure(source, mask, edited))
        progress.done(f"{entry['seconds']:.1f} s -> {file}")
    return entries


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
        entries = run_edits(client, options.output)
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
    path = options.output / "report.json"
    write_whole(path, json.dumps(report, indent=2) + "\n")
    print(f"{len(entries) - len(failed)} of {len(entries)} edits in {report['seconds']} s; report: {path}")
    return 1 if failed or not entries else 0


if __name__ == "__main__":
    end_cleanly_when_told_to_stop()
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except ServerError as error:
        sys.exit(f"\n{error}")
