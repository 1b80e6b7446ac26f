"""The saved state of an unfinished training run, written atomically."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from ..files import whole_file


@dataclass(frozen=True)
class TrainingState:
    """Everything a run needs to resume.

    Attributes:
        rows, moment1, moment2, best_rows: (R, D) float32; the moments are Adam's.
        fingerprint: of the settings and data it belongs to.
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


_TENSORS = ("rows", "moment1", "moment2", "best_rows")


def save_state(state: TrainingState, path: Path) -> None:
    """Write the state, whole or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    values = {
        name: getattr(state, name)
        for name in ("step", "best_score", "best_step", "losses", "evaluations", "fingerprint")
    }
    tensors = {name: getattr(state, name).detach().float().cpu().contiguous().clone() for name in _TENSORS}
    with whole_file(path) as part:
        save_file(tensors, str(part), metadata={"state": json.dumps(values)})


def load_state(path: Path, shape: tuple[int, int]) -> TrainingState | None:
    """Read a state; None when the file is damaged or of another shape: the run then starts over."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            values = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
        values["evaluations"] = [tuple(entry) for entry in values["evaluations"]]
        state = TrainingState(**tensors, **values)
    except (OSError, KeyError, TypeError, ValueError, RecursionError, SafetensorError):
        return None
    if any(t.dtype != torch.float32 or tuple(t.shape) != shape for t in tensors.values()):
        return None
    return state if all(bool(torch.isfinite(t).all()) for t in tensors.values()) else None
