"""Shared by the training scripts: initial weights, batches of images, moving averages, atomic saving."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tools.host.layout import whole_file

from .pictures import Picture, draw_scene, random_scene


def prepare_cpu(threads: int | None = None) -> None:
    """Flush denormals before the first parallel operation; otherwise Adam's tiny moments slow a CPU down tenfold."""
    torch.set_flush_denormal(True)
    if threads:
        torch.set_num_threads(threads)


def initialise(model: torch.nn.Module, zero: tuple[str, ...] = ()) -> None:
    """Initialise every weight; ComfyUI's own classes leave them uninitialised.

    Args:
        zero: name endings of layers that start at zero (the last layer of each residual branch).
    """
    for name, module in model.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if not isinstance(weight, torch.nn.Parameter):
            continue
        with torch.no_grad():
            if isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
                weight.fill_(1.0)
            elif isinstance(module, torch.nn.Embedding):
                weight.normal_(0, 0.02)
            elif name.endswith(zero) and zero:
                weight.zero_()
            else:
                weight.normal_(0, 1 / math.sqrt(weight[0].numel()))
            if isinstance(bias, torch.nn.Parameter):
                bias.zero_()


def pictures(seeds: range, size: int = 256, **scene: float) -> Iterator[Picture]:
    """Random scenes of the given seeds, drawn one by one."""
    for seed in seeds:
        yield draw_scene(random_scene(seed, **scene), size)


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in −1 … 1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


class MovingAverage:
    """Exponential moving average of a model's parameters; the average is what ships."""

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in model.state_dict().items():
            self.values[name].lerp_(value, 1 - decay)


def save(
    tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None, half: bool = True
) -> None:
    """Write a safetensors file atomically."""
    out = {
        name: (value.half() if half and value.is_floating_point() else value).contiguous()
        for name, value in tensors.items()
    }
    with whole_file(path) as part:
        save_file(out, str(part), metadata=metadata)
