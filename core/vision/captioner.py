"""A caption for a picture that came without a prompt, by a BLIP model in a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from .pretrained import brief, read_config

MODEL_TYPES = ("blip", "blip-2")
WHERE_TO_GET = (
    "Get one from huggingface.co, for example 'Salesforce/blip-image-captioning-base': config.json, model.safetensors, "
    "preprocessor_config.json and the tokenizer files"
)


def captioner_folders(roots: Sequence[str]) -> list[str]:
    """Names of the folders below ``roots`` that hold a BLIP-family model, sorted."""
    found = set()
    for root in roots:
        for file in Path(root).glob("*/config.json"):
            try:
                read_config(file.parent, MODEL_TYPES, WHERE_TO_GET)
            except (ValueError, OSError):
                continue
            found.add(file.parent.name)
    return sorted(found)


def caption(folder: str | Path, picture: torch.Tensor, max_new_tokens: int = 40) -> str:
    """Describe a picture (H, W, 3) in 0 … 1 with the BLIP model in ``folder``; runs on the processor, once.

    Raises:
        FileNotFoundError: the folder, or a file of it, is missing.
        ValueError: the folder holds another kind of model, or the model says nothing.
    """
    folder = Path(folder)
    kind = read_config(folder, MODEL_TYPES, WHERE_TO_GET)["model_type"]
    import transformers

    names = {
        "blip": ("BlipProcessor", "BlipForConditionalGeneration"),
        "blip-2": ("Blip2Processor", "Blip2ForConditionalGeneration"),
    }[kind]
    processor_class, model_class = (getattr(transformers, name) for name in names)
    safe = any(folder.glob("*.safetensors"))
    try:
        processor = processor_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = model_class.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=safe, weights_only=True
        )
    except Exception as error:  # tokenizers and safetensors raise types of their own
        raise ValueError(
            f"The captioning model in '{folder}' could not be loaded: {brief(error)} {WHERE_TO_GET}."
        ) from error
    model = model.float().eval()
    pixels = processor.image_processor(
        images=picture.detach().float().cpu().clamp(0, 1),
        do_rescale=False,
        input_data_format="channels_last",
        return_tensors="pt",
    )["pixel_values"]
    with torch.no_grad():
        tokens = model.generate(pixel_values=pixels.float(), max_new_tokens=max_new_tokens)
    text = processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
    if not text:
        raise ValueError(f"The captioning model in '{folder}' gave no words for this picture; type a source prompt.")
    return text
