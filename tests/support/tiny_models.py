"""Small SDXL-, SD1- and SD2-shaped models with drawn weights, and a stand-in for text encoders, for tests."""

from __future__ import annotations

from typing import Any

import torch

from tools.parity.drawn_weights import text_seed, unet_state_dict

WIDTH = 64
POOLED = 64
_COMMON: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "use_spatial_transformer": True,
    "use_checkpoint": False,
    "legacy": False,
    "use_temporal_attention": False,
    "dtype": torch.float32,
}


def tiny_sdxl(seed: int = 1, v_prediction: bool = False) -> Any:
    """Three levels, transformers on the two lower ones, 17 cross-attention layers, text 64 wide."""
    import comfy.model_base
    import comfy.supported_models

    class Shape(comfy.supported_models.SDXL):
        unet_extra_config = {"num_heads": -1, "num_head_channels": 32}

    config = Shape(
        {
            **_COMMON,
            "num_res_blocks": [2, 2, 2],
            "channel_mult": (1, 2, 2),
            "transformer_depth": [0, 0, 1, 1, 2, 2],
            "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
            "transformer_depth_middle": 2,
            "context_dim": WIDTH,
            "use_linear_in_transformer": True,
            "adm_in_channels": POOLED + 6 * 256,
            "num_classes": "sequential",
        }
    )
    kind = comfy.model_base.ModelType.V_PREDICTION if v_prediction else comfy.model_base.ModelType.EPS
    return _patcher(comfy.model_base.SDXL(config, model_type=kind, device=torch.device("cpu")), config, seed)


def tiny_sd(family: str = "sd1", seed: int = 1) -> Any:
    """SD1.x- or SD2.x-shaped: no pooled embedding; text 768 or 1024 wide."""
    import comfy.model_base
    import comfy.supported_models

    second = family == "sd2"
    base = comfy.supported_models.SD20 if second else comfy.supported_models.SD15

    class Shape(base):  # type: ignore[misc, valid-type]
        unet_extra_config = (
            {"num_heads": -1, "num_head_channels": 32}
            if second
            else {
                "num_heads": 2,
                "num_head_channels": -1,
            }
        )

    config = Shape(
        {
            **_COMMON,
            "num_res_blocks": [1, 1],
            "channel_mult": (1, 2),
            "transformer_depth": [1, 1],
            "transformer_depth_output": [1, 1, 1, 1],
            "transformer_depth_middle": 1,
            "context_dim": 1024 if second else 768,
            "use_linear_in_transformer": second,
            "adm_in_channels": None,
            "num_classes": None,
        }
    )
    kind = comfy.model_base.ModelType.V_PREDICTION if second else comfy.model_base.ModelType.EPS
    return _patcher(comfy.model_base.BaseModel(config, model_type=kind, device=torch.device("cpu")), config, seed)


def _patcher(model: Any, config: Any, seed: int) -> Any:
    import comfy.model_patcher

    model.diffusion_model.load_state_dict(unet_state_dict(config.unet_config, seed))
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def drawn(name: str, *shape: int) -> torch.Tensor:
    """Standard normal values that belong to a name."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(text_seed(name) % 2**62))


def text_conditioning(text: str, width: int = WIDTH, length: int = 77, pooled: int = POOLED) -> list[Any]:
    """CONDITIONING with values that belong to the text."""
    options = {"pooled_output": drawn(text + " pooled", 1, pooled)} if pooled else {}
    return [[drawn(text, 1, length, width), options]]


class WordClip:
    """A CLIP object with CLIP's own tokenizer; each token id has an embedding drawn from it."""

    def __init__(self, width: int = WIDTH, pooled: int = POOLED) -> None:
        from comfy.sd1_clip import SD1Tokenizer

        self.tokenizer = SD1Tokenizer()
        self.width, self.pooled = width, pooled

    def tokenize(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> dict[str, list]:
        return self.tokenizer.tokenize_with_weights(text, return_word_ids, **kwargs)

    def encode_from_tokens_scheduled(self, tokens: dict[str, list]) -> list[Any]:
        items = [item for section in next(iter(tokens.values())) for item in section]
        text = torch.stack([drawn(str(token), self.width) * weight for token, weight, *_ in items])[None]
        options = {"pooled_output": text[:, :, : self.pooled].mean(dim=1)} if self.pooled else {}
        return [[text, options]]
