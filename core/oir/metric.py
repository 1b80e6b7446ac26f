"""The search metric S = S_e + S_ne (Yang et al. 2023).

S_e is how well the masked region matches the target phrase (or the guided prompt), S_ne how little changed outside.
Both are scaled to 0 … 1 over the candidates and added. S_e can be weighted, which is not in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

# Smaller differences between scores are rounding.
FLAT = 1e-9


class Scorer(Protocol):
    """What S_e needs: the cosine similarity of (a region of) an image and a text."""

    def score(
        self, image: torch.Tensor, text: str, mask: torch.Tensor | None = None, mode: str = "masked"
    ) -> float: ...


@dataclass(frozen=True)
class Metric:
    """Scores of a pair's candidates; all lists run along the candidates.

    Attributes:
        edit: S_e, cosine similarity of the masked region and the target phrase (or the guided prompt).
        keep: S_ne, negative mean squared error outside the mask (pixels in 0 … 1).
        edit_norm, keep_norm: both after min-max over the candidates.
        total: S = edit_weight · edit_norm + keep_norm.
        best: position of the highest S.
    """

    edit: tuple[float, ...] = ()
    keep: tuple[float, ...] = ()
    edit_norm: tuple[float, ...] = ()
    keep_norm: tuple[float, ...] = ()
    total: tuple[float, ...] = ()
    best: int = 0


def keep_score(candidate: torch.Tensor, source: torch.Tensor, mask: torch.Tensor) -> float:
    """S_ne of one candidate: negative mean squared error over the pixels outside the mask.

    Args:
        candidate, source: (H, W, C) in 0 … 1.
        mask: (H, W), 1 inside the edit; soft masks weight the error by 1 - mask. For a mask that covers the whole
            image, the score is 0.
    """
    outside = 1.0 - mask
    weight = float(outside.sum())
    if weight <= 0.0:
        return 0.0
    error = ((candidate.double() - source.double()) ** 2).mean(-1)
    return -float((error * outside.double()).sum() / weight)


def min_max(values: Sequence[float], bounds: Sequence[float] = ()) -> list[float]:
    """Values scaled to 0 … 1. Equal values become 0, so that a constant score decides nothing.

    Args:
        bounds: further values that the scale has to hold.

    Raises:
        ValueError: a value is not finite.
    """
    numbers = torch.tensor(list(values), dtype=torch.float64)
    if not bool(torch.isfinite(numbers).all()):
        raise ValueError(
            f"scorer: expected finite scores, got {list(values)}. The model may generate NaN images. Start ComfyUI "
            "with --force-fp32, or load another scorer."
        )
    scale = torch.cat([numbers, torch.tensor(list(bounds), dtype=torch.float64)])
    low, high = scale.min(), scale.max()
    if float(high - low) <= FLAT * max(1.0, float(scale.abs().max())):
        return [0.0] * len(numbers)
    return ((numbers - low) / (high - low)).tolist()


def check_edit_weight(edit_weight: float) -> None:
    """Refuse a weight of S_e that :func:`combine` cannot use.

    Raises:
        ValueError: it is not a finite number above 0.
    """
    if not math.isfinite(edit_weight) or edit_weight <= 0.0:
        raise ValueError(f"edit_weight: expected a number above 0 (the paper uses 1), got {edit_weight}.")


def combine(
    edit: Sequence[float],
    keep: Sequence[float],
    *,
    edit_weight: float = 1.0,
    edit_bounds: Sequence[float] = (),
    keep_bounds: Sequence[float] = (),
) -> Metric:
    """S = edit_weight · S_e + S_ne over the candidates, from raw S_e and S_ne.

    The paper adds both with equal weight. An ``edit_weight`` above 1 prefers candidates that match the target phrase,
    below 1 those that preserve the rest of the image.

    Among equal totals the first wins: candidates ascend in inversion steps, and fewer steps change less.

    Args:
        edit_bounds, keep_bounds: raw scores of other candidates, measured or estimated, that the scales have to hold.

    Raises:
        ValueError: no candidates, lists of different length, scores that are not finite, or an invalid weight.
    """
    check_edit_weight(edit_weight)
    if not edit or len(edit) != len(keep):
        raise ValueError(
            f"edit, keep: expected scores of the same candidates, at least one, got {len(edit)} and {len(keep)}."
        )
    edit_norm, keep_norm = min_max(edit, edit_bounds), min_max(keep, keep_bounds)
    total = [edit_weight * a + b for a, b in zip(edit_norm, keep_norm, strict=True)]
    best = max(range(len(total)), key=lambda i: (total[i], -i))
    return Metric(tuple(edit), tuple(keep), tuple(edit_norm), tuple(keep_norm), tuple(total), best)
