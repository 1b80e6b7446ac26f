"""OIR against golden cases: the product's own inversion, candidates and reassembly on an SD1-shaped ComfyUI model.

The case format is described in the golden data's README. ``tools.parity.compare`` finds the
cases and prints the results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..bootstrap import load_pack
from .drawn_weights import standard_normal, text_seed, unet_state_dict

TOLERANCE = 1e-4

# The golden README's SD1-shaped network in ComfyUI's terms; levels run from the finest to the coarsest.
UNET_CONFIG: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [2, 2],
    "channel_mult": (1, 2),
    "transformer_depth": [1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "num_classes": None,
    "use_checkpoint": False,
    "legacy": False,
    "use_temporal_attention": False,
    "dtype": torch.float32,
}


def sd1_shaped_model(seed: int, v_prediction: bool = False) -> Any:
    """A ``ModelPatcher`` around ComfyUI's own SD1.x classes with the golden weights of ``seed``, on the CPU."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    class Shape(comfy.supported_models.SD15):
        unet_extra_config = {"num_heads": 2, "num_head_channels": -1}

    config = Shape(UNET_CONFIG)
    kind = comfy.model_base.ModelType.V_PREDICTION if v_prediction else comfy.model_base.ModelType.EPS
    model = comfy.model_base.BaseModel(config, model_type=kind, device=torch.device("cpu"))
    model.diffusion_model.load_state_dict(unet_state_dict(config.unet_config, seed))
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def prompt_conditioning(prompt: str) -> list[Any]:
    """The golden text embedding of a prompt as ComfyUI CONDITIONING."""
    return [[torch.from_numpy(standard_normal(text_seed(prompt), 1, 77, 768)), {}]]


def box_mask(box: list[int], height: int, width: int) -> torch.Tensor:
    """(height, width) mask that is 1 inside a box of pixels x0, y0, x1, y1."""
    mask = torch.zeros(height, width)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = 1.0
    return mask


def relative_error(result: torch.Tensor, golden: torch.Tensor) -> float:
    """L2 norm of the difference over that of the golden tensor."""
    return float((result.float() - golden.float()).norm() / golden.float().norm())


def compute_case(settings: dict[str, Any], z0: torch.Tensor, batch_size: int = 4) -> dict[str, torch.Tensor]:
    """Run a case with the pack's own code; keys and shapes as in the golden file.

    Args:
        settings: the case's JSON.
        z0: (1, 4, h, w), the image's latent in model space.
        batch_size: rows a UNet call for the candidates.
    """
    load_pack()
    from partedit_oir.core.inversion.invert import invert
    from partedit_oir.core.inversion.scaling import image_scale
    from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas
    from partedit_oir.core.latents import process_latent_in, process_latent_out
    from partedit_oir.core.oir.making import make_candidates
    from partedit_oir.core.oir.reassembly import ReassemblySettings, reassemble
    from partedit_oir.core.oir.types import Pair, StepSearch

    model = sd1_shaped_model(settings["seed"])
    steps, cfg = settings["inversion_steps"], settings["cfg"]
    sigmas = spaced_sigmas(model_sampling_of(model), steps, "leading")
    source = settings["source_prompt"]
    trajectory = invert(
        model,
        process_latent_out(model, z0),
        prompt_conditioning(source),
        sigmas=sigmas,
        method="ddim_next_timestep",
        source_prompt=source,
    )
    scales = torch.tensor([image_scale(float(sigma)) for sigma in sigmas]).view(-1, 1, 1, 1)
    results = {"inversion": (trajectory.latents[:, 0] / scales).flip(0)}

    height, width = z0.shape[-2] * 8, z0.shape[-1] * 8
    pairs = [
        Pair(
            source_prompt=source,
            source_phrase="",
            target_phrase=phrase,
            guided_prompt=prompt,
            mask=box_mask(box, height, width),
            conditioning=prompt_conditioning(prompt),
        )
        for phrase, prompt, box in zip(settings["phrases"], settings["guided_prompts"], settings["boxes"], strict=True)
    ]
    for k, pair in enumerate(pairs):
        made, _, _ = make_candidates(
            model, trajectory, pair, range(1, steps + 1), cfg=cfg, batch_size=batch_size, published_first=True
        )
        results[f"candidates_{k}"] = torch.cat([process_latent_in(model, made[n]) for n in range(1, steps + 1)])

    search = StepSearch.fixed(pairs, settings["steps"], steps=steps, cfg=cfg)
    final = reassemble(
        model,
        trajectory,
        search,
        prompt_conditioning(settings["target_prompt"]),
        ReassemblySettings(
            cfg=cfg, reassembly=float(settings["reassembly"]), reinversion=float(settings["reinversion"])
        ),
    )
    results["final"] = process_latent_in(model, final.latent)
    return results


def run_case(path_json: Path) -> dict[str, Any]:
    """Relative errors of one case: ``{"case", "inversion", "candidates", "final", "ok"}``; the worst of each kind."""
    from safetensors.torch import load_file

    settings = json.loads(path_json.read_text(encoding="utf-8"))
    golden = load_file(path_json.with_suffix(".safetensors"))
    z0 = golden.get("z0")
    if z0 is None:
        z0 = torch.from_numpy(0.8 * standard_normal(settings["seed"] + 5, 1, 4, 16, 16))
    results = compute_case(settings, z0)

    def worst(prefix: str) -> float:
        errors = [
            relative_error(step, golden[name][i])
            for name, value in results.items()
            if name.startswith(prefix) and name in golden
            for i, step in enumerate(value)
        ]
        if not errors:
            raise ValueError(f"{path_json.with_suffix('.safetensors')}: no tensor {prefix!r} to compare with.")
        return max(errors)

    errors = {kind: worst(kind) for kind in ("inversion", "candidates", "final")}
    return {"case": path_json.stem, **errors, "ok": all(error <= TOLERANCE for error in errors.values())}
