"""The saved state of an unfinished training run, written atomically."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from ..files import whole_file


@dataclass(frozen=True)
class TrainingState:
    """Everything a run needs to resume.

    Attributes:
        rows, moment1, moment2, best_rows: (R, D) float32; the moments are Adam's.
        fingerprint: of the settings and masks it belongs to.
        pictures: (N, n) float32, of the images it belongs to, in order; see `same_pictures`.
    """

    step: int
    rows: torch.Tensor
    moment1: torch.Tensor
    moment2: torch.Tensor
    best_rows: torch.Tensor
    best_score: float
    best_step: int
    losses: list[float]
    evaluations: list[tuple[int, float, float | None]]
    fingerprint: str
    pictures: torch.Tensor


_TENSORS = ("rows", "moment1", "moment2", "best_rows")
# A VAE on another device or in half precision moves a pooled mean by less than a hundredth of the latents' spread.
_TOLERANCE = 0.05


def picture_prints(latents: torch.Tensor) -> torch.Tensor:
    """(N, C · 64) float32 on the CPU: of latents (N, C, h, w) the means of 8 x 8 areas, in units of their spread."""
    values = latents.detach().float().cpu()
    pooled = F.adaptive_avg_pool2d(values, 8).flatten(1)
    return pooled / values.std().clamp_min(1e-6)


def same_pictures(prints: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether two results of `picture_prints` are of the same images in the same order, wherever they were encoded."""
    return prints.shape == others.shape and torch.allclose(prints, others, rtol=0, atol=_TOLERANCE)


def save_state(state: TrainingState, path: Path) -> None:
    """Write the state, whole or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    values = {
        name: getattr(state, name)
        for name in ("step", "best_score", "best_step", "losses", "evaluations", "fingerprint")
    }
    names = (*_TENSORS, "pictures")
    tensors = {name: getattr(state, name).detach().float().cpu().contiguous().clone() for name in names}
    with whole_file(path) as part:
        save_file(tensors, str(part), metadata={"state": json.dumps(values)})


def load_state(path: Path, shape: tuple[int, int]) -> TrainingState | None:
    """Read a state; None when the file is damaged or of another shape: the run then starts over."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            values = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
            pictures = file.get_tensor("pictures")
        values["evaluations"] = [tuple(entry) for entry in values["evaluations"]]
        state = TrainingState(**tensors, **values, pictures=pictures)
    except (OSError, KeyError, TypeError, ValueError, RecursionError, SafetensorError):
        return None
    if any(t.dtype != torch.float32 or tuple(t.shape) != shape for t in tensors.values()):
        return None
    return state if all(bool(torch.isfinite(t).all()) for t in tensors.values()) else None
