"""The layers of a UNet: their names, and where the cross-attention is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class LayerKey(NamedTuple):
    """A transformer block of a UNet; equals the key of ComfyUI's ``patches_replace`` slots."""

    block: str  # "input", "middle" or "output"
    number: int  # index in input_blocks / output_blocks; 0 for the middle
    index: int  # type: ignore[assignment]  # index within the spatial transformer; hides tuple.index, unused here

    def __str__(self) -> str:
        return f"{self.block}.{self.number}.{self.index}"


@dataclass(frozen=True)
class CrossLayer:
    """A cross-attention layer: its key and its level (how many times the latent is halved before it)."""

    key: LayerKey
    level: int


def unet_of(model: Any) -> Any:
    """The UNet inside a ``ModelPatcher``.

    Raises:
        ValueError: the model is not a UNet.
    """
    unet = getattr(model.model, "diffusion_model", None)
    if not (hasattr(unet, "input_blocks") and hasattr(unet, "output_blocks") and hasattr(unet, "middle_block")):
        raise ValueError(
            f"model: {type(model.model).__name__} is not a UNet, and PartEdit needs the cross-attention of one. "
            "Connect an SD1.x, SD2.x or SDXL model (a checkpoint of those families, or Load Demo Model). On other "
            "models, edit a masked region with Latent Blend Sampler, or objects with OIR."
        )
    return unet


def context_width(model: Any) -> int:
    """Width of the text conditioning that a model's cross-attention takes (768, 1024, 2048 …).

    Raises:
        ValueError: see `unet_of`; or a UNet without cross-attention.
    """
    layers = all_cross_layers(model)
    if not layers:
        raise ValueError(
            f"model: {type(model.model).__name__} has no cross-attention layer. Connect an SD1.x, SD2.x or SDXL model."
        )
    return transformer_block(unet_of(model), layers[0].key).attn2.to_k.in_features


# Where a network's configuration says how wide its text conditioning is: UNets, Flux, Lumina and Z-Image, Qwen-Image.
_TEXT_WIDTHS = ("context_dim", "context_in_dim", "cap_feat_dim", "joint_attention_dim")


def declared_text_width(model: Any) -> int | None:
    """Width of the text conditioning according to the model's configuration; None if it does not say.

    Unlike `context_width`, this works with any architecture.
    """
    config = model.model.model_config.unet_config
    embedder = config.get("context_embedder_config") or {}  # SD3
    widths = [*(config.get(name) for name in _TEXT_WIDTHS), embedder.get("params", {}).get("in_features")]
    return next((width for width in widths if isinstance(width, int)), None)


def takes_guidance(model: Any) -> bool:
    """Whether the model takes its guidance scale from the conditioning (Flux dev and others distilled like it)."""
    return bool(model.model.model_config.unet_config.get("guidance_embed", False))


def latent_scale(model: Any) -> int:
    """Image pixels per latent pixel."""
    return int(getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", 8))


def _spatial_transformer(block: Any) -> Any | None:
    return next((m for m in block if hasattr(m, "transformer_blocks")), None)


def _halves(block: Any) -> int:
    names = {type(m).__name__ for m in block}
    return ("Downsample" in names) - ("Upsample" in names)


def cross_layers(unet: Any) -> tuple[CrossLayer, ...]:
    """All cross-attention layers of a UNet in the order in which they run."""
    found: list[CrossLayer] = []
    level = 0

    def add(name: str, number: int, block: Any) -> None:
        transformer = _spatial_transformer(block)
        if transformer is not None:
            for index, inner in enumerate(transformer.transformer_blocks):
                if inner.attn2 is not None:
                    found.append(CrossLayer(LayerKey(name, number, index), level))

    for number, block in enumerate(unet.input_blocks):
        level += _halves(block)
        add("input", number, block)
    if unet.middle_block is not None:
        add("middle", 0, unet.middle_block)
    for number, block in enumerate(unet.output_blocks):
        add("output", number, block)
        level += _halves(block)  # an Upsample ends its block, after the attention
    return tuple(found)


def all_cross_layers(model: Any) -> tuple[CrossLayer, ...]:
    """`cross_layers` of a ``ModelPatcher``'s UNet.

    Raises:
        ValueError: see `unet_of`.
    """
    return cross_layers(unet_of(model))


def transformer_block(unet: Any, key: LayerKey) -> Any:
    """The ``BasicTransformerBlock`` that ``key`` names."""
    blocks = {"input": unet.input_blocks, "middle": [unet.middle_block], "output": unet.output_blocks}[key.block]
    transformer = _spatial_transformer(blocks[key.number])
    assert transformer is not None, f"{key} is no block with attention"
    return transformer.transformer_blocks[key.index]
