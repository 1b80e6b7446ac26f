"""HQ-SAM (Ke et al., "Segment Anything in High Quality", 2023) with transformers' classes.

HQ-SAM is Segment Anything with a decoder that adds a finer mask to each of its own. Its files hold more than the
``segment_anything`` package knows; transformers (4.52 and later) has the architecture. The authors' checkpoints are
read by giving their tensors transformers' names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from .pretrained import brief, load_pretrained, read_config
from .sam import Predict, SamModel
from .sam_weights import PIXEL_MEAN, PIXEL_STD, build_sam, read_architecture, read_tensors
from .sam_weights import WHERE_TO_GET as SAM_SOURCE

MODEL_TYPE = "sam_hq"
WHERE_TO_GET = (
    "Get one from huggingface.co, for example 'syscv-community/sam-hq-vit-base': config.json and model.safetensors; or "
    "a file of github.com/SysCV/sam-hq: sam_hq_vit_b.pth, sam_hq_vit_l.pth or sam_hq_vit_h.pth"
)
TOO_OLD = (
    "HQ-SAM needs transformers 4.52 or later, but this is {version}. Update 'transformers' in ComfyUI's Python, "
    "or use a plain SAM checkpoint such as sam_vit_b_01ec64.pth."
)

# The authors' names → transformers', applied in this order to the beginning of what the line before has left.
_NAMES = (
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_encoder.layers.\1.layer_norm\2."),
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.", "vision_encoder."),
    (r"^prompt_encoder\.pe_layer\.\w+$", "shared_image_embedding.positional_embedding"),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^mask_decoder\.transformer\.norm_final_attn\.", "mask_decoder.transformer.layer_norm_final_attn."),
    (r"^(mask_decoder\.transformer\.layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"^mask_decoder\.hf_token\.", "mask_decoder.hq_token."),
    (r"^mask_decoder\.hf_mlp\.", "mask_decoder.hq_mask_mlp."),
    (r"^mask_decoder\.compress_vit_feat\.0\.", "mask_decoder.compress_vit_conv1."),
    (r"^mask_decoder\.compress_vit_feat\.1\.", "mask_decoder.compress_vit_norm."),
    (r"^mask_decoder\.compress_vit_feat\.3\.", "mask_decoder.compress_vit_conv2."),
    (r"^mask_decoder\.embedding_encoder\.0\.", "mask_decoder.encoder_conv1."),
    (r"^mask_decoder\.embedding_encoder\.1\.", "mask_decoder.encoder_norm."),
    (r"^mask_decoder\.embedding_encoder\.3\.", "mask_decoder.encoder_conv2."),
    (r"^mask_decoder\.embedding_maskfeature\.0\.", "mask_decoder.mask_conv1."),
    (r"^mask_decoder\.embedding_maskfeature\.1\.", "mask_decoder.mask_norm."),
    (r"^mask_decoder\.embedding_maskfeature\.3\.", "mask_decoder.mask_conv2."),
)
_PERCEPTRONS = re.compile(
    r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head|hq_mask_mlp)\.)layers\.(\d+)\."
)


@dataclass(frozen=True)
class SamHqModel(SamModel):
    """A `SamModel` whose ``model`` is a ``transformers.SamHQModel``."""

    @classmethod
    def from_folder(cls, path: str | Path, *, manage: Callable[[Any], Callable[[], None]] | None = None) -> SamHqModel:
        """Load HQ-SAM from a local folder in the transformers format.

        Raises:
            FileNotFoundError: the folder or a file of it is missing; the message says where it is published.
            ValueError: another kind of model, damaged files, or a transformers without HQ-SAM.
        """
        folder = Path(path)
        read_config(folder, (MODEL_TYPE,), WHERE_TO_GET)
        model = _mended(load_pretrained(_model_class(), folder, WHERE_TO_GET, whole=True))
        return cls(model, folder.name, None if manage is None else manage(model))

    def _see(self, image: torch.Tensor) -> Predict:
        from segment_anything.utils.transforms import ResizeLongestSide

        side = int(self.model.config.vision_config.image_size)
        height, width = image.shape[:2]
        transform = ResizeLongestSide(side)
        pixels = (image[..., :3].detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        resized = torch.from_numpy(transform.apply_image(pixels.numpy())).movedim(-1, 0)[None].float()
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
        inside = resized.shape[-2:]
        padded = F.pad((resized - mean) / std, (0, side - inside[1], 0, side - inside[0]))
        weight = next(self.model.parameters())
        features, early = self.model.get_image_embeddings(padded.to(weight.device, weight.dtype))

        def predict(
            boxes: torch.Tensor | None, points: torch.Tensor | None, labels: torch.Tensor | None, several: bool
        ) -> tuple[torch.Tensor, torch.Tensor]:
            prompts: dict[str, torch.Tensor] = {}
            if boxes is not None:
                prompts["input_boxes"] = transform.apply_boxes_torch(boxes.float(), (height, width))[None]
            if points is not None and labels is not None:
                prompts["input_points"] = transform.apply_coords_torch(points.float(), (height, width))[None]
                prompts["input_labels"] = labels.int()[None]
            output = self.model(
                image_embeddings=features,
                intermediate_embeddings=early,
                multimask_output=several,
                **{name: value.to(weight.device) for name, value in prompts.items()},
            )
            logits = F.interpolate(output.pred_masks[0].float(), (side, side), mode="bilinear")
            logits = F.interpolate(logits[..., : inside[0], : inside[1]], (height, width), mode="bilinear")
            return (logits > 0).cpu(), output.iou_scores[0].float().cpu()

        return predict


def load_sam(path: str | Path, *, manage: Callable[[Any], Callable[[], None]] | None = None) -> SamModel:
    """A SAM or HQ-SAM model: a checkpoint of either's authors, tensors only, or a transformers folder of HQ-SAM.

    Raises:
        FileNotFoundError, ValueError, ImportError: see `SamModel.from_file` and `SamHqModel.from_folder`.
    """
    path = Path(path)
    if path.is_dir():
        return SamHqModel.from_folder(path, manage=manage)
    if not path.is_file():
        raise FileNotFoundError(f"SAM checkpoint '{path}' does not exist. {SAM_SOURCE}.")
    state = read_tensors(path)
    if is_hq(state) and any(name.startswith("image_encoder.patch_embed.seq.") for name in state):
        raise ValueError(
            f"'{path.name}' is an HQ-SAM checkpoint with a TinyViT encoder, which this node cannot read. "
            f"{WHERE_TO_GET}."
        )
    kind, build = (SamHqModel, build_sam_hq) if is_hq(state) else (SamModel, build_sam)
    model = build(state, path.name)
    return kind(model, path.stem, None if manage is None else manage(model))


def is_hq(state: dict[str, torch.Tensor]) -> bool:
    """Whether a checkpoint is one of HQ-SAM's authors."""
    return "mask_decoder.hf_token.weight" in state


def build_sam_hq(state: dict[str, torch.Tensor], name: str = "checkpoint") -> Any:
    """A ``transformers.SamHQModel`` with the architecture that a checkpoint's shapes describe, and its weights.

    Raises:
        ValueError: the tensors do not fit, or this transformers has no HQ-SAM.
    """
    model_class = _model_class()
    from transformers import SamHQConfig

    encoder, prompt, decoder, transformer = read_architecture(state, name)
    config = SamHQConfig(
        vision_config={
            "hidden_size": encoder["embed_dim"],
            "output_channels": encoder["out_chans"],
            "num_hidden_layers": encoder["depth"],
            "num_attention_heads": encoder["num_heads"],
            "num_channels": encoder["in_chans"],
            "image_size": encoder["img_size"],
            "patch_size": encoder["patch_size"],
            "window_size": encoder["window_size"],
            "global_attn_indexes": list(encoder["global_attn_indexes"]),
            "mlp_dim": int(encoder["mlp_ratio"] * encoder["embed_dim"]),
            "num_pos_feats": prompt["embed_dim"] // 2,
        },
        prompt_encoder_config={
            "hidden_size": prompt["embed_dim"],
            "image_size": encoder["img_size"],
            "patch_size": encoder["patch_size"],
            "mask_input_channels": prompt["mask_in_chans"],
        },
        mask_decoder_config={
            "hidden_size": decoder["transformer_dim"],
            "mlp_dim": transformer["mlp_dim"],
            "num_hidden_layers": transformer["depth"],
            "num_attention_heads": transformer["num_heads"],
            "num_multimask_outputs": decoder["num_multimask_outputs"],
            "iou_head_depth": decoder["iou_head_depth"],
            "iou_head_hidden_dim": decoder["iou_head_hidden_dim"],
            "vit_dim": state["mask_decoder.compress_vit_feat.0.weight"].shape[0],
        },
    )
    model = model_class(config)
    renamed = {transformers_name(key): value for key, value in state.items()}
    positions = renamed["shared_image_embedding.positional_embedding"]
    renamed["prompt_encoder.shared_embedding.positional_embedding"] = positions
    try:
        model.load_state_dict(renamed)
    except RuntimeError as error:
        raise ValueError(f"'{name}' does not fit the HQ-SAM model: {brief(error)}. {WHERE_TO_GET}.") from error
    return _mended(model.eval().requires_grad_(False))


def _mended(model: Any) -> Any:
    """Let the decoder draw masks from what its transformer made of the image.

    Releases of transformers after 4.52 (at least up to 5.24) drop the transformer's second output and use its input in
    place of it, with rows and columns exchanged, so every mask comes out wrong. Where this is right, nothing changes.
    """
    seen: list[torch.Tensor] = []
    decoder = model.mask_decoder

    def keep(_: Any, inputs: Any, outputs: Any) -> None:
        seen[:] = [outputs[1]]

    def use(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        # (images, prompts, places, channels) → (images · prompts, channels, rows, columns)
        return (seen.pop().transpose(2, 3).reshape(inputs[0].shape),)

    decoder.transformer.register_forward_hook(keep)
    decoder.upscale_conv1.register_forward_pre_hook(use)
    return model


def transformers_name(name: str) -> str:
    """What transformers calls a tensor of the authors' checkpoints."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    place = {"0": "proj_in.", "1": "layers.0.", "2": "proj_out."}
    return _PERCEPTRONS.sub(lambda found: found[1] + place[found[2]], name)


def _model_class() -> Any:
    import transformers

    if not hasattr(transformers, "SamHQModel"):
        raise ValueError(TOO_OLD.format(version=transformers.__version__))
    return transformers.SamHQModel
