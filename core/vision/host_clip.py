"""A CLIP scorer from ComfyUI's own models: a CLIP_VISION and the text encoder of a checkpoint.

SDXL's second text encoder is the text tower of OpenCLIP ViT-bigG/14, and its pooled output is the projected text
feature; ``clip_vision_g`` is the vision tower of the same CLIP. SD2.x holds the text tower of ViT-H/14 in the same way.
SD1.x's text encoder (ViT-L/14) has no projection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch

from .clip_scorer import ClipScorer, warn_cut

# Width of the shared feature space → the vision tower that belongs to it, and whose text encoder that is.
TOWERS = {
    1280: ("clip_vision_g.safetensors (huggingface.co/comfyanonymous/clip_vision_g)", "an SDXL checkpoint"),
    1024: ("the vision tower of laion/CLIP-ViT-H-14-laion2B-s32B-b79K on huggingface.co", "an SD2.x checkpoint"),
}
SDXL_PAIR = f"Load {TOWERS[1280][0]} as clip_vision and connect the CLIP of {TOWERS[1280][1]}"
WHOLE_CLIP = "Or use Load CLIP Scorer with a whole CLIP, for example 'openai/clip-vit-base-patch32' from huggingface.co"


@dataclass(frozen=True)
class HostClipScorer(ClipScorer):
    """A `ClipScorer` that ComfyUI holds, loads and unloads, and computes in the precision that it chose.

    Attributes:
        model: ``comfy.clip_model.CLIPVisionModelProjection``.
        clip: ``comfy.sd.CLIP``.
        device: where the vision tower runs.
    """

    clip: Any = None
    device: torch.device = torch.device("cpu")

    @classmethod
    def from_models(cls, clip_vision: Any, clip: Any) -> HostClipScorer:
        """Join a CLIP_VISION and a CLIP whose features lie in the same space.

        Raises:
            ValueError: one of them cannot serve, or they do not belong together; the message says what to load.
        """
        width, expected = _image_width(clip_vision), _projected_width(clip)
        if width != expected:
            towers, texts = TOWERS.get(expected), TOWERS.get(width)
            fits = f"Load {towers[0]}, as clip_vision" if towers else SDXL_PAIR
            if texts:
                fits += f", or connect the CLIP of {texts[1]}"
            raise ValueError(
                f"clip_vision: gives features of {width} values, the text encoder of clip {expected}, so they "
                f"are not of the same CLIP. {fits}. {WHOLE_CLIP}."
            )
        patcher = clip_vision.patcher
        return cls(
            model=clip_vision.model,
            tokenize=_no_tokens,
            image_mean=tuple(clip_vision.image_mean),
            image_std=tuple(clip_vision.image_std),
            name="CLIP of clip_vision and clip",
            prepare=lambda: comfy.model_management.load_models_gpu([patcher]),
            clip=clip,
            device=patcher.load_device,
        )

    @property
    def image_size(self) -> int:
        return self.grid * int(self.model.vision_model.embeddings.patch_embedding.kernel_size[0])

    @property
    def grid(self) -> int:
        # one position is the class token's
        return math.isqrt(self.model.vision_model.embeddings.position_embedding.num_embeddings - 1)

    def _encode_image(self, pixels: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        vision = self.model.vision_model
        hidden = vision.pre_layrnorm(vision.embeddings(pixels.to(self.device)))
        hidden, _ = vision.encoder(hidden, mask=bias.to(hidden))
        return self.model.visual_projection(vision.post_layernorm(hidden[:, 0])).cpu()

    def _encode_text(self, text: str) -> torch.Tensor:
        tokens = _tokens(self.clip, text)
        sections = next(iter(tokens.values()))
        if len(sections) > 1:  # ComfyUI encodes each by itself, and pools the first
            warn_cut(text, len(sections[0]))
        return _pooled(self.clip, tokens).cpu()


def _no_tokens(texts: Any) -> dict[str, torch.Tensor]:
    raise NotImplementedError("The text encoder of a checkpoint tokenizes by itself.")


def _image_width(clip_vision: Any) -> int:
    """Width of the image feature; an encoder that is no CLIP is refused."""
    if clip_vision is None:
        raise ValueError(f"clip_vision: is empty. {SDXL_PAIR}.")
    kind = getattr(clip_vision, "model_type", "clip_vision_model")
    projection = getattr(clip_vision.model, "visual_projection", None)
    if kind != "clip_vision_model" or not isinstance(projection, torch.nn.Module):
        raise ValueError(
            f"clip_vision: is of the kind {kind!r} and has no projection into a space shared with text. "
            f"{SDXL_PAIR}. {WHOLE_CLIP}."
        )
    return int(projection.out_features)


def _projected_width(clip: Any) -> int:
    """Width of the text feature; a text encoder whose pooled output is not projected is refused."""
    if clip is None:
        raise ValueError(f"clip: is empty. {SDXL_PAIR}.")
    with torch.no_grad():
        tokens = _tokens(clip, "a")
        projected, plain = _pooled(clip, tokens), _pooled(clip, tokens, return_pooled="unprojected")
    if projected is None or plain is None or torch.equal(projected, plain):
        raise ValueError(
            "clip: its text encoder has no projection (SD1.x and Flux have none), so its features cannot be compared "
            f"with a picture's. {SDXL_PAIR}. {WHOLE_CLIP}."
        )
    if not bool(torch.isfinite(projected).all()) or not bool(projected.any()):
        raise ValueError(
            "clip: the projection of its text encoder has no weights; the file that it was loaded from lacks them. "
            f"{SDXL_PAIR}. {WHOLE_CLIP}."
        )
    return int(projected.shape[-1])


def _tokens(clip: Any, text: str) -> Any:
    """The tokens of a text, every character of it read as it stands."""
    # round brackets would weigh the words between them
    return clip.tokenize(text.replace("(", "\\(").replace(")", "\\)"))


def _pooled(clip: Any, tokens: Any, return_pooled: Any = True) -> Any:
    """Pooled output (1, D) for a text's tokens."""
    return clip.encode_from_tokens(tokens, return_pooled=return_pooled)[1]
