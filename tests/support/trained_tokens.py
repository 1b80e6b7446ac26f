"""A small model, a VAE and pictures with bright squares: what a token learns from in seconds, without a checkpoint."""

from __future__ import annotations

import torch

from tools.bootstrap import load_pack
from tools.parity.drawn_weights import standard_normal

load_pack()
import comfy.model_base
import comfy.model_patcher
import comfy.supported_models

WIDTH = 48


class PixelVAE:
    """Eight-fold averaged pixels as latents: enough for a token to find a bright square."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.avg_pool2d(images.movedim(-1, 1), 8)
        return torch.cat([small, small[:, :1]], dim=1) * 6 - 1


def small_model(width: int = WIDTH, seed: int = 0, scale: float = 1.0) -> comfy.model_patcher.ModelPatcher:
    """An SD1-shaped model: two levels, transformers on both, ``width`` wide contexts."""
    config = comfy.supported_models.SD15(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 32,
            "num_res_blocks": [1, 1],
            "channel_mult": (1, 2),
            "transformer_depth": [1, 1],
            "transformer_depth_output": [1, 1, 1, 1],
            "transformer_depth_middle": 1,
            "context_dim": width,
            "use_linear_in_transformer": False,
            "use_spatial_transformer": True,
            "legacy": False,
            "use_temporal_attention": False,
            "adm_in_channels": None,
            "num_classes": None,
        }
    )
    config.unet_extra_config = {"num_heads": 2, "num_head_channels": -1}
    config.unet_config.update(config.unet_extra_config)
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.diffusion_model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            else:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan_in**-0.5)
                if "attn2.to_k" in name:
                    parameter.mul_(scale)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def conditioning(width: int = WIDTH):
    return [[torch.from_numpy(standard_normal(3, 1, 77, width)), {}]]


def squares(count: int, parts: int = 1, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents with bright squares, each part in a channel of its own, and the squares' masks."""
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn((count, 4, size, size), generator=generator) * 0.3
    masks = torch.zeros(count, parts, size * 8, size * 8)
    for picture in range(count):
        for part in range(parts):
            left = 8 * part + int(torch.randint(0, 2, (1,), generator=generator))
            top = int(torch.randint(0, size - 6, (1,), generator=generator))
            latents[picture, part, top : top + 6, left : left + 6] += 4
            latents[picture, part + 2, top : top + 6, left : left + 6] -= 4
            masks[picture, part, 8 * top : 8 * top + 48, 8 * left : 8 * left + 48] = 1
    return latents, masks
