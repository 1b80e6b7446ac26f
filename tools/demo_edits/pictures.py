"""The pictures of one demo run: which output node shows what, sheets of panels, and what changed where."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

SAMPLER = "FeatureBlendSampler"
PANEL = 384


@dataclass(frozen=True)
class Shown:
    """One image of an output node.

    Attributes:
        title: the node's title, with a number if it shows several images.
        role: the name of the sampler's output that it shows ("edited", "source", "mask"), else "".
        image: RGB.
    """

    title: str
    role: str
    image: Image.Image


def previews(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt with images previewed instead of saved: a demo leaves nothing in the output folder of a server."""
    return {
        key: {**node, "class_type": "PreviewImage", "inputs": {"images": node["inputs"]["images"]}}
        if node["class_type"] == "SaveImage"
        else node
        for key, node in prompt.items()
    }


def role(prompt: dict[str, Any], object_info: dict[str, Any], key: str) -> str:
    """The name of the sampler output that an output node shows, "" if it shows something else.

    Follows the chain of nodes with one image, latent or mask input (VAE Decode, Mask to Image) up to the sampler.
    """
    for _ in range(len(prompt)):
        links = [prompt[key]["inputs"].get(name) for name in ("images", "image", "samples", "mask")]
        link = next((one for one in links if isinstance(one, list)), None)
        if link is None:
            return ""
        key, slot = link
        if prompt[key]["class_type"] == SAMPLER:
            return str(object_info[SAMPLER]["output_name"][slot])
    return ""


def overlay(source: Image.Image, mask: np.ndarray) -> Image.Image:
    """The source (H, W) with a mask (H, W) in [0, 1] laid over it in magenta."""
    picture = np.asarray(source, dtype=np.float32)
    weight = mask[..., None] * 0.6
    mixed = picture * (1 - weight) + np.array([255, 0, 200], dtype=np.float32) * weight
    return Image.fromarray(mixed.round().astype(np.uint8))


def sheet(panels: list[Image.Image], title: str) -> Image.Image:
    """Images side by side under one line of text, each PANEL high."""
    gap, head = 8, 36
    widths = [round(PANEL * panel.width / panel.height) for panel in panels]
    made = Image.new("RGB", (sum(widths) + gap * (len(panels) + 1), PANEL + head + gap), (24, 24, 28))
    x = gap
    for panel, width in zip(panels, widths):
        made.paste(panel.resize((width, PANEL), Image.Resampling.LANCZOS), (x, head))
        x += width + gap
    ImageDraw.Draw(made).text((gap, 8), title, fill=(235, 235, 235), font=ImageFont.load_default(size=18))
    return made


def measure(source: Image.Image, mask: np.ndarray, edit: Image.Image) -> dict[str, float | None]:
    """The mask's fraction of the image, PSNR outside it (dB) and mean change inside it."""
    a, b = (np.asarray(image, dtype=np.float64) / 255 for image in (source, edit))
    inside, outside = mask > 0.5, mask < 0.05
    error = float(((a - b)[outside] ** 2).mean()) if outside.any() else float("nan")
    # JSON has no infinity: an unchanged background is reported as null.
    psnr = None if not error > 0 else round(-10 * math.log10(error), 2)
    change = float(np.abs(a - b)[inside].mean()) if inside.any() else 0.0
    return {"mask_share": round(float(inside.mean()), 4), "psnr_outside_db": psnr, "change_inside": round(change, 4)}


def mask_of(shown: list[Shown], size: tuple[int, int]) -> np.ndarray | None:
    """The mask shown first, (H, W) in [0, 1] at the size of the images; None if there is none."""
    mask = next((one.image for one in shown if one.role == "mask"), None)
    return None if mask is None else np.asarray(mask.convert("L").resize(size), dtype=np.float32) / 255


def save_with_workflow(image: Image.Image, path: Path, workflow: dict[str, Any], prompt: dict[str, Any]) -> None:
    """A PNG that carries its graph as ComfyUI's own do: dropped on the editor, it opens the workflow."""
    info = PngInfo()
    info.add_text("workflow", json.dumps(workflow))
    info.add_text("prompt", json.dumps(prompt))
    image.save(path, pnginfo=info)
