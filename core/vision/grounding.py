"""Boxes of named objects: GroundingDINO (Liu et al. 2023) or OWL-ViT / OWLv2 (Minderer et al. 2022, 2023).

The models come from local folders in the transformers format; nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..text import plain_text
from .pretrained import brief, load_pretrained, read_config
from .prompts import check_proportions

MODEL_TYPES = ("grounding-dino", "owlvit", "owlv2")
WHERE_TO_GET = (
    "Get one from huggingface.co, for example 'IDEA-Research/grounding-dino-tiny' or 'google/owlvit-base-patch32': "
    "config.json, model.safetensors, preprocessor_config.json and the tokenizer files, in a folder of their own under "
    "ComfyUI's models/grounding"
)


@dataclass(frozen=True)
class GroundingModel:
    """A detector that is told in words what to look for.

    Attributes:
        model: the transformers detection model. processor: its image processor and tokenizer.
        kind: one of `MODEL_TYPES`.
        prepare: called before each use; lets a host bring the model onto its device.
    """

    model: Any
    processor: Any
    kind: str
    name: str = "grounding"
    prepare: Callable[[], None] | None = None

    @classmethod
    def from_folder(
        cls, path: str | Path, *, manage: Callable[[Any], Callable[[], None]] | None = None
    ) -> GroundingModel:
        """Load a detector from a local transformers folder.

        Args:
            manage: gets the model and returns what becomes `prepare`.

        Raises:
            FileNotFoundError: the folder or a file of it is missing; the message says where it is published.
            ValueError: another kind of model, or damaged files.
        """
        folder = Path(path)
        kind = str(read_config(folder, MODEL_TYPES, WHERE_TO_GET)["model_type"])
        import transformers

        classes = {
            "grounding-dino": "GroundingDinoForObjectDetection",
            "owlvit": "OwlViTForObjectDetection",
            "owlv2": "Owlv2ForObjectDetection",
        }
        try:
            processor = transformers.AutoProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            raise FileNotFoundError(
                f"The processor of the grounding folder '{folder}' could not be read ({brief(error)}). Put the "
                f"tokenizer and preprocessor files beside the weights. {WHERE_TO_GET}."
            ) from error
        model = load_pretrained(getattr(transformers, classes[kind]), folder, WHERE_TO_GET)
        return cls(model, processor, kind, folder.name, None if manage is None else manage(model))

    @property
    def longest_text(self) -> int:
        """Tokens that the detector reads: of all names together (GroundingDINO), or of each (OWL-ViT, OWLv2)."""
        limit = int(self.model.config.text_config.max_position_embeddings)
        return min(limit, int(self.model.config.max_text_len)) if self.kind == "grounding-dino" else limit

    def boxes(
        self, image: torch.Tensor, text: str, threshold: float = 0.3, limit: int = 16
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the named objects are.

        Args:
            image: (H, W, 3), 0..1.
            text: one name, or several separated by commas or full stops; weights as in a prompt are left out.
            threshold: smallest score, 0..1, that counts.
            limit: at most so many boxes, the best ones.

        Returns:
            (n, 4) x0, y0, x1, y1 in pixels inside the picture, best first, and their scores (n,).

        Raises:
            ValueError: the text is empty, or longer than the detector's context; the picture is too thin.
        """
        check_proportions(*image.shape[:2])
        phrases = names_in(text)
        if not phrases:
            raise ValueError("text: is empty. Name what to look for, for example 'cat'.")
        if self.prepare is not None:
            self.prepare()
        height, width = image.shape[:2]
        pixels = (image[..., :3].detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        # GroundingDINO was trained on phrases that end in full stops; OWL takes a list of queries.
        query: Any = " . ".join(phrases) + " ." if self.kind == "grounding-dino" else [phrases]
        # A PIL image: of an array three pixels high, the processors take the rows for the channels.
        inputs = self.processor(images=Image.fromarray(pixels), text=query, return_tensors="pt")
        tokens = int(inputs["input_ids"].shape[-1])
        if tokens > self.longest_text:
            raise ValueError(
                f"text: {text!r} has {tokens} tokens, but '{self.name}' reads at most "
                f"{self.longest_text} {'in all' if self.kind == 'grounding-dino' else 'a name'}. Use plainer words."
            )
        device, dtype = next(self.model.parameters()).device, next(self.model.parameters()).dtype
        moved = {
            key: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for key, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }
        with torch.no_grad():
            output = self.model(**moved)
        logits, centred = output.logits[0].float().cpu(), output.pred_boxes[0].float().cpu()
        scores = torch.nan_to_num(logits, neginf=-100.0).max(dim=-1).values.sigmoid()
        # OWLv2 pads the picture to a square, below and to the right; the others squeeze or keep it.
        scale = torch.tensor([width, height] if self.kind != "owlv2" else [max(width, height)] * 2).float()
        middle, size = centred[:, :2] * scale, centred[:, 2:] * scale
        corners = torch.cat([middle - size / 2, middle + size / 2], dim=-1)
        corners = corners.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        kept = (scores >= threshold) & ((corners[:, 2:] - corners[:, :2]) >= 1).all(dim=-1)
        order = scores[kept].argsort(descending=True)[:limit]
        return corners[kept][order], scores[kept][order]


def names_in(text: str) -> list[str]:
    """The names of a text, in lower case: separated by commas, semicolons, full stops or lines."""
    # A full stop between digits is a decimal point.
    parts = re.split(r"[,;\n，；、。]|(?<!\d)\.|\.(?!\d)", plain_text(text))
    return [part.strip().lower() for part in parts if part.strip()]
