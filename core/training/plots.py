"""Pictures of a token training: curves of loss and IoU, and part maps over the pictures they were judged on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from ..partedit.masks import normalise, otsu
from .settings import TrainingReport

WIDTH, HEIGHT = 900, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 30, 40, 40
_BACK, _GRID, _TEXT = (24, 24, 27), (63, 63, 70), (228, 228, 231)
_LOSS, _TRAINING, _HELD_OUT = (148, 163, 184), (56, 189, 248), (244, 114, 182)
# One colour a part, told apart by colour-blind eyes too (Okabe and Ito).
PART_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))


def plot(report: TrainingReport) -> torch.Tensor:
    """IMAGE (1, 520, 900, 3): loss above (logarithmic), IoU on training and held-out pictures below."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), _BACK)
    draw = ImageDraw.Draw(picture)
    middle = HEIGHT // 2
    steps = max(len(report.losses), 1)
    losses = [max(loss, 1e-8) for loss in report.losses] or [1.0]
    low, high = math.log10(min(losses)), math.log10(max(losses))
    span = max(high - low, 1e-6)
    draw.text((_LEFT, 12), f"loss {losses[0]:.4g} > {losses[-1]:.4g}, {steps} steps", fill=_TEXT)
    _axes(draw, _TOP, middle - 20, f"{10**high:.3g}", f"{10**low:.3g}")
    smooth = _smoothed(losses)
    _line(draw, [(i / steps, (math.log10(v) - low) / span) for i, v in enumerate(smooth)], _TOP, middle - 20, _LOSS)
    title = "IoU: training"
    draw.text((_LEFT, middle), title, fill=_TRAINING)
    _axes(draw, middle + 24, HEIGHT - _BOTTOM, "1", "0")
    bounds = (middle + 24, HEIGHT - _BOTTOM)
    _line(draw, [(step / steps, value) for step, value, _ in report.evaluations], *bounds, _TRAINING)
    held_out = [(step / steps, value) for step, _, value in report.evaluations if value is not None]
    if held_out:
        draw.text((_LEFT + 120, middle), "held out", fill=_HELD_OUT)
        _line(draw, held_out, *bounds, _HELD_OUT)
    if report.best_step:
        x = _x(report.best_step / steps)
        draw.line([(x, bounds[0]), (x, bounds[1])], fill=_GRID)
    parts = ", ".join(f"{name} {value:.2f}" for name, value in report.part_iou.items())
    draw.text((_LEFT, HEIGHT - 28), f"step {report.best_step} returned; IoU {parts}", fill=_TEXT)
    return _image(picture)


def overlays(images: Sequence[torch.Tensor], maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """IMAGE (n, H, W, 3): the part map as colour, its Otsu region outlined, and the painted mask's outline in white.

    Args:
        images: n pictures (H, W, 3), 0..1. maps: (n, P, h, w). masks: (n, P, H, W).
    """
    result = []
    for image, part_maps, part_masks in zip(images, maps, masks, strict=True):
        height, width = image.shape[:2]
        canvas = image[..., :3].detach().float().cpu().clone()
        soft = F.interpolate(part_maps[None].float(), (height, width), mode="bilinear", align_corners=False)[0]
        truth = F.interpolate(part_masks[None].float(), (height, width), mode="nearest")[0] > 0.5
        for index, one in enumerate(soft):
            colour = torch.tensor(PART_COLOURS[index % len(PART_COLOURS)]) / 255
            strength = normalise(one)[..., None] * 0.6
            canvas = canvas * (1 - strength) + colour * strength
            canvas[_outline(one > otsu(one))] = colour
            canvas[_outline(truth[index])] = 1.0
        result.append(canvas)
    return torch.stack(result)


def _outline(region: torch.Tensor) -> torch.Tensor:
    """(H, W) bool: the pixels of a region that touch its outside."""
    inner = -F.max_pool2d(-region[None, None].float(), 3, 1, 1)
    return region & (inner[0, 0] < 1)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Mean over the last tenth of what has gone by, at most 25 steps: single batches jump."""
    totals = np.concatenate([[0.0], np.cumsum(values)])
    starts = [max(0, i - min(25, i // 10)) for i in range(len(values))]
    return [float((totals[i + 1] - totals[start]) / (i + 1 - start)) for i, start in enumerate(starts)]


def _x(share: float) -> float:
    return _LEFT + share * (WIDTH - _LEFT - _RIGHT)


def _axes(draw: ImageDraw.ImageDraw, top: int, bottom: int, high: str, low: str) -> None:
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = top + share * (bottom - top)
        draw.line([(_LEFT, y), (WIDTH - _RIGHT, y)], fill=_GRID)
    draw.text((8, top - 6), high, fill=_TEXT)
    draw.text((8, bottom - 6), low, fill=_TEXT)


def _line(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], top: int, bottom: int, colour: tuple) -> None:
    placed = [(_x(x), bottom - min(max(y, 0), 1) * (bottom - top)) for x, y in points]
    if len(placed) > 1:
        draw.line(placed, fill=colour, width=2)
    if len(placed) <= 60:
        for x, y in placed:
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)


def _image(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]
