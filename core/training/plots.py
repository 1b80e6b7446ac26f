"""Pictures of a token training: curves of loss and IoU, and part maps over the pictures they were judged on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..charts import BLUE, GREEN, PINK, Axis, Curve, Panel, draw, whole_ticks
from ..partedit.masks import normalise
from .maps import otsu_regions
from .settings import TrainingReport

WIDTH, HEIGHT = 900, 520
_LOSS = (148, 163, 184)
# One colour a part, told apart by colour-blind eyes too (Okabe and Ito).
PART_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))


def plot(report: TrainingReport) -> torch.Tensor:
    """IMAGE (1, 520, 900, 3): loss above (logarithmic), IoU on training and held-out pictures below."""
    steps = max(len(report.losses), 1)
    x = Axis(0, steps, [(n, str(n)) for n in whole_ticks(steps)], "step")
    losses = [max(loss, 1e-8) for loss in report.losses] or [1.0]
    low, high = math.log10(min(losses)), math.log10(max(losses))
    ticks = [low + (high - low) * share for share in (0, 0.25, 0.5, 0.75, 1)] if high > low else [low]
    y = Axis(low, high, [(value, f"{10**value:.2g}") for value in ticks])
    smooth = [(step, math.log10(loss)) for step, loss in enumerate(smoothed(losses), start=1)]
    title = f"loss {losses[0]:.4g} > {losses[-1]:.4g}, {steps} steps"
    above = Panel(title, x, y, [Curve("loss", smooth, _LOSS, marker="")])

    parts = ", ".join(f"{name} {value:.2f}" for name, value in report.part_iou.items())
    curves = [Curve("training", [(step, value) for step, value, _ in report.evaluations], BLUE)]
    held_out = [(step, value) for step, _, value in report.evaluations if value is not None]
    if held_out:
        curves.append(Curve("held out", held_out, PINK, "square"))
    unit = Axis(0, 1, [(tick / 4, f"{tick / 4:g}") for tick in range(5)])
    marks = [(report.best_step, GREEN)] if report.best_step else []
    below = Panel(f"IoU {parts} at step {report.best_step}, which is returned", x, unit, curves, marks)
    return draw([above, below], WIDTH, HEIGHT // 2)


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
        for index, (one, region) in enumerate(zip(soft, otsu_regions(soft), strict=True)):
            colour = torch.tensor(PART_COLOURS[index % len(PART_COLOURS)]) / 255
            strength = normalise(one)[..., None] * 0.6
            canvas = canvas * (1 - strength) + colour * strength
            canvas[_outline(region)] = colour
            canvas[_outline(truth[index])] = 1.0
        result.append(canvas)
    return torch.stack(result)


def _outline(region: torch.Tensor) -> torch.Tensor:
    """(H, W) bool: the pixels of a region that touch its outside."""
    inner = -F.max_pool2d(-region[None, None].float(), 3, 1, 1)
    return region & (inner[0, 0] < 1)


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean over the last tenth of what has gone by, at most 25 steps: single batches jump."""
    totals = np.concatenate([[0.0], np.cumsum(values)])
    starts = [max(0, i - min(25, i // 10)) for i in range(len(values))]
    return [float((totals[i + 1] - totals[start]) / (i + 1 - start)) for i, start in enumerate(starts)]
