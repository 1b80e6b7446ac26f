"""Segment Anything checkpoints: read as plain tensors, built by their shapes.

The ``segment_anything`` package's own builder unpickles a checkpoint, which would run code that hides in it. Here the
architecture follows from the shapes of the weights, and so every registered size (vit_b, vit_l, vit_h) loads alike.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..packages import require

WHERE_TO_GET = (
    "Get one from github.com/facebookresearch/segment-anything, section 'Model Checkpoints': sam_vit_b_01ec64.pth "
    "(375 MB), sam_vit_l_0b3195.pth (1.2 GB), sam_vit_h_4b8939.pth (2.4 GB). Put it into ComfyUI's models/sams folder"
)

# Weights that only other models of the family have.
_RELATIVES = (
    ("mask_decoder.hf_token.", "an HQ-SAM"),
    ("image_encoder.patch_embed.seq.", "a MobileSAM"),
    ("sam_mask_decoder.", "a SAM 2"),
    ("vision_encoder.", "a transformers-format"),
)
# What the shapes of the weights do not tell; the same in all registered sizes.
_MASK_DECODER_HEADS = 8
PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """State dict of a checkpoint, without running anything that the file contains."""
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(str(path), device="cpu")
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Torch's own words are left out: they suggest to load the file with the code in it.
        raise ValueError(
            f"'{path.name}' could not be read as plain weights ({type(error).__name__}): it is incomplete, or holds "
            "more than tensors and could run code. Download it again from where it is published."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(
            f"'{path.name}' holds no state dict of tensors, so it is not a SAM checkpoint. {WHERE_TO_GET}."
        )
    return content


def build_sam(state: dict[str, torch.Tensor], name: str = "checkpoint") -> Any:
    """A ``segment_anything`` model with the architecture that the shapes of ``state`` describe, and its weights."""
    require("segment_anything")
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    for prefix, kind in _RELATIVES:
        if any(key.startswith(prefix) for key in state):
            raise ValueError(
                f"'{name}' is {kind} checkpoint, which this node cannot read; it takes the original Segment Anything. "
                f"{WHERE_TO_GET}."
            )
    encoder, prompt, decoder, transformer = read_architecture(state, name)
    sam = Sam(
        image_encoder=ImageEncoderViT(norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), **encoder),
        prompt_encoder=PromptEncoder(**prompt),
        mask_decoder=MaskDecoder(transformer=TwoWayTransformer(**transformer), **decoder),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )
    _load(sam, state, name)
    return sam.eval().requires_grad_(False)


def _load(sam: Any, state: dict[str, torch.Tensor], name: str) -> None:
    """Weights into the model; a ValueError tells in a line what does not fit."""
    own = sam.state_dict()
    problems = [
        (f"{len(keys)} weights are {what}, the first is {keys[0]}")
        for what, keys in (
            ("missing", sorted(own.keys() - state.keys())),
            ("unknown", sorted(state.keys() - own.keys())),
            ("of another shape", sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)),
        )
        if keys
    ]
    if problems:
        raise ValueError(f"'{name}' does not fit the Segment Anything model: {'; '.join(problems)}. {WHERE_TO_GET}.")
    sam.load_state_dict(state)


def read_architecture(state: dict[str, torch.Tensor], name: str) -> tuple[dict, dict, dict, dict]:
    """Constructor arguments of image encoder, prompt encoder, mask decoder and its transformer, by ``state``'s shapes.

    Raises:
        ValueError: the tensors are not those of a Segment Anything checkpoint.
    """
    try:
        return _architecture(state)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"'{name}' is not a Segment Anything checkpoint (missing {error}). {WHERE_TO_GET}.") from error


def _architecture(state: dict[str, torch.Tensor]) -> tuple[dict, dict, dict, dict]:
    """Constructor arguments of image encoder, prompt encoder, mask decoder and its transformer."""
    width, channels, patch, _ = state["image_encoder.patch_embed.proj.weight"].shape
    grid = state["image_encoder.pos_embed"].shape[1]
    depth = _count(state, "image_encoder.blocks.")
    positions = [state[f"image_encoder.blocks.{index}.attn.rel_pos_h"] for index in range(depth)]
    # A block's relative positions span its window, or the whole grid where it attends globally.
    windows = [(position.shape[0] + 1) // 2 for position in positions]
    local = [window for window in windows if window != grid]
    embedding = state["image_encoder.neck.0.weight"].shape[0]
    encoder = {
        "img_size": grid * patch,
        "patch_size": patch,
        "in_chans": channels,
        "embed_dim": width,
        "depth": depth,
        "num_heads": width // positions[0].shape[1],
        "mlp_ratio": state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
        "out_chans": embedding,
        "use_rel_pos": True,
        "window_size": local[0] if local else 0,
        "global_attn_indexes": tuple(index for index, window in enumerate(windows) if window == grid),
    }
    prompt = {
        "embed_dim": embedding,
        "image_embedding_size": (grid, grid),
        "input_image_size": (grid * patch, grid * patch),
        "mask_in_chans": state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
    }
    decoder = {
        "transformer_dim": embedding,
        "num_multimask_outputs": state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
        "iou_head_depth": _count(state, "mask_decoder.iou_prediction_head.layers."),
        "iou_head_hidden_dim": state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
    }
    transformer = {
        "depth": _count(state, "mask_decoder.transformer.layers."),
        "embedding_dim": embedding,
        "mlp_dim": state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
        "num_heads": _MASK_DECODER_HEADS,
    }
    return encoder, prompt, decoder, transformer


def _count(state: dict[str, torch.Tensor], prefix: str) -> int:
    numbers = {name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)}
    if not numbers:
        raise KeyError(prefix)
    return len(numbers)
