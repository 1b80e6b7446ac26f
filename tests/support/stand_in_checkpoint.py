"""A checkpoint that ComfyUI loads as SDXL and that samples in seconds: drawn weights in the smallest shape it takes.

The UNet has Segmind-Vega's few transformers and one width at every level, the autoencoder is TAESD's. ComfyUI knows the
text encoders in one size only; their layers are zero, so that each passes on what it gets, and take no room on the
disk: the file has holes there.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from tools.parity.drawn_weights import standard_normal, text_seed

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": (1, 1, 1),
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "transformer_depth_middle": 1,
    "context_dim": 2048,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
    "num_heads": -1,
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "use_temporal_attention": False,
    "legacy": False,
}
# Folder of ComfyUI's configuration → prefix of the encoder in an SDXL checkpoint.
ENCODERS = {
    "sd1_clip_config.json": "conditioner.embedders.0.transformer.",
    "clip_config_bigg.json": "conditioner.embedders.1.model.transformer.",
}
# Prime, so that rows differ.
DRAWN = 65537
Weights = Iterator[tuple[str, tuple[int, ...], torch.Tensor | None]]


def write_sdxl(path: Path) -> Path:
    """Write the checkpoint; half precision, 2 GB long, of which the disk keeps some 400 MB."""
    tensors = [*_unet(), *_encoders(), *_autoencoder()]
    header, at = {}, 0
    for name, shape, _ in tensors:
        end = at + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, _, values in tensors:
            if values is not None:
                file.seek(8 + len(text) + header[name]["data_offsets"][0])
                file.write(values.half().numpy().tobytes())
        file.truncate(8 + len(text) + at)
    return path


def _unet() -> Weights:
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    blank = UNetModel(**UNET, dtype=torch.float16, device="meta", operations=comfy.ops.disable_weight_init)
    for name, value in blank.state_dict().items():
        yield _drawn(f"model.diffusion_model.{name}", value.shape)


def _encoders() -> Weights:
    import comfy.ops
    from comfy import sd1_clip
    from comfy.clip_model import CLIPTextModel

    for file, prefix in ENCODERS.items():
        config = json.loads(Path(sd1_clip.__file__).with_name(file).read_text(encoding="utf-8"))
        blank = CLIPTextModel(config, torch.float16, torch.device("meta"), comfy.ops.disable_weight_init)
        for name, value in blank.state_dict().items():
            told = any(part in name for part in ("norm", "embedding", "text_projection"))
            yield _drawn(prefix + name, value.shape) if told else (prefix + name, tuple(value.shape), None)


def _autoencoder() -> Weights:
    from comfy.taesd.taesd import TAESD

    for name, value in TAESD(latent_channels=4).state_dict().items():
        yield _drawn(f"first_stage_model.{name}", value.shape)


def _drawn(name: str, shape: Sequence[int]) -> tuple[str, tuple[int, ...], torch.Tensor]:
    """A tensor that keeps the size of what goes through it: vectors are ones (or 0 for a bias), matrices are drawn.

    A large one has the same numbers again and again: drawing takes time.
    """
    shape = tuple(shape)
    if len(shape) < 2:
        return name, shape, torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    count = math.prod(shape)
    few = torch.from_numpy(standard_normal(text_seed(name), min(count, DRAWN))) * math.prod(shape[1:]) ** -0.5
    return name, shape, few.half().repeat(-(-count // DRAWN))[:count].reshape(shape)


def write_token(path: Path) -> Path:
    """A token file as PartEdit's authors publish them, with drawn rows for SDXL: background and part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(standard_normal(text_seed(path.name), 2, 2048)), path)
    return path
