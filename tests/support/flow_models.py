"""Small flow models of the host's own classes with drawn weights: Flux, SD3, Z-Image, Qwen-Image and an SDXL UNet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from .tiny_models import POOLED, WIDTH, drawn, text_conditioning, tiny_sdxl

# The layers that give the velocity, by what their names contain; drawn small, so that fixed points are found quickly.
LAST = ("final_layer.linear", "proj_out.weight")
_HEADS = {"axes_dim": [8, 12, 12], "theta": 10000, "patch_size": 2}


@dataclass(frozen=True)
class Family:
    """A model, its numbers for the tests' own formulas, and its latents' shape.

    Attributes:
        model: a ``ModelPatcher``.
        shift: of the time, in ComfyUI's terms; with ``exponential``, Flux's, whose shift is a logarithm.
        table: how many levels the sampling class lists.
        multiplier: what the network is given as time at sigma 1.
    """

    model: Any
    shift: float
    table: int = 1000
    multiplier: float = 1000.0
    exponential: bool = False
    frame: bool = False

    def latent(self, height: int = 8, width: int = 8, seed: int = 0) -> torch.Tensor:
        """Samples of a LATENT."""
        channels = self.model.model.latent_format.latent_channels
        shape = (1, channels, 1, height, width) if self.frame else (1, channels, height, width)
        return drawn(f"image {seed}", *shape)

    def sigma(self, time: float) -> float:
        """The level of a time between 0 and 1, by the formula in the model's paper."""
        shift = math.exp(self.shift) if self.exponential else self.shift
        return shift * time / (1 + (shift - 1) * time)

    def conditioning(self, text: str) -> list[Any]:
        """CONDITIONING that belongs to a text; its length depends on the text, as with most of these encoders."""
        return text_conditioning(text, length=4 + len(text.split()))

    def velocity(self, text: str):
        """The bare network: (x, sigma) → velocity."""
        model = self.model.model
        (context, options), *_ = self.conditioning(text)
        extra: dict[str, Any] = {}
        kind = type(model).__name__
        if kind in ("Flux", "SD3"):
            extra["y"] = options["pooled_output"]
        if kind == "Flux":
            extra["guidance"] = torch.tensor([3.5])
        if kind == "Lumina2":
            extra["num_tokens"] = context.shape[1]
        if kind == "SDXL":
            size = {"width": 64, "height": 64, "device": "cpu"}
            extra["y"] = model.encode_adm(pooled_output=options["pooled_output"], **size)

        @torch.no_grad()
        def call(x: torch.Tensor, sigma: float) -> torch.Tensor:
            time = torch.full((x.shape[0],), sigma * self.multiplier)
            return model.diffusion_model(x, time, context=context, transformer_options={}, **extra)

        return call


def flux() -> Family:
    """Guidance from the conditioning."""
    import comfy.model_base
    import comfy.supported_models

    config = comfy.supported_models.Flux(
        {
            "image_model": "flux",
            "guidance_embed": True,
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": POOLED,
            "context_in_dim": WIDTH,
            "hidden_size": 64,
            "mlp_ratio": 2.0,
            "num_heads": 2,
            "depth": 1,
            "depth_single_blocks": 1,
            "qkv_bias": True,
            "txt_ids_dims": [],
            "dtype": torch.float32,
            **_HEADS,
        }
    )
    model = comfy.model_base.Flux(config, device=torch.device("cpu"))
    return Family(_patcher(model), 1.15, table=10000, multiplier=1.0, exponential=True)


def sd3() -> Family:
    import comfy.model_base
    import comfy.supported_models

    config = comfy.supported_models.SD3(
        {
            "in_channels": 16,
            "input_size": None,
            "patch_size": 2,
            "depth": 1,
            "num_blocks": 2,
            "adm_in_channels": POOLED,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": WIDTH, "out_features": 64},
            },
            "pos_embed_scaling_factor": None,
            "pos_embed_max_size": 12,
            "num_patches": 144,
            "qk_norm": "rms",
            "dtype": torch.float32,
        }
    )
    return Family(_patcher(comfy.model_base.SD3(config, device=torch.device("cpu"))), 3.0)


def z_image() -> Family:
    """A Lumina 2 network with Z-Image's modulation and padding."""
    import comfy.model_base
    import comfy.supported_models

    config = comfy.supported_models.ZImage(
        {
            "image_model": "lumina2",
            "in_channels": 16,
            "dim": 256,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "n_heads": 8,
            "n_kv_heads": 8,
            "multiple_of": 16,
            "ffn_dim_multiplier": 1.0,
            "qk_norm": True,
            "cap_feat_dim": WIDTH,
            "axes_dims": [8, 12, 12],
            "axes_lens": [64, 64, 64],
            "rope_theta": 256.0,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 8,
            "dtype": torch.float32,
        }
    )
    return Family(_patcher(comfy.model_base.Lumina2(config, device=torch.device("cpu"))), 3.0, multiplier=1.0)


def qwen_image() -> Family:
    """Latents with a time axis."""
    import comfy.model_base
    import comfy.supported_models

    config = comfy.supported_models.QwenImage(
        {
            "image_model": "qwen_image",
            "in_channels": 64,
            "out_channels": 16,
            "num_layers": 1,
            "attention_head_dim": 32,
            "num_attention_heads": 2,
            "joint_attention_dim": WIDTH,
            "axes_dims_rope": (8, 12, 12),
            "dtype": torch.float32,
        }
    )
    model = comfy.model_base.QwenImage(config, device=torch.device("cpu"))
    return Family(_patcher(model), 1.15, table=10000, multiplier=1.0, exponential=True, frame=True)


def sdxl_flow() -> Family:
    """An SDXL UNet as a flow model, by the host's own node."""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    return Family(ModelSamplingSD3().patch(tiny_sdxl(), 2.0)[0], 2.0)


FAMILIES = {"flux": flux, "sd3": sd3, "z_image": z_image, "qwen_image": qwen_image, "sdxl_flow": sdxl_flow}


def _patcher(model: Any) -> Any:
    import comfy.model_patcher

    weights = {}
    for name, old in model.diffusion_model.state_dict().items():
        values = drawn(name, *old.shape)
        if name.endswith("bias"):
            weights[name] = 0.05 * values
        elif old.ndim == 1:  # norms
            weights[name] = 1.0 + 0.1 * values
        else:
            fan_in = math.prod(old.shape[1:])
            weights[name] = values * fan_in**-0.5 * (0.2 if any(part in name for part in LAST) else 1.0)
    model.diffusion_model.load_state_dict(weights)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
