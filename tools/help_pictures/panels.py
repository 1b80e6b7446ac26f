"""How the pictures of the help pages look: panels with a line of text above each, on a dark ground."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

GROUND, TEXT, QUIET, BAR = (24, 24, 28), (235, 235, 235), (150, 150, 158), (90, 180, 240)
PINK, BLUE, GREEN = (255, 0, 200), (0, 150, 255), (0, 255, 110)
GAP, HEAD = 8, 30

Panel = tuple[str, Image.Image]


def picture(image: torch.Tensor | np.ndarray) -> Image.Image:
    """The first of an IMAGE or MASK batch in 0 … 1, or an array (H, W[, 3]) of bytes or truth values, as RGB."""
    if isinstance(image, np.ndarray):
        return Image.fromarray(image.astype(np.uint8) * (255 if image.dtype == bool else 1)).convert("RGB")
    values = image.detach().float().cpu()
    if values.ndim == 4 or (values.ndim == 3 and values.shape[-1] != 3):
        values = values[0]
    return Image.fromarray((values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).convert("RGB")


def tinted(
    image: Image.Image, mask: torch.Tensor | np.ndarray, colour: tuple[int, int, int] = PINK, dim: float = 1.0
) -> Image.Image:
    """A picture with a mask (H, W), or the first of a batch, laid over it in a colour; the rest times ``dim``."""
    values = torch.as_tensor(mask).float()
    shape = np.asarray((values if values.ndim == 2 else values[0]).clamp(0, 1) * 255).astype(np.uint8)
    weight = np.asarray(Image.fromarray(shape).resize(image.size), dtype=np.float32)[..., None] / 255
    pixels = np.asarray(image, dtype=np.float32)
    mixed = pixels * dim * (1 - weight) + (pixels * 0.4 + np.array(colour, dtype=np.float32) * 0.6) * weight
    return Image.fromarray(mixed.round().astype(np.uint8))


def row(panels: Sequence[Panel], side: int, *, title: str = "") -> Image.Image:
    """Panels side by side, each ``side`` high, with their texts above.

    Args:
        title: one text for the whole row, in place of the panels' own.
    """
    shown = [
        image.resize((round(side * image.width / image.height), side), Image.Resampling.LANCZOS) for _, image in panels
    ]
    made = Image.new("RGB", (sum(one.width + GAP for one in shown) + GAP, HEAD + side + GAP), GROUND)
    draw, x = ImageDraw.Draw(made), GAP
    if title:
        draw.text((x, 6), title, fill=TEXT, font=font(15))
    for (text, _), image in zip(panels, shown):
        made.paste(image, (x, HEAD))
        if not title:
            draw.text((x, 6), text, fill=TEXT, font=font(15))
        x += image.width + GAP
    return made


def marked(image: Image.Image, boxes: dict[str, tuple[int, int, int, int]]) -> Image.Image:
    """A picture with named boxes (x0, y0, x1, y1)."""
    made = image.copy()
    draw = ImageDraw.Draw(made)
    for name, box in boxes.items():
        draw.rectangle(box, outline=GREEN, width=2)
        draw.text((box[0] + 2, box[1] - 17), name, fill=(0, 0, 0), font=font(14))
    return made


def lines(texts: Sequence[str], size: tuple[int, int], step: int = 21) -> Image.Image:
    """Lines of text as a panel, moved together if there are many; ValueError if they do not fit."""
    made = Image.new("RGB", size, GROUND)
    step = min(step, (size[1] - 5) // max(1, len(texts)))
    if step < 17 or max(map(font(14).getlength, texts), default=0) > size[0] - 8:
        raise ValueError(f"a panel of {size[0]} x {size[1]} pixels does not hold these {len(texts)} lines")
    for number, text in enumerate(texts):
        ImageDraw.Draw(made).text((4, 5 + step * number), text, fill=TEXT, font=font(14))
    return made


def bars(groups: dict[str, dict[str, float]], size: tuple[int, int]) -> Image.Image:
    """Named values below 1 as bars, in named groups."""
    made = Image.new("RGB", size, GROUND)
    draw, y = ImageDraw.Draw(made), 6
    for title, values in groups.items():
        draw.text((6, y), title, fill=TEXT, font=font(15))
        y += 24
        for text, value in values.items():
            draw.text((6, y), text, fill=QUIET, font=font(13))
            draw.rectangle((120, y + 3, 120 + max(2, round(170 * max(0.0, value))), y + 13), fill=BAR)
            draw.text((size[0] - 60, y), f"{value:.2f}", fill=TEXT, font=font(13))
            y += 20
        y += 12
    return made


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
