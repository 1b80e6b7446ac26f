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


def picture_decoder(vae: Any, model: Any = None) -> PictureDecoder:
    """A decoder with a connected VAE; with ``model``, for the latents of that model.

    Raises:
        ValueError: see `check_vae`.
    """
    check_vae(vae, model)
    return PictureDecoder(vae)


def check_vae(vae: Any, model: Any = None) -> None:
    """Refuse a VAE that cannot decode what a model makes, which would only fail once it is made.

    Args:
        vae: a ComfyUI VAE. model: a ``ModelPatcher``; None: which latents it will get is not known.

    Raises:
        ValueError: there is no VAE, one without weights, or one for latents of another kind.
    """
    # Of a checkpoint without one, Load Checkpoint gives a VAE that is empty inside.
    if vae is None or getattr(vae, "first_stage_model", vae) is None:
        raise ValueError("vae: is empty. The checkpoint may have none; load one with Load VAE.")
    if model is None:
        return
    own, wanted = getattr(vae, "latent_channels", None), model.get_model_object("latent_format").latent_channels
    if isinstance(own, int) and own != wanted:
        raise ValueError(
            f"vae: decodes latents with {own} channels, but this model makes {wanted}. Connect the VAE of the model's "
            "own checkpoint, or one for its family."
        )
