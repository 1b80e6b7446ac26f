"""Small SAM, detectors and CLIP with drawn weights, in the libraries' own classes, for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
CLIP_PIECES = ("a</w>", "red</w>", "cat</w>", "r", "e", "d</w>", "c", "a", "t</w>", "re", "ca")
CLIP_WORDS = ("<|startoftext|>", "<|endoftext|>", *CLIP_PIECES)
# As in CLIP's vocabulary, 0 pads and the end of the text has the largest number: OWL-ViT relies on both.
OWL_PIECES = ("cat</w>", "dog</w>", "c", "a", "t", "d", "o", "g", "t</w>", "g</w>", "ca", "do")
OWL_WORDS = ("!", *OWL_PIECES, "<|startoftext|>", "<|endoftext|>")
BERT_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "cat", "dog")


def drawn_anew(model: torch.nn.Module, scale: float) -> torch.nn.Module:
    """The module with its matrices drawn from N(0, scale²): the libraries' own initial ones saturate at this size."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape) * scale)
    return model.eval()


def small_sam() -> Any:
    """``segment_anything``'s own classes for pictures of 64."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(3)
    encoder = ImageEncoderViT(
        img_size=64,
        patch_size=8,
        embed_dim=32,
        depth=3,
        num_heads=2,
        out_chans=32,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
    )
    prompts = PromptEncoder(embed_dim=32, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_chans=8)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, num_heads=8, mlp_dim=48)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, iou_head_hidden_dim=24)
    return drawn_anew(Sam(image_encoder=encoder, prompt_encoder=prompts, mask_decoder=decoder), 0.2)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _write_clip_tokenizer(folder: Path, words: Sequence[str], merges: Sequence[str], **settings: Any) -> None:
    _write_json(folder / "vocab.json", {word: index for index, word in enumerate(words)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    _write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, **settings}
    )


def save_clip(folder: Path) -> None:
    """A CLIP for pictures of 32 in patches of 8 that knows "a", "red" and "cat"."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    tower = {**TOWER, "num_hidden_layers": 3}
    text = {"vocab_size": len(CLIP_WORDS), "max_position_embeddings": 16}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={**text, **special, **tower},
        vision_config={"image_size": 32, "patch_size": 8, **tower},
        projection_dim=16,
    )
    CLIPModel(config).eval().save_pretrained(folder, safe_serialization=True)
    _write_clip_tokenizer(folder, CLIP_WORDS, ["r e", "re d</w>", "c a", "ca t</w>"])
    _write_json(folder / "preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.25] * 3})


def save_owlvit(folder: Path, family: str = "OwlViT") -> None:
    """An OWL-ViT (or ``Owlv2``) for pictures of 32 that knows "cat" and "dog"."""
    import transformers

    torch.manual_seed(0)
    text = {"vocab_size": len(OWL_WORDS), "max_position_embeddings": 16}
    special = {"bos_token_id": len(OWL_WORDS) - 2, "eos_token_id": len(OWL_WORDS) - 1}
    config = getattr(transformers, f"{family}Config")(
        text_config={**text, **special, **TOWER},
        vision_config={"image_size": 32, "patch_size": 8, **TOWER},
        projection_dim=32,
    )
    model = getattr(transformers, f"{family}ForObjectDetection")(config)
    drawn_anew(model, 0.15).save_pretrained(folder)
    _write_clip_tokenizer(folder, OWL_WORDS, ["c a", "ca t</w>", "d o", "do g</w>"], pad_token="!")
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": f"{family}ImageProcessor",
            "processor_class": f"{family}Processor",
            "size": {"height": 32, "width": 32},
            "do_center_crop": False,
        },
    )


def save_grounding_dino(folder: Path) -> None:
    """A GroundingDINO on a Swin of one layer a stage that knows "cat" and "dog"."""
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    torch.manual_seed(0)
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "image_size": 64,
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 4,
            "out_indices": [2, 3, 4],
        },
        text_config={"model_type": "bert", "vocab_size": len(BERT_WORDS), "max_position_embeddings": 64, **TOWER},
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=10,
        num_feature_levels=4,
        max_text_len=16,
        disable_custom_kernels=True,
    )
    drawn_anew(GroundingDinoForObjectDetection(config), 0.15).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n", encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 16})
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "GroundingDinoImageProcessor",
            "processor_class": "GroundingDinoProcessor",
            "size": {"shortest_edge": 64, "longest_edge": 96},
        },
    )


DETECTORS = {
    "owlvit": save_owlvit,
    "owlv2": partial(save_owlvit, family="Owlv2"),
    "grounding-dino": save_grounding_dino,
}


def small_sam_hq() -> Any:
    """``transformers.SamHQModel`` for pictures of 64, the shape of `small_sam` with HQ-SAM's decoder."""
    from transformers import SamHQConfig, SamHQModel

    torch.manual_seed(4)
    config = SamHQConfig(
        vision_config={
            "hidden_size": 32,
            "output_channels": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 3,
            "global_attn_indexes": [1],
            "mlp_dim": 128,
            "num_pos_feats": 16,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 8, "mask_input_channels": 8},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "iou_head_hidden_dim": 24,
            "vit_dim": 32,
        },
    )
    model = drawn_anew(SamHQModel(config), 0.2)
    model.prompt_encoder.shared_embedding.positional_embedding = model.shared_image_embedding.positional_embedding
    return model.requires_grad_(False)


def sam_hq_checkpoint(model: Any) -> dict[str, torch.Tensor]:
    """The state dict of a ``SamHQModel`` under the names that HQ-SAM's authors gave its tensors."""
    decoder = {
        "upscale_conv1": "output_upscaling.0",
        "upscale_layer_norm": "output_upscaling.1",
        "upscale_conv2": "output_upscaling.3",
        "hq_token": "hf_token",
        "hq_mask_mlp": "hf_mlp",
        "compress_vit_conv1": "compress_vit_feat.0",
        "compress_vit_norm": "compress_vit_feat.1",
        "compress_vit_conv2": "compress_vit_feat.3",
        "encoder_conv1": "embedding_encoder.0",
        "encoder_norm": "embedding_encoder.1",
        "encoder_conv2": "embedding_encoder.3",
        "mask_conv1": "embedding_maskfeature.0",
        "mask_norm": "embedding_maskfeature.1",
        "mask_conv2": "embedding_maskfeature.3",
        "proj_in": "layers.0",
        "layers": "layers.1",
        "proj_out": "layers.2",
    }
    encoder = {"projection": "proj", "layers": "blocks", "layer_norm1": "norm1", "layer_norm2": "norm2"}
    neck = {"conv1": "0", "layer_norm1": "1", "conv2": "2", "layer_norm2": "3"}
    prompts = {"conv1": "0", "layer_norm1": "1", "conv2": "3", "layer_norm2": "4", "conv3": "6"}
    found = {}
    for name, tensor in model.state_dict().items():
        room, *rest = name.split(".")
        if room == "shared_image_embedding":
            found["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = tensor
        elif room == "vision_encoder":
            words = neck if rest[0] == "neck" else encoder
            found[".".join(["image_encoder", *(words.get(part, part) for part in rest)])] = tensor
        elif room == "prompt_encoder" and rest[0] != "shared_embedding":
            if rest[0] == "mask_embed":
                rest = ["mask_downscaling", prompts[rest[1]], rest[2]]
            rest[0] = {"point_embed": "point_embeddings"}.get(rest[0], rest[0])
            found[".".join([room, *rest])] = tensor
        elif rest[0] == "transformer":
            found[name.replace("layer_norm_final", "norm_final").replace("layer_norm", "norm")] = tensor
        elif room == "mask_decoder":
            parts, skip = [], False
            for place, part in enumerate(rest):
                if skip:
                    skip = False
                    continue
                parts.append(decoder.get(part, part))
                # transformers' only inner layer of a perceptron is its second
                skip = part == "layers" and rest[place + 1] == "0"
            found[".".join([room, *parts])] = tensor
    return found


def drawn_sam_hq_checkpoint() -> dict[str, torch.Tensor]:
    """A checkpoint of HQ-SAM's authors for pictures of 64 whose every value follows from its name."""
    from tools.parity.drawn_weights import standard_normal, text_seed

    state = {}
    for name, tensor in sam_hq_checkpoint(small_sam_hq()).items():
        values = torch.from_numpy(standard_normal(text_seed(name), *tensor.shape))
        if tensor.ndim == 1:
            state[name] = 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
        else:
            state[name] = 0.2 * values
    return state
