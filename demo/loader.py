"""Load the demo checkpoint through ComfyUI's own model classes, so every core node and sampler works on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .autoencoder import adapt
from .config import UNET, UNET_EXTRA, VAE
from .text import encoder_class, tokenizer_class

WEIGHTS = Path(__file__).parent / "weights"
IMAGE_MODEL, VAE_FILE, SCORER_FILE = "image_model.safetensors", "vae.safetensors", "clip_scorer.safetensors"


def _read(name: str) -> dict[str, torch.Tensor]:
    import comfy.utils

    path = WEIGHTS / name
    if not path.is_file():
        raise FileNotFoundError(
            f"The demo checkpoint's file {name} is missing from {WEIGHTS}. It is part of the pack: reinstall the pack "
            "(ComfyUI-Manager or git clone), or run 'git checkout -- demo/weights' there."
        )
    return comfy.utils.load_torch_file(str(path), safe_load=True)


def _part(sd: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k[len(prefix) :]: v for k, v in sd.items() if k.startswith(prefix)}


def load_image_model(sd: dict[str, torch.Tensor], disable_dynamic: bool = False) -> Any:
    """The UNet as ``comfy.model_base.SDXL`` in a ModelPatcher.

    Args:
        sd: keys ``unet.…``.
        disable_dynamic: without ComfyUI's dynamic VRAM, which some nodes cannot work with.
    """
    import comfy.model_management as mm
    import comfy.model_patcher
    import comfy.supported_models

    class DemoSDXL(comfy.supported_models.SDXL):
        unet_extra_config = UNET_EXTRA

    weights = _part(sd, "unet.")
    config = DemoSDXL({**UNET})
    device, offload = mm.get_torch_device(), mm.unet_offload_device()
    parameters = sum(w.numel() for w in weights.values())
    dtype = mm.unet_dtype(model_params=parameters, supported_dtypes=list(config.supported_inference_dtypes))
    config.set_inference_dtype(dtype, mm.unet_manual_cast(dtype, device, config.supported_inference_dtypes))
    model = config.get_model(weights, "")
    # newer ComfyUI versions choose the patcher class by platform
    plain = comfy.model_patcher.ModelPatcher
    patcher_class = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    patcher = patcher_class(model, load_device=device, offload_device=offload)
    if not mm.is_device_cpu(offload):
        model.to(offload)
    assign = {"assign": True} if getattr(patcher, "is_dynamic", bool)() else {}
    model.load_model_weights(weights, "", **assign)
    patcher.cached_patcher_init = (_image_patcher, ())
    return patcher


def load_text_encoders(
    sd: dict[str, torch.Tensor], embedding_directory: Any = None, disable_dynamic: bool = False
) -> Any:
    """Both text encoders as ``comfy.sd.CLIP``.

    Args:
        sd: keys ``clip_l.…`` and ``clip_g.…``.
        disable_dynamic: see `load_image_model`.
    """
    import comfy.sd
    from comfy.supported_models_base import ClipTarget

    weights = {k: v for k, v in sd.items() if k.startswith(("clip_l.", "clip_g."))}
    parameters = sum(w.numel() for w in weights.values())
    target = ClipTarget(tokenizer_class(), encoder_class())
    static = {"disable_dynamic": True} if disable_dynamic else {}  # older versions of ComfyUI know neither
    clip = comfy.sd.CLIP(target, embedding_directory=embedding_directory, parameters=parameters, **static)
    missing, unexpected = clip.load_sd(weights)
    missing = [k for k in missing if "clip_l.text_projection" not in k and "logit_scale" not in k]
    if missing or unexpected:
        raise RuntimeError(
            f"The demo checkpoint's text encoders do not fit: missing {missing}, unexpected {unexpected}"
        )
    clip.patcher.cached_patcher_init = (_clip_patcher, (embedding_directory,))
    return clip


# With dynamic VRAM, ComfyUI's TorchCompileModel, LoRA hooks and work on several GPUs load a model anew, by what its
# loader has put into ``cached_patcher_init``; without it they fail.


def _image_patcher(disable_dynamic: bool = False) -> Any:
    return load_image_model(_read(IMAGE_MODEL), disable_dynamic)


def _clip_patcher(embedding_directory: Any = None, disable_dynamic: bool = False) -> Any:
    return load_text_encoders(_read(IMAGE_MODEL), embedding_directory, disable_dynamic).patcher


def _vae_patcher(disable_dynamic: bool = False) -> Any:
    return load_vae(_read(VAE_FILE)).patcher


def load_vae(sd: dict[str, torch.Tensor]) -> Any:
    """The autoencoder as ``comfy.sd.VAE``; see :mod:`.autoencoder`."""
    import comfy.sd

    vae = comfy.sd.VAE(sd=sd, config={"params": VAE})
    adapt(vae.first_stage_model)
    vae.patcher.cached_patcher_init = (_vae_patcher, ())
    return vae


def load_demo_model(embedding_directory: Any = None) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the demo checkpoint.

    Raises:
        FileNotFoundError: the weights are not in ``demo/weights``.
    """
    sd = _read(IMAGE_MODEL)
    return load_image_model(sd), load_text_encoders(sd, embedding_directory), load_vae(_read(VAE_FILE))


def load_demo_scorer() -> Any:
    """The demo's CLIP_SCORER: a small CLIP that knows the words of the demo model.

    Raises:
        FileNotFoundError: its weights are not in ``demo/weights``.
    """
    from ..core.vision.clip_scorer import ClipScorer
    from .scorer import MEAN, STD, build_clip, build_tokenizer

    model = build_clip()
    weights = {k: v.float() for k, v in _read(SCORER_FILE).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [k for k in missing if not k.endswith("position_ids")]
    if missing or unexpected:
        raise RuntimeError(f"The demo's CLIP scorer does not fit: missing {missing}, unexpected {unexpected}")
    return ClipScorer.from_parts(model, build_tokenizer(), image_mean=MEAN, image_std=STD, name="demo CLIP")
