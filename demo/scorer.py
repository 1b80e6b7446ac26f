"""The demo's tiny CLIP: its shape and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .text import END, PAD, START, TOKENIZER_DIR, VOCABULARY

SIZE, PATCH, WIDTH, LENGTH = 128, 16, 96, 77
# transformers takes an end token of id 2, which the demo's is, for an old mistake in configurations, and reads a text
# off its highest id instead: off "red" in "a red cat", which has not met the cat. This id is the highest.
LAST = len(VOCABULARY)
MEAN = STD = (0.5, 0.5, 0.5)


def build_clip() -> Any:
    """The demo scorer's ``transformers.CLIPModel``, weights drawn."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_attention_heads": 4, "projection_dim": WIDTH}
    text = {
        **tower,
        "num_hidden_layers": 2,
        "vocab_size": LAST + 1,
        "max_position_embeddings": LENGTH,
        "bos_token_id": START,
        "eos_token_id": LAST,
        "pad_token_id": PAD,
    }
    vision = {**tower, "num_hidden_layers": 4, "image_size": SIZE, "patch_size": PATCH}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def build_tokenizer() -> Callable[[Sequence[str]], dict[str, torch.Tensor]]:
    """Texts to ``input_ids`` and ``attention_mask`` (N, L) of the demo's words, ended and filled up by LAST."""
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast.from_pretrained(str(TOKENIZER_DIR), local_files_only=True)

    def tokenize(texts: Sequence[str]) -> dict[str, torch.Tensor]:
        tokens = words(list(texts), padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        return {"input_ids": ids.masked_fill((ids == END) | (mask == 0), LAST), "attention_mask": mask}

    return tokenize
