"""The demo checkpoint's words and its two text encoders, in ComfyUI's own classes.

The vocabulary holds every word a caption can use; all other words share one unknown id. Both encoders zero everything
after the end token (ComfyUI's ``zero_out_masked``), so short prompts are cheap.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from .config import text_encoder
from .world import WORDS

TOKENIZER_DIR = Path(__file__).parent / "tokenizer"
SPECIAL = ("<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|unknown|>")
PAD, START, END, UNKNOWN = range(4)
VOCABULARY: dict[str, int] = {word: k for k, word in enumerate(SPECIAL + WORDS)}
WIDTH_L, WIDTH_G = 256, 512
CONFIG_L = text_encoder(WIDTH_L, 4, len(VOCABULARY), START, END)
CONFIG_G = text_encoder(WIDTH_G, 8, len(VOCABULARY), START, END)


def write_tokenizer(folder: Path = TOKENIZER_DIR) -> None:
    """Write the word-level tokenizer in the form that transformers reads (run once, by the training script)."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token=SPECIAL[UNKNOWN]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[a-z]+|[^\sa-z]"), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[START]} $A {SPECIAL[END]}", special_tokens=[(SPECIAL[k], k) for k in (START, END)]
    )
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 77, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def _warn_unknown(text: str, tokenizer: Any) -> None:
    words = text.replace("(", " ").replace(")", " ").replace(":", " ").split()
    ids = [(w, tokenizer(w)["input_ids"]) for w in words if any(ch.isalpha() for ch in w) and "embedding" not in w]
    unknown = sorted({w for w, found in ids if UNKNOWN in found})
    if unknown:
        known = ", ".join(w for w in WORDS if w.isalpha())
        logging.warning("The demo model does not know: %s. It only knows these words: %s", ", ".join(unknown), known)


def tokenizer_class() -> type:
    """The tokenizer class for ``comfy.sd.CLIP``: two token lists, as in ``SDXLTokenizer``."""
    from comfy.sd1_clip import SDTokenizer
    from transformers import PreTrainedTokenizerFast

    class DemoTokenizer:
        """Same interface as ``comfy.sdxl_clip.SDXLTokenizer``: token lists under "l" and "g"."""

        def __init__(self, embedding_directory: Any = None, tokenizer_data: dict | None = None):
            def one(width: int, key: str, pad_with_end: bool) -> Any:
                return SDTokenizer(
                    str(TOKENIZER_DIR),
                    pad_with_end=pad_with_end,
                    embedding_directory=embedding_directory,
                    embedding_size=width,
                    embedding_key=key,
                    tokenizer_class=PreTrainedTokenizerFast,
                    tokenizer_data=tokenizer_data or {},
                )

            self.clip_l, self.clip_g = one(WIDTH_L, "clip_l", True), one(WIDTH_G, "clip_g", False)

        def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> dict:
            _warn_unknown(text, self.clip_l.tokenizer)
            return {
                "g": self.clip_g.tokenize_with_weights(text, return_word_ids, **kwargs),
                "l": self.clip_l.tokenize_with_weights(text, return_word_ids, **kwargs),
            }

        def untokenize(self, token_weight_pair: Any) -> Any:
            return self.clip_g.untokenize(token_weight_pair)

        def state_dict(self) -> dict:
            return {}

    return DemoTokenizer


def encoder_class() -> type:
    """The text model class for ``comfy.sd.CLIP``: ``SDXLClipModel`` with the demo's widths."""
    from comfy.sd1_clip import SDClipModel
    from comfy.sdxl_clip import SDXLClipModel

    class DemoClipModel(SDXLClipModel):
        """(1, 77, 768) context from both encoders, concatenated along channels; (1, 512) pooled from the second."""

        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict | None = None):
            import torch

            torch.nn.Module.__init__(self)
            options = model_options or {}
            shared = {
                "device": device,
                "dtype": dtype,
                "layer_norm_hidden_state": False,
                "enable_attention_masks": True,
                "zero_out_masked": True,
            }
            self.clip_l = SDClipModel(
                layer="last",
                textmodel_json_config=dict(CONFIG_L),
                special_tokens={"start": START, "end": END, "pad": END},
                model_options={**options, "model_name": "clip_l"},
                **shared,
            )
            self.clip_g = SDClipModel(
                layer="hidden",
                layer_idx=0,  # the first of two: the penultimate, as in SDXL
                textmodel_json_config=dict(CONFIG_G),
                special_tokens={"start": START, "end": END, "pad": PAD},
                model_options={**options, "model_name": "clip_g"},
                **shared,
            )
            for encoder, width in ((self.clip_l, WIDTH_L), (self.clip_g, WIDTH_G)):
                # ComfyUI's class always allocates CLIP's 49,408 rows; the demo has few words
                rows = encoder.operations.Embedding(len(VOCABULARY), width, device=device, dtype=dtype)
                encoder.transformer.set_input_embeddings(rows.requires_grad_(False))
            self.dtypes = {dtype}

        def load_sd(self, sd: dict) -> Any:
            """Load one state dictionary with the prefixes ``clip_l.`` and ``clip_g.``."""
            missing, unexpected = [], []
            for prefix, encoder in (("clip_l.", self.clip_l), ("clip_g.", self.clip_g)):
                own = {k[len(prefix) :].removeprefix("transformer."): v for k, v in sd.items() if k.startswith(prefix)}
                result = encoder.load_sd(own)
                missing += [prefix + k for k in result[0]]
                unexpected += [prefix + k for k in result[1]]
            return missing, unexpected

    return DemoClipModel
