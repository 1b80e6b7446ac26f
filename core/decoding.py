"""Latents to pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Decode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class PictureDecoder:
    """Decodes LATENT samples (1, C, h, w) to one picture (H, W, 3) in 0 … 1 on the CPU."""

    vae: Any

    def __call__(self, latent: torch.Tensor) -> torch.Tensor:
        picture = self.vae.decode(latent)
        picture = picture.reshape(-1, *picture.shape[-3:])[0]
        return picture[..., :3].detach().float().cpu().clamp(0.0, 1.0)


def picture_decoder(vae: Any) -> PictureDecoder:
    """A decoder with a connected VAE.

    Raises:
        ValueError: there is no VAE.
    """
    if vae is None:
        raise ValueError("vae: is empty. The checkpoint may have none; load one with Load VAE.")
    return PictureDecoder(vae)
