"""The training of one token of ``run.py train-tokens``; see `tools.train_tokens.run`."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..host.layout import write_whole


def run_task(task: dict[str, Any], log: Callable[[str], None] = print) -> dict[str, Any]:
    """Train one token and save it with its plot, overlays and report.

    A run that died resumes from its last saved state.

    Returns:
        name, file, seconds, and the values of the report (part_iou, resumed_from …).
    """
    from ..bootstrap import boot_host, load_pack

    boot_host(cpu=bool(task.get("cpu")) or not has_accelerator())
    # Importing this fixes the device; `load_pack` alone would fix it to the CPU.
    import comfy.model_management  # noqa: F401

    load_pack()
    import numpy as np
    from PIL import Image

    from partedit_oir.core.partedit.token_files import save_token
    from partedit_oir.core.training.augment import augmented_views
    from partedit_oir.core.training.inputs import encode_pictures
    from partedit_oir.core.training.plots import overlays, plot
    from partedit_oir.core.training.settings import TrainingSettings
    from partedit_oir.core.training.training import train_part_token

    started = time.time()
    output, name = Path(task["output"]), task["name"]
    output.mkdir(parents=True, exist_ok=True)
    log(f"{name}: process {os.getpid()}, loading {task['model']}")
    model, clip, vae = load_checkpoint(task["model"])
    positive = clip.encode_from_tokens_scheduled(clip.tokenize(task["prompt"]))
    images, masks = read_pictures(task)
    log(f"{name}: {images.shape[0]} images of {images.shape[2]} x {images.shape[1]}")
    settings = TrainingSettings(part_names=(task["part"],), **task["settings"])
    views, view_masks, sources = augmented_views(images, masks, task["flip"], task["crops"], settings.seed)
    latents = encode_pictures(vae, views)
    state = output / f"{name}.training.safetensors"
    shown = [0.0]

    def progress(done: int, total: int) -> None:
        if time.time() - shown[0] > 10 or done == total:
            shown[0] = time.time()
            log(f"{name}: {done} of {total}")

    token, report = train_part_token(
        model, latents, view_masks, positive, settings, sources=sources, state_file=state, progress=progress
    )
    token = dataclasses.replace(token, metadata={**token.metadata, **made_from(task)})
    file = output / f"{name}.safetensors"
    save_token(token, file)
    judged = report.held_out or sorted(set(sources))
    pictures = {"plot": plot(report), "overlays": overlays([images[i] for i in judged], report.maps, masks[judged])}
    for kind, batch in pictures.items():
        joined = np.concatenate([(one.clamp(0, 1) * 255).byte().numpy() for one in batch], axis=1)
        Image.fromarray(joined).save(output / f"{name}.{kind}.png")
    figures = json.loads(report.as_json())
    result = {"name": name, "file": str(file), **figures, "seconds": round(time.time() - started, 1)}
    write_whole(output / f"{name}.json", json.dumps(result, indent=1))
    state.unlink(missing_ok=True)
    log(f"{name}: done, IoU {report.part_iou}")
    return result


def made_from(task: dict[str, Any]) -> dict[str, str]:
    """What a token file says of the checkpoint and data it was made from: names alone, no paths of this machine."""
    kind, source = next(iter(task["data"].items()))
    known = (source.get(name) for name in ("path", "annotations", "object_class", "objects", "part", "parts"))
    words = [", ".join(one) if isinstance(one, list) else Path(one).name for one in known if one]
    found = {"model": Path(task["model"]).name, "data": f"{kind}: {'; '.join(words)}", "prompt": task["prompt"]}
    return {name: text for name, text in {**found, "note": task.get("note", "")}.items() if text}


def has_accelerator() -> bool:
    """Without this check, ComfyUI would assume a CUDA device."""
    import torch

    kinds = (torch.cuda, getattr(torch, "xpu", None), getattr(torch.backends, "mps", None))
    return any(kind is not None and kind.is_available() for kind in kinds)


def load_checkpoint(name: str) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a checkpoint file, or of the demo model.

    Raises:
        ValueError: the file has no text encoder or no VAE.
    """
    if name == "demo":
        from partedit_oir.demo.loader import load_demo_model

        return load_demo_model()
    import comfy.sd

    model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(name)
    if clip is None or vae is None:
        raise ValueError(f"model: {name} has no text encoder or no VAE. Use a full checkpoint.")
    return model, clip, vae


def read_pictures(task: dict[str, Any]) -> tuple[Any, Any]:
    """Images (N, S, S, 3) and masks (N, 1, S, S) of a task."""
    from .datasets import load_pairs, read_part_imagenet, read_pascal_part, write_pairs

    kind, source = next(iter(task["data"].items()))
    if kind == "demo":
        return _demo_pictures(source)
    if kind == "folder":
        return load_pairs(Path(source["path"]), task["size"], source.get("limit"))
    paths = [Path(source[key]) for key in ("annotations", "images")]
    options = {key: value for key, value in source.items() if key not in ("annotations", "images")}
    reader: Any = read_part_imagenet if kind == "part_imagenet" else read_pascal_part
    folder = Path(task["output"]) / f"{task['name']}.pictures"
    # What the pictures were taken from: other parts, or another limit, are other pictures.
    stamp, key = folder / "from.json", json.dumps({kind: source}, sort_keys=True)
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != key:
        part = folder.with_name(folder.name + ".partial")
        for old in (part, folder):
            if old.is_dir():
                shutil.rmtree(old)
        if not write_pairs(reader(*paths, **options), part):
            raise ValueError(f"{task['name']}: the data set has no image of this part.")
        (part / stamp.name).write_text(key, encoding="utf-8")
        part.rename(folder)
    return load_pairs(folder, task["size"])


def _demo_pictures(source: dict[str, Any]) -> tuple[Any, Any]:
    import numpy as np
    import torch

    from demo.training.parts import DemoPart, part_masks, single_scenes

    part = DemoPart("", source["part"], tuple(source["objects"]))
    pictures = single_scenes(part.names, source["first_seed"], source["pictures"])
    return torch.from_numpy(np.stack([p.image for p in pictures])).float() / 255, part_masks(pictures, part)
