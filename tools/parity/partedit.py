"""PartEdit against golden cases: the product's alignment, guider and sampler on an SDXL-shaped ComfyUI model.

The case format is described in the golden data's README. ``tools.parity.compare`` finds the
cases and prints the results.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..bootstrap import load_pack
from .drawn_weights import unet_state_dict
from .settings import PADDINGS, THRESHOLDS, checked

TOLERANCE = 1e-4
MASK_TOLERANCE = 1e-2

# The golden README's SDXL-shaped network in ComfyUI's terms.
UNET_CONFIG: dict[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2, 2],
    "channel_mult": (1, 2, 2), "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10, "context_dim": 2048,
    "use_spatial_transformer": True, "use_linear_in_transformer": True, "adm_in_channels": 2816,
    "num_classes": "sequential", "use_checkpoint": False, "legacy": False, "use_temporal_attention": False,
    "dtype": torch.float32,
}  # fmt: skip


def sdxl_shaped_model(seed: int, **changes: Any) -> Any:
    """A ``ModelPatcher`` around ComfyUI's own SDXL classes with the golden weights of ``seed``, on the CPU.

    ``changes`` override entries of ``UNET_CONFIG``, for smaller or deeper networks.
    """
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    class Shape(comfy.supported_models.SDXL):
        unet_extra_config = {"num_heads": -1, "num_head_channels": 32}

    config = Shape({**UNET_CONFIG, **changes})
    model = comfy.model_base.SDXL(config, device=torch.device("cpu"))
    model.diffusion_model.load_state_dict(unet_state_dict(config.unet_config, seed))
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def draw_inputs(seed: int, parts: int) -> dict[str, torch.Tensor]:
    """The inputs of a case, drawn again as the README says."""
    import numpy as np

    rng = np.random.Generator(np.random.PCG64(seed + 77))

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))

    text, negative, pooled, negative_pooled = draw(3, 77, 2048), draw(1, 77, 2048), draw(3, 1280), draw(1, 1280)
    return {
        "source_cond": text[0], "edit_cond": text[1], "negative": negative[0],
        "source_pooled": pooled[0], "edit_pooled": pooled[1], "negative_pooled": negative_pooled[0],
        "token": draw(2 * parts, 2048), "noise": draw(1, 4, 32, 32),
    }  # fmt: skip


def schedule(settings: dict[str, Any], sampling: Any, recorded: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sigmas of a case: those it recorded, else leading spacing with offset 1; DDIM ends at ᾱ₀, Euler at 0."""
    table, steps = sampling.sigmas, settings["steps"]
    timesteps = recorded.get("timesteps", (torch.arange(steps) * (len(table) // steps)).flip(0) + 1)
    sigmas = torch.cat([table[timesteps.long()], table[:1]])
    if settings["scheduler"] == "euler":
        sigmas = recorded.get("sigmas", torch.cat([sigmas[:-1], torch.zeros(1)]))
    if len(sigmas) != steps + 1:
        raise ValueError(f"steps: is {steps}, but the recorded schedule has {len(sigmas) - 1}.")
    return sigmas.float()


def _alignment(settings: dict[str, Any]) -> Any:
    """Prompt-to-prompt of a case, through the product's tokenisation and alignment; None without ``p2p``."""
    from comfy.sd1_clip import SD1Tokenizer

    from partedit_oir.core.partedit.alignment import FollowSettings, align
    from partedit_oir.core.partedit.words import tokenize_prompt

    p2p = settings["p2p"]
    if p2p is None:
        return None
    tokenizer = SD1Tokenizer()

    def tokenize(text: str) -> list:
        return next(iter(tokenizer.tokenize_with_weights(text, True).values()))

    source, edit = (tokenize_prompt(tokenize, settings[name]) for name in ("source_prompt", "edit_prompt"))
    cross = p2p["n_cross_replace"]
    words = dict(cross) if isinstance(cross, dict) else {"default_": cross}
    default = words.pop("default_", 1.0)
    # The published code loses the fraction of a phrase, and of a word that the prompt does not hold.
    known = {word.text for word in edit.words}
    words = {word: value for word, value in words.items() if word in known}
    weights = dict(zip(p2p["equalizer_words"], p2p["equalizer_strengths"]))
    reweights = p2p["edit_type"] == "reweight"
    mode = "auto" if reweights else p2p["edit_type"]
    found = align(source, edit, FollowSettings(mode, default, None, p2p["n_self_replace"], words, weights))
    if found is None or not reweights:
        return found
    # Re-weighting takes the source's map as it is, position by position (Hertz et al. 2022, Sec. 3).
    return replace(found, mapper=torch.eye(source.length), keep=torch.zeros(edit.length))


def compute_case(settings: dict[str, Any], inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run a case through the product's guider.

    Args:
        settings: of the case's JSON file, see `parity_settings.checked`.
        inputs: the tensors of `draw_inputs`, and the recorded schedule if there is one.

    Returns:
        ``source_latents`` and ``edit_latents`` (steps, 4, 32, 32), ``masks_64`` and ``masks_16``.
    """
    load_pack()
    import comfy.samplers

    from partedit_oir.core.partedit.guider import BlendGuider
    from partedit_oir.core.partedit.masks import resize
    from partedit_oir.core.partedit.prompt import Edit, EditPrompt, PartPrompt
    from partedit_oir.core.partedit.settings import BlendInputs, BlendSettings
    from partedit_oir.core.partedit.tokens import PartToken

    settings = checked(settings)
    model = sdxl_shaped_model(settings["seed"])
    steps, parts = settings["steps"], settings["parts"]

    def conditioning(name: str, pooled: str) -> list:
        return [[inputs[name][None], {"pooled_output": inputs[pooled][None]}]]

    edit = PartPrompt(settings["edit_prompt"], conditioning("edit_cond", "edit_pooled"), _alignment(settings))
    prompt = EditPrompt(settings["source_prompt"], conditioning("source_cond", "source_pooled"), (Edit((edit,)),))
    token = PartToken(
        inputs["token"], tuple(range(1, 2 * parts, 2)), tuple(f"part {n + 1}" for n in range(parts)), "sdxl"
    )
    blend = BlendSettings(
        # The product reads 1 and less as a share of the steps.
        edit_steps=settings["edit_steps"] / steps if settings["edit_steps"] <= 1 else settings["edit_steps"],
        threshold=THRESHOLDS[settings["threshold"]],
        omega=settings["omega"],
        timing="published",
        padding=PADDINGS[settings["padding"]],
        map_size="published",
    )
    guider = BlendGuider(model, BlendInputs(prompt, token, settings=blend), include_source=True)
    guider.set_negative(conditioning("negative", "negative_pooled"))
    guider.set_cfg(settings["cfg"])

    sigmas = schedule(settings, model.get_model_object("model_sampling"), inputs)
    # ComfyUI scales by sqrt(σ² + 1) only at its largest σ; the published samplers do so at the first σ of any schedule.
    noise = inputs["noise"] * math.sqrt(float(sigmas[0]) ** 2 + 1) / float(sigmas[0])
    noise = noise.to(torch.float32)
    before: list[torch.Tensor] = []
    out = guider.sample(
        noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas,
        callback=lambda step, x0, x, total: before.append(x.clone()), disable_pbar=True, seed=settings["seed"],
    )  # fmt: skip
    # The callback sees the latents before each step, so those after it are the next step's.
    latents = torch.stack([*before[1:], model.model.process_latent_in(out)])
    if settings["scheduler"] == "ddim":
        latents = latents / (sigmas[1:].reshape(-1, 1, 1, 1, 1) ** 2 + 1).sqrt()
    recorded = guider.last_masks
    assert recorded is not None
    each = [recorded.edit_masks(step) for step in range(steps)]
    masks = torch.stack([one[0] for one in each if one is not None])
    return {
        "source_latents": latents[:, 0], "edit_latents": latents[:, 1],
        "masks_64": resize(masks, (64, 64))[:, 0], "masks_16": resize(masks, (16, 16))[:, 0],
    }  # fmt: skip


def worst_error(result: torch.Tensor, golden: torch.Tensor) -> float:
    """Largest relative L2 error over the steps."""
    if result.shape != golden.shape:
        raise ValueError(f"recorded tensors have the shape {tuple(golden.shape)}, the result {tuple(result.shape)}.")
    difference = (result.float() - golden.float()).flatten(1).norm(dim=1)
    return float((difference / golden.float().flatten(1).norm(dim=1).clamp(min=1e-12)).max())


def run_case(path_json: Path) -> dict[str, Any]:
    """Errors of one case.

    Returns:
        ``case``, ``masks``, ``source``, ``edit`` (worst relative L2 error over the steps), ``ok``.
    """
    from safetensors.torch import load_file

    settings = checked(json.loads(path_json.read_text(encoding="utf-8")))
    golden = load_file(str(path_json.with_suffix(".safetensors")))
    compared = {
        "masks": [name for name in ("masks_64", "masks_16") if name in golden],
        "source": ["source_latents"],
        "edit": ["edit_latents"],
    }
    missing = [name for name in ("source_latents", "edit_latents") if name not in golden]
    if missing or not compared["masks"]:
        raise ValueError(f"nothing to compare with: {', '.join(missing or ['masks_64 or masks_16'])} is not recorded.")
    result = compute_case(settings, {**draw_inputs(settings["seed"], settings["parts"]), **golden})
    errors = {kind: max(worst_error(result[n], golden[n]) for n in names) for kind, names in compared.items()}
    passed = errors["source"] <= TOLERANCE and errors["edit"] <= TOLERANCE and errors["masks"] <= MASK_TOLERANCE
    return {"case": path_json.stem, **errors, "ok": passed}
