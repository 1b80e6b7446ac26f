"""Latent blending: an inverted image is edited by a prompt inside a mask, and is itself outside, on any kind of model.

At every step, the latent outside the mask is the image's own of that level (Avrahami et al. 2023, "Blended Latent
Diffusion", with the levels of an inversion in place of fresh noise). Nothing is read from or written to the model's
attention. Inside the mask, the edit takes the residual that keeps the image on its trajectory at this run's guidance
(:mod:`.replay`), so that an edit that changes nothing gives the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch
import torch.nn.functional as F

from ..conditioning import Conditioning, check_active, check_conditioning
from ..latents import check_sampled, process_latent_out
from ..mask_inputs import check_left, picture_masks
from ..unet import declared_text_width, latent_scale
from .engine import Denoiser, effective_negative, run_loop
from .memory import auto_batch_size
from .replay import deterministic_part
from .schedule import check_same_kind, model_sampling_of
from .stochastic import find_noise_maps
from .trajectory import Trajectory


@dataclass(frozen=True)
class MaskedReplaySettings:
    """How to edit.

    Attributes:
        cfg: guidance scale; at 1, no negative prompt is used.
        strength: fraction of the trajectory's steps that are edited; 1 starts from its noisiest level.
        blend_until: fraction of these steps after which the outside is no longer held; 1 holds it to the end.
    """

    cfg: float = 7.5
    strength: float = 1.0
    blend_until: float = 1.0


def masked_replay(
    model: Any,
    trajectory: Trajectory,
    edit: Conditioning,
    mask: torch.Tensor,
    settings: MaskedReplaySettings,
    *,
    negative: Conditioning | None = None,
    source: Conditioning | None = None,
) -> torch.Tensor:
    """Edit the masked region of inverted images.

    The model is asked twice for every level: about the image, to find its residuals, many levels in a batch, and about
    the edit. So prompts may differ in length, and only one of them is in memory at a time.

    Args:
        model: a ``ModelPatcher``, the one the trajectory was made with.
        edit: CONDITIONING of the edited image.
        mask: a MASK, one or one for each image, 1 where to edit; soft values blend.
        negative: unconditional prompt of both; needed if ``cfg`` is not 1.
        source: CONDITIONING of the image as it is; by default the trajectory's own.

    Returns:
        (B, C, H, W), or with a time axis, as a LATENT holds it.

    Raises:
        ValueError: an invalid input, named in the message, before anything is sampled.
    """
    check_same_kind(model, trajectory)
    source = source or trajectory.conditioning
    if not source:
        raise ValueError(
            f"source: not connected, and the {trajectory.method} trajectory was made without a prompt. Connect the "
            "conditioning of the image as it is."
        )
    if settings.cfg != 1.0 and negative is None:
        raise ValueError(f"negative: not connected, but cfg is {settings.cfg:g}. Connect one, or use cfg 1.")
    negative = effective_negative(model, settings.cfg, negative)
    width = declared_text_width(model)
    given = {"edit": edit, "source": source, **({} if negative is None else {"negative": negative})}
    for name, conditioning in given.items():
        check_conditioning(name, conditioning, width)
    if not 0.0 <= settings.blend_until <= 1.0:
        raise ValueError(f"blend_until: expected a fraction from 0 to 1, got {settings.blend_until}.")
    start = trajectory.start_index(settings.strength)
    sigmas, path = trajectory.sigmas[start:], trajectory.latents[start:]
    steps, batch, method, scaling = len(sigmas) - 1, path.shape[1], trajectory.method, trajectory.scaling
    held = round(steps * settings.blend_until)
    for name, conditioning in given.items():
        check_active(name, conditioning or [], model_sampling_of(model), sigmas[:-1].tolist(), batch, trajectory.size)
    inside = _latent_masks(mask, model, path)

    guided = 1 if settings.cfg == 1.0 else 2
    rows = max(batch, auto_batch_size(model, trajectory.latent_image.shape, guided))
    progress = comfy.utils.ProgressBar(2 * steps)

    def run(loop: Any, positive: Conditioning, rows: int) -> torch.Tensor:
        result, _ = run_loop(
            model,
            loop,
            positive=positive,
            negative=negative,
            cfg=settings.cfg,
            latent_image=trajectory.latent_image,
            rows=rows,
            sigmas=trajectory.sigmas,
        )
        check_sampled(result, "the edit")
        return result

    residuals = run(
        lambda denoise: find_noise_maps(
            denoise, path, sigmas, method, batch_size=rows, scaling=scaling, on_levels=progress.update
        ),
        source,
        rows,
    )

    def edited(denoise: Denoiser) -> torch.Tensor:
        x, previous, mask = path[0].to(denoise.device), None, inside.to(denoise.device)
        for i in range(steps):
            clean = denoise(x, float(sigmas[i]))
            x = deterministic_part(method, sigmas, i, x, clean, previous, scaling) + residuals[i].to(x)
            if i < held:
                x = mask * x + (1.0 - mask) * path[i + 1].to(x)
            previous = clean
            progress.update(1)
        return x.float().cpu()

    return process_latent_out(model, trajectory.to_image_latent(run(edited, edit, batch)))


def _latent_masks(mask: torch.Tensor, model: Any, path: torch.Tensor) -> torch.Tensor:
    """The masks at the resolution of the latents of ``path``, (B, 1, …, h, w)."""
    scale, (height, width) = latent_scale(model), path.shape[-2:]
    size = (height * scale, width * scale)
    masks = picture_masks(mask, path.shape[1], size, "mask", "there is nothing to edit", cell=scale, optional=False)
    small = F.interpolate(masks[:, None], size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    check_left(masks, small[:, 0], "mask")
    return small.clamp(0.0, 1.0).reshape(-1, *[1] * (path.ndim - 4), height, width)
