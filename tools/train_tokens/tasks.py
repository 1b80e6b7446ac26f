"""The configuration of ``run.py train-tokens``, and the training of one token; see `tools.train_tokens.run`.

A task is a plain dictionary, so it can be sent to another process or machine as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..host.layout import write_whole

SOURCES = {
    "folder": {"path", "limit"},
    "part_imagenet": {"annotations", "images", "parts", "limit", "min_share"},
    "pascal_part": {"annotations", "images", "object_class", "parts", "limit", "min_share"},
    "demo": {"objects", "part", "pictures", "first_seed"},
}
TOKEN_KEYS = {"name", "part", "data", "settings", "note"}
TOP_KEYS = {"output", "model", "prompt", "size", "flip", "crops", "settings", "tokens", "ray", "workers", "retries"}
RAY_KEYS = {"address", "gpus_per_token", "cpus_per_token"}
MAX_CONFIG_BYTES = 1024**2


class ConfigError(ValueError):
    """The configuration is invalid; the message names the entry."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked configuration: one task per token, and how to run them."""

    tasks: list[dict[str, Any]]
    output: Path
    retries: int
    workers: int
    ray: dict[str, Any] | None


def read_plan(file: Path) -> Plan:
    """Read and check a configuration before anything runs.

    Raises:
        ConfigError: unreadable YAML, unknown keys, missing files, or invalid names.
    """
    import yaml

    from ..bootstrap import load_pack

    load_pack()
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{file}: is larger than {MAX_CONFIG_BYTES // 1024} KB, so it is not a configuration file.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not valid YAML: {error}") from error
    top = _mapping(content, "the file", TOP_KEYS)
    tokens = top.get("tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ConfigError("tokens: expected a list with at least one entry.")
    base = file.resolve().parent
    output = (base / str(top.get("output", "tokens"))).resolve()
    tasks = [_task(entry, f"tokens[{number}]", top, base, output) for number, entry in enumerate(tokens)]
    names = [task["name"] for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"tokens: the name {twice[0]!r} is used twice. Give each token its own name.")
    cluster = _mapping(top["ray"], "ray", RAY_KEYS) if top.get("ray") is not None else None
    return Plan(tasks, output, _count(top, "retries", 2), max(1, _count(top, "workers", 1)), cluster)


def run_task(task: dict[str, Any], log: Callable[[str], None] = print) -> dict[str, Any]:
    """Train one token and save it with its plot, overlays and report.

    A run that died resumes from its last saved state.

    Returns:
        name, file, seconds, and the values of the report (part_iou, resumed_from …).
    """
    from ..bootstrap import boot_host, load_pack

    boot_host(cpu=bool(task.get("cpu")) or not _has_accelerator())
    # Importing this fixes the device; `load_pack` alone would fix it to the CPU.
    import comfy.model_management  # noqa: F401

    load_pack()
    import numpy as np
    from PIL import Image

    from partedit_oir.core.partedit.token_files import save_token
    from partedit_oir.core.training.augment import augmented_views
    from partedit_oir.core.training.inputs import encode_pictures
    from partedit_oir.core.training.plots import overlays, plot
    from partedit_oir.core.training.training import train_part_token

    started = time.time()
    output, name = Path(task["output"]), task["name"]
    output.mkdir(parents=True, exist_ok=True)
    log(f"{name}: process {os.getpid()}, loading {task['model']}")
    model, vae, positive = _load_model(task)
    images, masks = _pictures(task)
    log(f"{name}: {images.shape[0]} images of {images.shape[2]} x {images.shape[1]}")
    settings = _settings(task)
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
    if task.get("note"):
        token = dataclasses.replace(token, metadata={**token.metadata, "note": task["note"]})
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


def _has_accelerator() -> bool:
    """Without this check, ComfyUI would assume a CUDA device."""
    import torch

    kinds = (torch.cuda, getattr(torch, "xpu", None), getattr(torch.backends, "mps", None))
    return any(kind is not None and kind.is_available() for kind in kinds)


def _task(entry: Any, where: str, top: dict[str, Any], base: Path, output: Path) -> dict[str, Any]:
    from partedit_oir.core.files import safe_file_name

    entry = _mapping(entry, where, TOKEN_KEYS)
    try:
        name = safe_file_name(str(entry.get("name", "")), f"{where}.name")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    data = entry.get("data")
    if not isinstance(data, dict) or len(data) != 1 or next(iter(data)) not in SOURCES:
        raise ConfigError(f"{where}.data: expected exactly one of {', '.join(SOURCES)}.")
    kind, values = next(iter(data.items()))
    values = {"path": values} if kind == "folder" and isinstance(values, str) else values
    source = dict(_mapping(values, f"{where}.data.{kind}", SOURCES[kind]))
    for key in ("path", "annotations", "images"):
        if key in source:
            source[key] = str((base / str(source[key])).resolve())
            if not Path(source[key]).exists():
                raise ConfigError(f"{where}.data.{kind}.{key}: {source[key]} does not exist.")
        elif key in SOURCES[kind]:
            raise ConfigError(f"{where}.data.{kind}.{key}: is missing.")
    model = str(top.get("model", "demo"))
    if model != "demo":
        model = str((base / model).resolve())
        if not Path(model).is_file():
            raise ConfigError(f"model: {model} does not exist. Give a checkpoint file, or 'demo'.")
    task: dict[str, Any] = {
        "name": name,
        "part": str(entry.get("part", name)),
        "data": {kind: source},
        "note": str(entry.get("note", "")),
        "settings": {**(top.get("settings") or {}), **(entry.get("settings") or {})},
        "model": model,
        "prompt": str(top.get("prompt", "")),
        "size": _count(top, "size", 256 if model == "demo" else 1024),
        "flip": bool(top.get("flip", True)),
        "crops": _count(top, "crops", 0),
        "output": str(output),
    }
    if task["size"] < 64 or task["size"] % 8:
        raise ConfigError(f"size: expected a multiple of 8, at least 64, got {task['size']}.")
    try:
        _settings(task)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}.settings: {error}") from error
    return task


def _settings(task: dict[str, Any]) -> Any:
    from partedit_oir.core.training.settings import TrainingSettings

    known = {field.name for field in dataclasses.fields(TrainingSettings)} - {"part_names", "init"}
    unknown = sorted(set(task["settings"]) - known)
    if unknown:
        raise ValueError(f"unknown setting {', '.join(unknown)}. Known settings: {', '.join(sorted(known))}.")
    return TrainingSettings(part_names=(task["part"],), **task["settings"])


def _load_model(task: dict[str, Any]) -> tuple[Any, Any, Any]:
    """MODEL, VAE and the conditioning the images are encoded with."""
    if task["model"] == "demo":
        from partedit_oir.demo.loader import load_demo_model

        model, clip, vae = load_demo_model()
    else:
        import comfy.sd

        model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(task["model"])
        if clip is None or vae is None:
            raise ValueError(f"model: {task['model']} has no text encoder or no VAE. Use a full checkpoint.")
    return model, vae, clip.encode_from_tokens_scheduled(clip.tokenize(task["prompt"]))


def _pictures(task: dict[str, Any]) -> tuple[Any, Any]:
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
    if not folder.is_dir():
        part = folder.with_name(folder.name + f".{os.getpid()}")
        if not write_pairs(reader(*paths, **options), part):
            raise ValueError(f"{task['name']}: the data set has no image of this part.")
        part.rename(folder)
    return load_pairs(folder, task["size"])


def _demo_pictures(source: dict[str, Any]) -> tuple[Any, Any]:
    import numpy as np
    import torch

    from demo.training.parts import DemoPart, part_masks, single_scenes

    part = DemoPart("", str(source["part"]), tuple(source["objects"]))
    pictures = single_scenes(part.names, int(source.get("first_seed", 4_000_000)), int(source.get("pictures", 20)))
    return torch.from_numpy(np.stack([p.image for p in pictures])).float() / 255, part_masks(pictures, part)


def _mapping(value: Any, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected keys and values, got {type(value).__name__}.")
    unknown = sorted(str(key) for key in value if key not in known)
    if unknown:
        raise ConfigError(f"{where}: unknown key {', '.join(unknown)}. Known keys: {', '.join(sorted(known))}.")
    return value


def _count(values: dict[str, Any], key: str, standard: int) -> int:
    value = values.get(key, standard)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"{key}: expected a whole number, 0 or above, got {value!r}.")
    return value
