"""The demo's small CLIP: its architecture and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .text import END, PAD, START, TOKENIZER_DIR, VOCABULARY

SIZE, PATCH, WIDTH, LENGTH = 128, 16, 96, 77
# transformers treats an end token of id 2 (the demo's) as a known bug in old configurations and reads the text feature
# at the highest id instead: at "red" in "a red cat", which has not seen the cat. So the end token gets the highest id.
LAST = len(VOCABULARY)
MEAN = STD = (0.5, 0.5, 0.5)


def build_clip() -> Any:
    """The demo scorer's ``transformers.CLIPModel``, with random weights."""
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
    """Texts to ``input_ids`` and ``attention_mask`` (N, L) of the demo's words, ended and padded with LAST."""
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast.from_pretrained(str(TOKENIZER_DIR), local_files_only=True)

    def tokenize(texts: Sequence[str]) -> dict[str, torch.Tensor]:
        tokens = words(list(texts), padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        return {"input_ids": ids.masked_fill((ids == END) | (mask == 0), LAST), "attention_mask": mask}

    return tokenize
