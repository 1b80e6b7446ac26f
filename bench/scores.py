"""Image scores for benchmarks, by the pack's own metrics; means of PSNR are those of `tools.decibels`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from tools import decibels

# The judge knows a part's border to about this many pixels.
GROW = 4
# Pictures of floats are equal from here on: what is left is rounding, which no value of 8 bits shows.
SAME_DB = 100.0


def finite_db(value: float) -> float:
    """A PSNR in dB as it is kept: `decibels.EQUAL_DB` for equal pictures."""
    return decibels.EQUAL_DB if value >= SAME_DB else value


def psnr(source: torch.Tensor, other: torch.Tensor) -> float:
    """PSNR in dB of two pictures (H, W, 3), or of chosen pixels (N, 3), in 0 … 1; see `finite_db`."""
    from partedit_oir.core import metrics

    return finite_db(metrics.psnr(source.double().numpy(), other.double().numpy()))


def outside(source: torch.Tensor, edit: torch.Tensor, part: np.ndarray) -> tuple[float, float]:
    """PSNR (dB, see `finite_db`) and SSIM of two pictures (H, W, 3) outside a boolean part (H, W), grown."""
    from skimage.morphology import dilation, disk

    from partedit_oir.core.metrics import edit_scores

    scores = edit_scores(source, edit, torch.from_numpy(dilation(part, disk(GROW))).float())
    assert scores.psnr_outside is not None and scores.ssim_outside is not None, "the part covers the whole picture"
    return finite_db(scores.psnr_outside), scores.ssim_outside


def means(rows: Sequence[dict[str, float]], digits: int = 4) -> dict[str, float | str | int]:
    """Mean of each figure over the rows, all of which have the same ones; those in dB (``…_db``) by `decibels`."""
    found: dict[str, float | str | int] = {}
    for key in rows[0]:
        found |= mean_of(key, (row[key] for row in rows), digits)
    return found


def mean_of(key: str, values: Iterable[float], digits: int = 4) -> dict[str, float | str | int]:
    """The mean of one figure under its name; see `means`."""
    if key.endswith("_db"):
        return decibels.written(key, values, digits)
    return {key: round(float(np.mean(list(values))), digits)}
