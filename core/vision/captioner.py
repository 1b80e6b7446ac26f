"""A caption for a picture that came without a prompt, by a BLIP model in a local folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
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


@dataclass(frozen=True)
class Captioner:
    """A BLIP model that puts a picture into words.

    Attributes:
        model: ``transformers.BlipForConditionalGeneration`` or ``Blip2ForConditionalGeneration``.
        processor: its image processor and tokenizer.
        name: what errors call it.
        prepare: called before each use; lets a host bring the model onto its device.
    """

    model: Any
    processor: Any
    name: str = "captioner"
    prepare: Callable[[], None] | None = None

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        manage: Callable[[Any], Callable[[], None]] | None = None,
    ) -> Captioner:
        """Load a BLIP or BLIP-2 model from a local transformers folder; nothing is downloaded.

        Args:
            dtype: of the weights, but for those that the model keeps in float32 (BLIP-2's Q-Former). None: what ComfyUI
                computes in (`working_dtype`).
            manage: gets the model and returns what becomes `prepare`.

        Raises:
            FileNotFoundError: the folder, or its config.json, is missing.
            ValueError: the folder holds another kind of model, or its files are damaged or incomplete.
        """
        folder = Path(path)
        kind = read_config(folder, MODEL_TYPES, WHERE_TO_GET)["model_type"]
        import transformers

        names = {
            "blip": ("BlipProcessor", "BlipForConditionalGeneration"),
            "blip-2": ("Blip2Processor", "Blip2ForConditionalGeneration"),
        }[kind]
        processor_class, model_class = (getattr(transformers, name) for name in names)
        try:
            processor = processor_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model = model_class.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=any(folder.glob("*.safetensors")),
                weights_only=True,
                **{_dtype_option(transformers.__version__): dtype or working_dtype()},
            )
        except Exception as error:  # tokenizers and safetensors raise types of their own
            raise ValueError(
                f"The captioning model in '{folder}' could not be loaded: {brief(error)}. {WHERE_TO_GET}."
            ) from error
        if kind == "blip-2" and model.config.image_token_index is None:
            # A folder of before 2025; its processor has just added the token, for which the vocabulary has room.
            model.config.image_token_index = processor.tokenizer.convert_tokens_to_ids("<image>")
        model = model.eval().requires_grad_(False)
        return cls(model, processor, folder.name, None if manage is None else manage(model))

    def caption(self, picture: torch.Tensor, max_new_tokens: int = 40) -> str:
        """Describe a picture (H, W, 3) in 0 … 1.

        Raises:
            ValueError: the model says nothing.
            InterruptProcessingException: the run was cancelled; asked before every token.
        """
        from transformers import StoppingCriteria, StoppingCriteriaList

        progress = comfy.utils.ProgressBar(max_new_tokens)

        class EveryToken(StoppingCriteria):
            def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
                comfy.model_management.throw_exception_if_processing_interrupted()
                progress.update(1)
                return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

        comfy.model_management.throw_exception_if_processing_interrupted()
        if self.prepare is not None:
            self.prepare()
        pixels = self.processor.image_processor(
            images=picture[..., :3].detach().float().cpu().clamp(0, 1),
            do_rescale=False,
            input_data_format="channels_last",
            return_tensors="pt",
        )["pixel_values"]
        weight = next(self.model.vision_model.parameters())
        with torch.no_grad():
            tokens = self.model.generate(
                pixel_values=pixels.to(weight.device, weight.dtype),
                max_new_tokens=max_new_tokens,
                stopping_criteria=StoppingCriteriaList([EveryToken()]),
            )
        progress.update_absolute(max_new_tokens)
        text = self.processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
        if not text:
            raise ValueError(f"The captioning model '{self.name}' gave no words for this image. Type a source prompt.")
        return text


def working_dtype() -> torch.dtype:
    """The type that ComfyUI computes in where a model leaves it open: half precision on devices that have it."""
    device = comfy.model_management.get_torch_device()
    if comfy.model_management.should_use_fp16(device):
        return torch.float16
    return torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float32


def _dtype_option(version: str) -> str:
    """What ``from_pretrained`` calls the type of the weights: renamed in transformers 4.56."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"
