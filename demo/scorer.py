"""The demo's tiny CLIP: its shape and its tokenizer."""

from __future__ import annotations

from typing import Any

from .text import END, PAD, START, TOKENIZER_DIR, VOCABULARY

SIZE, PATCH, WIDTH = 128, 16, 96
MEAN = STD = (0.5, 0.5, 0.5)


def build_clip() -> Any:
    """The demo scorer's ``transformers.CLIPModel``, weights drawn."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_attention_heads": 4, "projection_dim": WIDTH}
    text = {
        **tower,
        "num_hidden_layers": 2,
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": 77,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": PAD,
    }
    vision = {**tower, "num_hidden_layers": 4, "image_size": SIZE, "patch_size": PATCH}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def build_tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(TOKENIZER_DIR), local_files_only=True)
