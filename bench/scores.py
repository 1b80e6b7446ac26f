"""Image scores for benchmarks, by the pack's own metrics."""

from __future__ import annotations

import numpy as np
import torch

# The judge knows a part's border to about this many pixels.
GROW = 4
# Equal pictures have an infinite PSNR, which no mean survives.
PSNR_CAP = 100.0


def psnr(source: torch.Tensor, other: torch.Tensor) -> float:
    """PSNR in dB of two pictures (H, W, 3) in 0 … 1, at most `PSNR_CAP`."""
    from partedit_oir.core import metrics

    return min(metrics.psnr(source.double().numpy(), other.double().numpy()), PSNR_CAP)


def outside(source: torch.Tensor, edit: torch.Tensor, part: np.ndarray) -> tuple[float, float]:
    """PSNR (dB, at most `PSNR_CAP`) and SSIM of two pictures (H, W, 3) outside a boolean part (H, W), grown."""
    from skimage.morphology import dilation, disk

    from partedit_oir.core.metrics import edit_scores

    scores = edit_scores(source, edit, torch.from_numpy(dilation(part, disk(GROW))).float())
    assert scores.psnr_outside is not None and scores.ssim_outside is not None, "the part covers the whole picture"
    return min(scores.psnr_outside, PSNR_CAP), scores.ssim_outside
