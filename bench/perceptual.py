"""A stand-in for LPIPS (Zhang et al. 2018) that needs no downloaded network."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tools.evaluate.judge import INPUT, Judge


@torch.no_grad()
def feature_distance(model: Judge, pictures: torch.Tensor, source: torch.Tensor) -> list[float]:
    """LPIPS's formula, without its learned weights, on the benchmark judge's five encoder levels.

    Features are brought to unit length along channels; squared differences are summed over channels, and averaged over
    the pixels of a level, then over levels. The numbers can be compared with each other, not with published LPIPS.

    Args:
        pictures: (N, H, W, 3) in 0 … 1.
        source: (H, W, 3), what they are compared with.
    """
    levels = _levels(model, torch.cat((source[None], pictures)))
    each = [((level[1:] - level[:1]) ** 2).sum(1).mean((1, 2)) for level in levels]
    return torch.stack(each).mean(0).tolist()


def _levels(model: Judge, pictures: torch.Tensor) -> list[torch.Tensor]:
    x = F.interpolate(pictures.permute(0, 3, 1, 2) * 2 - 1, size=(INPUT, INPUT), mode="bilinear", antialias=True)
    out = []
    for part in (model.stem, model.d1, model.d2, model.d3, model.d4):
        x = part(x)
        out.append(F.normalize(x, dim=1))
    return out
