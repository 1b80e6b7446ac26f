"""How many rows fit into one UNet call."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch

# Larger batches gain nothing on the GPUs these networks run on, and delay an interrupt.
MAX_ROWS = 32
# On a CPU, a batch only reduces the overhead per call.
MAX_ROWS_CPU = 8


def auto_batch_size(model: Any, latent_shape: torch.Size | tuple[int, ...], branches: int = 2) -> int:
    """Rows (each counted once; ``branches`` = 2 for conditional and unconditional) that fit into the free memory.

    Uses ComfyUI's own estimate and safety factor, and leaves room for weights that are not loaded yet.
    """
    device = model.load_device
    limit = MAX_ROWS_CPU if comfy.model_management.is_device_cpu(device) else MAX_ROWS
    free = comfy.model_management.get_free_memory(device)
    if not comfy.model_management.is_device_cpu(device):
        free -= max(0, model.model_size() - model.loaded_size())
    rows = limit
    while rows > 1 and model.model.memory_required([rows * branches, *latent_shape[1:]]) * 1.5 > free:
        rows -= 1
    return rows
