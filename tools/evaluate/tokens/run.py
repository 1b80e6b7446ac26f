"""``run.py evaluate`` with ``kind: token``: studies of one part's token, as figures, plots and a page.

    kind: token
    output: token_laboratory
    model: sd_xl_base_1.0.safetensors      # a checkpoint file, relative to this file, or demo
    part: animal head
    data: {folder: heads}                  # NAME.png with NAME_mask.png; or as for train-tokens
    training: 20                           # the others judge
    studies: [layers, noise, pictures, folds, paddings, omega, word, sam]
    word: head
    prompt: a photo of an animal with a head
    sam: sam_vit_h.pth

Everything that was measured is kept at once; a stopped run continues where it was. See docs/evaluate.md.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import torch

from ...demo_edits.page import STYLE
from ...host.layout import write_whole
from ...host.provision import locked
from ..measured import Measured
from .config import TokenPlan, read_token_plan
from .plots import DRAW, draw
from .studies import Laboratory, Pictures, StudyMissing

# Part of every key: raised when what is measured changes.
FORMAT = 1
#: Keys of the file that change no measurement of another study.
_OWN = {"output", "title", "studies", "layers_at_once", "stretches", "reading_levels", "counts", "draws", "folds"}
_OWN |= {"paddings", "omegas", "word", "prompt", "sam"}


def load_pictures(plan: TokenPlan, vae: Any) -> Pictures:
    """The pictures with their masks and latents.

    Raises:
        ValueError: there are fewer than three, or none can be read.
    """
    from partedit_oir.core.training.inputs import encode_pictures

    from ...train_tokens.task import read_pictures

    task = {"data": plan.config.data.chosen(), "size": plan.size, "name": "pictures", "output": str(plan.output)}
    images, masks = read_pictures(task)
    if len(images) < 3:
        raise ValueError(f"data: expected three pictures or more, to learn and to judge, got {len(images)}.")
    return Pictures(images, encode_pictures(vae, images), masks)


def run_token(file: Path, output: Path | None, cpu: bool, log: Callable[[str], None] = print) -> int:
    """Do all studies of a configuration that are not done yet, and write the report. Returns the exit code.

    Raises:
        ConfigError: see `config.read_token_plan`.
    """
    from ...bootstrap import boot_host
    from ...train_tokens.task import has_accelerator

    boot_host(cpu=cpu or not has_accelerator())
    # Importing this fixes the device; loading the pack alone would fix it to the CPU.
    import comfy.model_management  # noqa: F401

    plan = read_token_plan(file, output)
    torch.set_flush_denormal(True)
    plan.output.mkdir(parents=True, exist_ok=True)
    with locked(plan.output / ".lock", "another laboratory writes to this folder; waiting for it"):
        report = measure(plan, log)
        write_report(plan, report)
    for line in summary(report):
        print(line)
    print(f"\nlook at the plots: {plan.output / 'index.html'}")
    return 0


def measure(plan: TokenPlan, log: Callable[[str], None]) -> dict[str, Any]:
    """All studies: {"studies": {name: figures or {"missing": …}}, …}."""
    from ...train_tokens.task import load_checkpoint

    config = plan.config
    log(f"loading {config.model}")
    model, clip, vae = load_checkpoint(config.model)
    log("encoding the pictures")
    pictures = load_pictures(plan, vae)
    common = {**config.model_dump(exclude=_OWN), "settings": plan.settings, "content": _fingerprint(pictures)}
    memory = Measured(plan.output / "measured.json", [FORMAT, common])
    begin = time.perf_counter()
    lab = Laboratory(
        plan, model, clip, pictures, memory, lambda text: log(f"{time.perf_counter() - begin:5.0f} s  {text}")
    )
    studies: dict[str, Any] = {}
    for name in config.studies:
        try:
            studies[name] = lab.run(name)
        except StudyMissing as error:
            studies[name] = {"missing": str(error)}
            log(f"{name} is left out: {error}")
    return {
        "title": config.title,
        "model": config.model,
        "part": config.part,
        "size": plan.size,
        "pictures": {"training": len(lab.training), "held out": len(lab.held_out)},
        "settings": {k: v for k, v in plan.settings.items() if k != "part_names"},
        "judged at noise": [*config.judge_noise, config.judge_levels],
        "measured": memory.made,
        "studies": studies,
    }


def _fingerprint(pictures: Pictures) -> str:
    digest = hashlib.sha256()
    for one in (pictures.images, pictures.masks):
        digest.update(one.mul(255).round().byte().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def summary(report: dict[str, Any]) -> list[str]:
    """The result of each study in a line."""
    lines = []
    for name, found in report["studies"].items():
        title = DRAW[name][0]
        lines.append(f"{title}: {'left out, ' + found['missing'] if 'missing' in found else SAID[name](found)}")
    return lines


def _best(values: dict[str, float]) -> str:
    name = max(values, key=lambda one: values[one])
    return f"{name} ({values[name]:.3f})"


def _pictures_line(found: dict[str, Any]) -> str:
    each = {n: sum(one["adaptive"] for one in d) / len(d) for n, d in found["draws"].items()}
    return ", ".join(f"{count}: {value:.3f}" for count, value in each.items())


def _noise_line(found: dict[str, Any]) -> str:
    each = {name: sum(one["adaptive"] for one in v) / len(v) for name, v in found["iou"].items()}
    return "mean over all levels: " + ", ".join(f"{name} {value:.3f}" for name, value in each.items())


SAID: dict[str, Callable[[dict[str, Any]], str]] = {
    "layers": lambda f: (
        f"the best {len(f['best_eight'])} of {len(f['layers'])} are "
        + ", ".join(f"{name} ({f['layers'][name]['alone']['adaptive']:.3f})" for name in f["best_eight"])
    ),
    "noise": _noise_line,
    "pictures": _pictures_line,
    "folds": lambda f: f"{f['mean']:.3f} ± {f['std']:.3f} over {len(f['folds'])} folds of {f['pictures']} pictures",
    "paddings": lambda f: (
        "best read over " + _best({name: one["read"]["adaptive"] for name, one in f["paddings"].items()})
    ),
    "omega": lambda f: f"best ω {_best(f['adaptive'])}, Otsu alone {f['otsu']:.3f}",
    "word": lambda f: ", ".join(f"{name} {one['adaptive']:.3f}" for name, one in f.items()),
    "sam": lambda f: (
        f"rated best {f['rated best']:.3f}, best of three {f['best of three']:.3f}, "
        f"the token {f['token']['adaptive']:.3f}"
    ),
}


def write_report(plan: TokenPlan, report: dict[str, Any]) -> None:
    """report.json, report.md, index.html, and a plot for each study."""
    about = (
        f"{report['part']} on {report['model']}, {report['size']} × {report['size']} pixels; learned from "
        f"{report['pictures']['training']} pictures, judged on {report['pictures']['held out']} others."
    )
    lines = [f"# {report['title']}", "", about, ""]
    body = [f"<h1>{escape(report['title'])}</h1><p>{escape(about)}</p>"]
    for name, line in zip(report["studies"], summary(report)):
        lines.append(f"- {line}")
        body.append(f"<h2>{escape(line.split(':', 1)[0])}</h2><p>{escape(line.split(':', 1)[1].strip())}</p>")
        if "missing" not in report["studies"][name]:
            draw(name, report["studies"][name], plan.output / f"{name}.png")
            lines += ["", f"![{name}]({name}.png)", ""]
            body.append(f'<p><img src="{name}.png" alt="{escape(line)}"></p>')
    note = "IoU with the adaptive threshold, the part from 0.5 on; a mean over the held-out pictures."
    lines += ["", note, ""]
    write_whole(plan.output / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_whole(plan.output / "report.md", "\n".join(lines))
    head = f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(report["title"])}</title>'
    style = f"<style>{STYLE}\nimg {{ max-width: 100%; }}</style>"
    write_whole(plan.output / "index.html", "\n".join([head, style, *body, f"<p>{escape(note)}</p>"]) + "\n")
