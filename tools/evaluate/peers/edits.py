"""Published edits by diffusers' pipelines, and one by a sampling loop around diffusers' UNet.

Every function takes a `weights.HostModel`, the picture as (H, W, 3) uint8 PIL image, and the settings of a request; it
returns the edited picture. Noise comes from the request's seed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .weights import HostModel, MissingError, added_conditions

# SDXL's pipeline leaves the noise out of the last 3 of its 50 steps; the same share of fewer steps.
ZERO_NOISE = 3 / 50
Edit = Callable[[HostModel, Image.Image, "Image.Image | None", dict[str, Any]], Image.Image]


def _random(request: dict[str, Any]) -> torch.Generator:
    return torch.Generator().manual_seed(request["seed"])


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ledits_pp(model: HostModel, picture: Image.Image, mask: Image.Image | None, request: dict[str, Any]) -> Image.Image:
    """LEDITS++ (Brack et al. 2024): its own inversion, and guidance away from the old words and to the new ones.

    The picture is inverted without a prompt, the pipeline's default: the edit starts from the unconditional noise, and
    would not return to the picture otherwise.

    Settings: ``steps``, ``skip``, ``edit_guidance``, ``edit_threshold``; ``changes``: pairs of old and new words, none
    of them for an edit that changes nothing. Old words that are empty are left out.
    """
    from diffusers import (
        DPMSolverMultistepScheduler,
        LEditsPPPipelineStableDiffusion,
        LEditsPPPipelineStableDiffusionXL,
    )

    order = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}
    scheduler = model.scheduler(DPMSolverMultistepScheduler, **order)
    pipeline: Any
    if model.xl:
        pipeline = LEditsPPPipelineStableDiffusionXL(
            **model.xl_parts(), scheduler=scheduler, force_zeros_for_empty_prompt=False, add_watermarker=False
        )
    else:
        pipeline = LEditsPPPipelineStableDiffusion(**model.parts(), scheduler=scheduler)
    # Its masks from attention are read at a quarter of the latent's size; without layers there, noise decides alone.
    with_attention = any("CrossAttn" in block for block in model.unet.config.down_block_types[2:3])
    words = [(old, True) for old, _ in request["changes"] if old] + [(new, False) for _, new in request["changes"]]
    _quiet(pipeline).invert(
        image=picture,
        num_inversion_steps=request["steps"],
        **({"num_zero_noise_steps": round(ZERO_NOISE * request["steps"])} if model.xl else {}),
        skip=request["skip"],
        generator=_random(request),
    )
    return pipeline(
        editing_prompt=[text for text, _ in words] or None,
        reverse_editing_direction=[away for _, away in words],
        edit_guidance_scale=[request["edit_guidance"]] * len(words),
        edit_threshold=[request["edit_threshold"]] * len(words),
        use_intersect_mask=with_attention,
    ).images[0]


def diffedit(model: HostModel, picture: Image.Image, mask: Image.Image | None, request: dict[str, Any]) -> Image.Image:
    """DiffEdit (Couairon et al. 2023): a mask from where the two prompts' noise differs, then DDIM inversion and
    denoising inside it.

    Settings: ``steps``, ``cfg``, ``strength`` (of inversion and edit), ``maps``, ``threshold``.
    """
    from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline

    pipeline: Any = _quiet(
        StableDiffusionDiffEditPipeline(
            **model.parts(),
            scheduler=model.scheduler(DDIMScheduler, clip_sample=False, set_alpha_to_one=False),
            inverse_scheduler=model.scheduler(DDIMInverseScheduler, clip_sample=False, set_alpha_to_one=False),
        )
    )
    steps, strength, random = request["steps"], request["strength"], _random(request)
    found = pipeline.generate_mask(
        image=picture,
        source_prompt=request["source"],
        target_prompt=request["edit"],
        num_inference_steps=steps,
        num_maps_per_mask=request["maps"],
        mask_thresholding_ratio=request["threshold"],
        guidance_scale=request["cfg"],
        generator=random,
    )
    inverted = pipeline.invert(
        prompt=request["source"],
        image=picture,
        num_inference_steps=steps,
        inpaint_strength=strength,
        guidance_scale=1.0,
        generator=random,
    ).latents
    return pipeline(
        prompt=request["edit"],
        negative_prompt=request["negative"],
        mask_image=found,
        image_latents=inverted,
        num_inference_steps=steps,
        inpaint_strength=strength,
        guidance_scale=request["cfg"],
        generator=random,
    ).images[0]


def inpaint(model: HostModel, picture: Image.Image, mask: Image.Image | None, request: dict[str, Any]) -> Image.Image:
    """diffusers' inpainting in a given mask. An inpainting UNet sees mask and picture; with any other one the pipeline
    blends latents.

    Settings: ``steps``, ``cfg``, ``strength``.
    """
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline

    assert mask is not None, "the method lacks a mask"
    scheduler = model.scheduler(DDIMScheduler, clip_sample=False, set_alpha_to_one=False)
    pipeline: Any
    if model.xl:
        pipeline = StableDiffusionXLInpaintPipeline(
            **model.xl_parts(), scheduler=scheduler, force_zeros_for_empty_prompt=False, add_watermarker=False
        )
    else:
        pipeline = StableDiffusionInpaintPipeline(**model.parts(), scheduler=scheduler)
    return _quiet(pipeline)(
        prompt=request["edit"],
        negative_prompt=request["negative"],
        image=picture,
        mask_image=mask,
        height=picture.height,
        width=picture.width,
        strength=request["strength"],
        num_inference_steps=request["steps"],
        guidance_scale=request["cfg"],
        generator=_random(request),
    ).images[0]


def instruct_pix2pix(
    model: HostModel, picture: Image.Image, mask: Image.Image | None, request: dict[str, Any]
) -> Image.Image:
    """InstructPix2Pix (Brooks et al. 2023): its own weights, from a folder in diffusers' form.

    Settings: ``folder``, ``instruction``, ``steps``, ``cfg``, ``image_guidance``.
    """
    from diffusers import DiffusionPipeline

    folder = Path(request["folder"])
    if not (folder / "model_index.json").is_file():
        raise MissingError(f"no InstructPix2Pix in {request['folder']}: expected a folder with model_index.json")
    pipeline: Any = _quiet(DiffusionPipeline.from_pretrained(str(folder), local_files_only=True))
    return pipeline(
        prompt=request["instruction"],
        image=picture,
        num_inference_steps=request["steps"],
        guidance_scale=request["cfg"],
        image_guidance_scale=request["image_guidance"],
        generator=_random(request),
    ).images[0]


@torch.no_grad()
def virtual_inversion(
    model: HostModel, picture: Image.Image, mask: Image.Image | None, request: dict[str, Any]
) -> Image.Image:
    """InfEdit's virtual inversion (Xu et al. 2024, algorithm 2), without its attention control.

    Source and target share their noise at every level. The target's clean latent is read with the noise
    ε_target − ε_source + ε, where ε is the noise that the source was given, so nothing has to be inverted, and an edit
    that changes no words returns the picture.

    Settings: ``steps``, ``cfg``, ``strength``.
    """
    from diffusers import DDIMScheduler

    scheduler = model.scheduler(DDIMScheduler, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(request["steps"])
    count = max(1, round(request["steps"] * request["strength"]))
    levels = scheduler.timesteps[-count:]
    texts = [model.encoded(request[name]) for name in ("negative", "source", "edit")]
    pixels = torch.from_numpy(_array(picture)).movedim(-1, 0)[None] * 2 - 1
    clean = model.vae.encode(pixels).latent_dist.mode() * model.vae.config.scaling_factor
    random, target = _random(request), clean

    def noise_of(latent: torch.Tensor, level: Any, place: int) -> torch.Tensor:
        """The guided noise of one prompt."""
        used = [texts[place]] if request["cfg"] == 1 else [texts[0], texts[place]]
        context, pooled = (torch.cat(parts) for parts in zip(*used))
        more = {"added_cond_kwargs": added_conditions(pooled, model.size)} if model.xl else {}
        rows = latent.expand(len(used), -1, -1, -1)
        found = model.unet(rows, level, encoder_hidden_states=context, **more).sample
        if model.prediction == "v_prediction":
            kept = scheduler.alphas_cumprod[level]
            found = kept**0.5 * found + (1 - kept) ** 0.5 * rows
        return found[-1:] if len(used) == 1 else found[:1] + request["cfg"] * (found[1:] - found[:1])

    for level in levels:
        kept = scheduler.alphas_cumprod[level]
        noise = torch.randn(clean.shape, generator=random)
        source_now, target_now = (kept**0.5 * one + (1 - kept) ** 0.5 * noise for one in (clean, target))
        consistent = noise_of(target_now, level, 2) - noise_of(source_now, level, 1) + noise
        target = (target_now - (1 - kept) ** 0.5 * consistent) / kept**0.5
    edited = model.vae.decode(target / model.vae.config.scaling_factor).sample[0]
    shown = ((edited.movedim(0, -1) + 1) / 2).clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(shown.numpy())


def _array(picture: Image.Image) -> Any:
    import numpy as np

    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255


#: They do not use the checkpoint of the servers.
OWN_WEIGHTS = ("instruct_pix2pix",)
EDITS: dict[str, Edit] = {
    "ledits_pp": ledits_pp,
    "diffedit": diffedit,
    "inpaint_pipeline": inpaint,
    "instruct_pix2pix": instruct_pix2pix,
    "virtual_inversion": virtual_inversion,
}
