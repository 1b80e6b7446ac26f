"""Weights of the golden cases, drawn from parameter names so that anyone can make them again.

The rule is written down in the golden data's README ("Weights"): every parameter comes from its
diffusers-format name and its shape, so no file is needed. Used by the parity command and by the tests.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

_QUARTER = ("to_out.0.", "ff.net.2.", "conv2.", "proj_out.", "conv_out.")
_DOUBLE = ("attn2.to_q", "attn2.to_k")


def text_seed(text: str) -> int:
    """First eight bytes of the SHA-256 of ``text``, little-endian: the seed that belongs to a name."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "little")


def standard_normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32 array of ``shape`` from PCG64(``seed``)."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)


def draw(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """One parameter, float32, from its diffusers-format ``name`` (with its suffix), PyTorch ``shape`` and ``seed``."""
    a = standard_normal(text_seed(name) + seed, *shape)
    if (".norm" in name and name.endswith("weight")) or name.endswith("norm.weight"):
        return np.float32(1.0) + np.float32(0.1) * a
    if name.endswith("bias"):
        return np.float32(0.05) * a
    scale = math.prod(shape[1:]) ** -0.5
    if any(part in name for part in _DOUBLE):
        scale *= 2.0
    if any(part in name for part in _QUARTER):
        scale *= 0.25
    return a * np.float32(scale)


def unet_state_dict(unet_config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """All weights of a ComfyUI UNet, keyed by ComfyUI's names.

    Args:
        unet_config: the keyword arguments of ComfyUI's ``UNetModel`` (with the head width already applied).
        seed: the case's seed.

    Raises:
        ValueError: a parameter of the network has no diffusers name.
    """
    import comfy.ops
    import comfy.utils
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    config = {k: v for k, v in unet_config.items() if k not in ("dtype", "device", "operations")}
    blank = UNetModel(**config, dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init)
    shapes = {k: tuple(v.shape) for k, v in blank.state_dict().items()}

    weights: dict[str, torch.Tensor] = {}
    for diffusers_name, name in comfy.utils.unet_to_diffusers(config).items():
        # class_embedding and add_embedding share ComfyUI's label_emb; the rule draws from add_embedding
        if name in shapes and not diffusers_name.startswith("class_embedding."):
            weights[name] = torch.from_numpy(draw(diffusers_name, shapes[name], seed))
    missing = sorted(set(shapes) - set(weights))
    if missing:
        raise ValueError(f"no diffusers name for {len(missing)} UNet parameters, the first is {missing[0]!r}")
    return weights
