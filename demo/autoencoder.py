"""The demo VAE around ComfyUI's ``AutoencoderKL``: pixel blocks as channels, and a skip path for colours.

The network sees 4 × 4 pixel blocks as 48 channels, so no layer runs at full resolution. Three latent channels carry the
averaged colours past it, and the decoder starts from their upsampled version, so the network only learns what averages
lose.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .config import VAE_BLOCK, VAE_GROUPS


class BlockEncoder(nn.Module):
    """(N, 3, H, W) images to (N, 8, H/8, W/8) means and log-variances."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.network(F.pixel_unshuffle(x, VAE_BLOCK))
        return out + F.pad(F.avg_pool2d(x, 8), (0, 0, 0, 0, 0, out.shape[1] - 3))


class BlockDecoder(nn.Module):
    """(N, 4, h, w) latents to (N, 3, 8h, 8w) images."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, z: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        detail = F.pixel_shuffle(self.network(z, **kwargs), VAE_BLOCK)
        return detail + F.interpolate(z[:, :3], scale_factor=8, mode="bilinear")


def adapt(model: nn.Module) -> nn.Module:
    """Turn an ``AutoencoderKL`` with the demo's weights into the demo's VAE, in place."""
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = VAE_GROUPS
    model.encoder, model.decoder = BlockEncoder(model.encoder), BlockDecoder(model.decoder)
    return model


def plain_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensor names of an adapted model as in a plain ``AutoencoderKL``; the file uses these."""
    return {k.replace("coder.network.", "coder."): v for k, v in state.items()}


def adapted_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of :func:`plain_names`."""
    return {k.replace("coder.", "coder.network."): v for k, v in state.items()}
