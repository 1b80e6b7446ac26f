"""Guided upsampling: part maps follow the edges of the image (guided filter, He, Sun and Tang 2013, by kornia)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..unet import CrossLayer, LayerKey
from .masks import normalise, resize

UPSAMPLINGS = ("bilinear", "guided")
# ε of the paper, for a guide in 0 … 1: differences of 0.01 and more count as edges.
EDGE = 1e-4
# A guide of twice the latent's size keeps edges that the latent lost, at a quarter of the cost of four times the size.
GUIDE_SCALE = 2
# Latents come from images cropped to multiples of 8.
_ASPECT_TOLERANCE = 0.05


def cell_size(layers: Sequence[CrossLayer], chosen: Sequence[LayerKey]) -> float:
    """Mean width of an attention map's cell over the layers that are read, in latent pixels."""
    keys = set(chosen)
    cells = [2.0**layer.level for layer in layers if layer.key in keys]
    return sum(cells) / len(cells)


def latent_guide(latent: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) latents as a guide: each scaled to 0 … 1."""
    latent = latent.detach().float().cpu()
    low, high = (f(latent.flatten(1), dim=1).reshape(-1, 1, 1, 1) for f in (torch.amin, torch.amax))
    return (latent - low) / (high - low).clamp(min=1e-6)


def picture_guide(image: torch.Tensor, batch: int, latent: tuple[int, int]) -> torch.Tensor:
    """A ComfyUI IMAGE (1 or B, H, W, C) as a guide (B, 3, 2h, 2w) for maps of a latent of size ``latent``.

    Raises:
        ValueError: a wrong number of images, or an aspect ratio that differs from the latent's.
    """
    if image.ndim != 4 or image.shape[0] not in (1, batch):
        raise ValueError(
            f"image: expected 1 or {batch} images (batch, height, width, channels), got {tuple(image.shape)}. "
            "Connect the image that was encoded as latent_image."
        )
    height, width = image.shape[1:3]
    if abs(height * latent[1] - width * latent[0]) > _ASPECT_TOLERANCE * width * latent[0]:
        raise ValueError(
            f"image: is {width} x {height} pixels, which does not match the aspect ratio of latent_image ({latent[1]} "
            f"x {latent[0]} latent pixels). Connect the image that was encoded."
        )
    guide = image[..., :3].detach().float().cpu().clamp(0, 1).movedim(-1, 1)
    guide = resize(guide, (latent[0] * GUIDE_SCALE, latent[1] * GUIDE_SCALE), antialias=True)
    return guide.expand(batch, -1, -1, -1)


def guided_upsampling(maps: torch.Tensor, guide: torch.Tensor, cell: float) -> torch.Tensor:
    """Maps whose borders follow the guide's edges.

    In windows that reach one map cell to each side, a map is fitted as a linear function of the guide (He et al. 2013,
    Eq. 5 to 8), so it can only change where the guide does.

    Args:
        maps: (B, P, h, w); each is scaled to 0 … 1 first.
        guide: (B, C, H, W) in 0 … 1, at least as fine as the maps.
        cell: width of an attention map's cell in pixels of ``maps``.

    Returns:
        (B, P, H, W) in 0 … 1.
    """
    # ComfyUI requires kornia too, but imports it late.
    from kornia.filters import guided_blur

    size = (guide.shape[-2], guide.shape[-1])
    radius = max(1, round(cell * size[0] / maps.shape[-2]))
    coarse = resize(normalise(maps.float().cpu()), size)
    return guided_blur(guide.float().cpu(), coarse, 2 * radius + 1, EDGE, border_type="replicate").clamp(0, 1)
