"""Small CLIPs with drawn weights and CLIP's real vocabulary: as transformers has them, and in ComfyUI's own classes."""

from __future__ import annotations

from typing import Any

import torch

VOCABULARY, START, END = 49408, 49406, 49407


def drawn_clip(
    width: int = 64, vision_width: int = 128, projection: int = 64, act: str = "quick_gelu", seed: int = 0
) -> Any:
    """A ``transformers.CLIPModel`` for pictures of 64 in patches of 16; heads are 64 wide, as in the published ones.

    Every weight is a number that half precision holds, so that it stays the same in whichever type a host keeps it.
    """
    from transformers import CLIPConfig, CLIPModel

    tower = {"num_hidden_layers": 2, "hidden_act": act}
    config = CLIPConfig(
        text_config={
            **tower,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_attention_heads": width // 64,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 77,
            "bos_token_id": START,
            "eos_token_id": END,
            "pad_token_id": END,
        },
        vision_config={
            **tower,
            "hidden_size": vision_width,
            "intermediate_size": 4 * vision_width,
            "num_attention_heads": vision_width // 64,
            "image_size": 64,
            "patch_size": 16,
        },
        projection_dim=projection,
        attn_implementation="eager",
    )
    model = CLIPModel(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name != "logit_scale" and "norm" not in name:
            parameter.copy_((0.1 * torch.randn(parameter.shape, generator=generator)).half().float())
    return model


def reference_score(
    model: Any, image: torch.Tensor, text: str, bias: torch.Tensor | None = None, mean: Any = None, std: Any = None
) -> float:
    """Cosine of a square picture (H, W, 3) of the model's own size and a text, by transformers alone.

    Args:
        bias: (1, 1, tokens, tokens), added to the attention logits of every vision layer.
    """
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean or OPENAI_CLIP_MEAN, std or OPENAI_CLIP_STD))
    pixels = (image.movedim(-1, 0)[None] - mean) / std

    def add_bias(module: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "attention_mask": bias}

    layers = model.vision_model.encoder.layers
    hooks = [layer.self_attn.register_forward_pre_hook(add_bias, with_kwargs=True) for layer in layers]
    try:
        with torch.no_grad():
            seen = model.visual_projection(model.vision_model(pixel_values=pixels)[1])
            said = model.text_projection(model.text_model(**host_tokenizer()([text], return_tensors="pt"))[1])
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cosine_similarity(seen.double(), said.double()).item()


def host_tokenizer() -> Any:
    """CLIP's tokenizer from the files that ComfyUI brings along."""
    from pathlib import Path

    import comfy.sd1_clip
    from transformers import CLIPTokenizer

    folder = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def host_clip_vision(model: Any, **config: Any) -> Any:
    """The vision tower as a CLIP_VISION; ``config`` overwrites entries of its configuration."""
    from comfy.clip_vision import ClipVisionModel

    own = model.config.vision_config
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
    names += ("image_size", "patch_size", "num_channels")
    described = {name: getattr(own, name) for name in names}
    clip_vision = ClipVisionModel(
        {**described, "projection_dim": model.config.projection_dim, "model_type": "clip_vision_model", **config}
    )
    missing, _ = clip_vision.load_sd({k: v for k, v in model.state_dict().items() if k.startswith("vis")})
    assert not [name for name in missing if "position_ids" not in name]
    return clip_vision


def host_clip(model: Any, projected: bool = True, copies: int = 1) -> Any:
    """The text tower as a CLIP with one encoder, like SD2.x's; ``copies`` repeats its pooled output, like SD3's two.

    Args:
        projected: False leaves the projection out, as SD1.x does.
    """
    import comfy.sd
    import comfy.sd1_clip
    from comfy.supported_models_base import ClipTarget

    own = model.config.text_config
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
    names += ("max_position_embeddings", "eos_token_id")
    config = {name: getattr(own, name) for name in names}

    class Encoder(comfy.sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                textmodel_json_config=config,
                return_projected_pooled=projected,
                special_tokens={"start": START, "end": END, "pad": 0},
                model_options={**(model_options or {}), "model_name": "clip_g"},
            )

        def forward(self, tokens: Any) -> Any:
            out, pooled, *rest = super().forward(tokens)
            return (out, torch.cat([pooled] * copies, dim=-1), *rest)

    class Model(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(
                device=device, dtype=dtype, clip_name="g", clip_model=Encoder, model_options=model_options or {}
            )

    class OneTokenizer(comfy.sd1_clip.SDTokenizer):
        def __init__(self, **options: Any) -> None:
            super().__init__(pad_with_end=False, embedding_size=own.hidden_size, embedding_key="clip_g", **options)

    class Tokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(
                embedding_directory=embedding_directory,
                tokenizer_data=tokenizer_data or {},
                clip_name="g",
                tokenizer=OneTokenizer,
            )

    clip = comfy.sd.CLIP(ClipTarget(Tokenizer, Model))
    weights = {k: v for k, v in model.state_dict().items() if k.startswith("text")}
    if not projected:
        del weights["text_projection.weight"]
    missing, unexpected = clip.load_sd(weights)
    assert [k for k in missing if "logit" not in k] == ([] if projected else ["text_projection.weight"])
    assert not [k for k in unexpected if "position_ids" not in k]
    return clip


def to_openclip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of transformers under OpenCLIP's names."""
    renamed = {
        "class_embedding": "class_embedding",
        "patch_embedding.weight": "conv1.weight",
        "pre_layrnorm": "ln_pre",
        "post_layernorm": "ln_post",
        "final_layer_norm": "ln_final",
        "token_embedding.weight": "token_embedding.weight",
        "position_embedding.weight": "positional_embedding",
    }
    inside = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    found = {
        "logit_scale": state["logit_scale"],
        "visual.proj": state["visual_projection.weight"].T.contiguous(),
        "text_projection": state["text_projection.weight"].T.contiguous(),
    }
    for name, tensor in state.items():
        tower, _, rest = name.partition(".")
        if tower not in ("text_model", "vision_model") or "position_ids" in name:
            continue
        start = "visual." if tower == "vision_model" else ""
        rest = rest.removeprefix("embeddings.")
        if rest.startswith("encoder.layers."):
            layer, rest = rest.removeprefix("encoder.layers.").split(".", 1)
            block = f"{start}transformer.resblocks.{layer}."
            if "q_proj" in rest:
                parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
                found[f"{block}attn.in_proj_{rest.rpartition('.')[2]}"] = torch.cat(parts)
            for old, new in inside.items():
                if rest.startswith(old + "."):
                    found[block + rest.replace(old, new)] = tensor
        else:
            for old, new in renamed.items():
                if rest.startswith(old):
                    found[start + rest.replace(old, new)] = tensor
    return found
