"""Masked CLIP: how well a region of a picture fits a text.

The region is given to the vision transformer as an attention mask on the patch grid, so position and context of the
object stay as they are (Object-aware Inversion and Reassembly, Yang et al. 2023, section 3.2, "search metric").
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from ..mask_inputs import picture_masks
from ..text import plain_text
from .pretrained import brief, load_pretrained, read_config, read_json

MaskMode = Literal["masked", "published_bias"]
Fit = Literal["pad", "stretch"]
MASK_MODES: tuple[MaskMode, ...] = ("masked", "published_bias")

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
WHERE_TO_GET = (
    "Get one from huggingface.co, for example 'openai/clip-vit-base-patch32' (the paper searches with CLIP base) or "
    "'openai/clip-vit-large-patch14': config.json, the weights (model.safetensors or pytorch_model.bin), "
    "preprocessor_config.json and the tokenizer files (vocab.json, merges.txt, tokenizer_config.json)"
)

# A patch of which less than this share lies in the mask counts as outside; resizing alone can graze a neighbour.
MIN_COVERAGE = 0.1
TEXT_CACHE_SIZE = 256


@dataclass(frozen=True)
class ClipScorer:
    """A CLIP model with its tokenizer, asked for the likeness of (a part of) a picture and a text.

    Attributes:
        model: a ``transformers.CLIPModel`` (or one with the same members), in evaluation mode.
        tokenize: texts → ``{"input_ids": (N, L) int64, "attention_mask": (N, L)}``.
        image_mean, image_std: per channel, of pictures in 0..1.
        name: what errors and reports call it.
        prepare: called before each use; lets a host bring the model onto its device. Nothing by default.
    """

    model: Any
    tokenize: Callable[[Sequence[str]], dict[str, torch.Tensor]]
    image_mean: tuple[float, float, float] = OPENAI_MEAN
    image_std: tuple[float, float, float] = OPENAI_STD
    name: str = "CLIP"
    prepare: Callable[[], None] | None = None
    _texts: dict[str, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_parts(
        cls,
        model: Any,
        tokenizer: Callable[..., Any],
        *,
        image_mean: Sequence[float] = OPENAI_MEAN,
        image_std: Sequence[float] = OPENAI_STD,
        name: str = "CLIP",
        prepare: Callable[[], None] | None = None,
    ) -> ClipScorer:
        """Wrap a model and a tokenizer that are in memory already.

        Args:
            model: a ``transformers.CLIPModel``; its weights are left as they are.
            tokenizer: a transformers tokenizer, or any callable that takes a list of texts and returns a mapping with
                ``input_ids`` and, optionally, ``attention_mask`` (equally long rows).
        """
        for part in ("vision_model", "text_model", "visual_projection", "text_projection"):
            if not hasattr(model, part):
                raise ValueError(
                    f"model: expected a CLIP model with both towers, got one without '{part}'. {WHERE_TO_GET}."
                )
        model.eval()
        mean, std = (tuple(float(x) for x in values) for values in (image_mean, image_std))
        return cls(model, _tokenize_with(tokenizer, model), mean, std, name, prepare)  # type: ignore[arg-type]

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        manage: Callable[[Any], Callable[[], None]] | None = None,
    ) -> ClipScorer:
        """Load a CLIP model from a local folder in the transformers format; nothing is downloaded.

        Args:
            manage: gets the model and returns what becomes `prepare`.

        Raises:
            FileNotFoundError: the folder, or a file of it, is missing; the message says where it is published.
            ValueError: the folder holds something other than a CLIP model.
        """
        folder = Path(path)
        read_config(folder, ("clip",), WHERE_TO_GET)
        from transformers import CLIPModel

        try:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # the tokenizers library raises bare Exceptions
            raise FileNotFoundError(
                f"The tokenizer of the CLIP folder '{folder}' could not be read ({brief(error)}). "
                f"Put its tokenizer files beside the weights. {WHERE_TO_GET}."
            ) from error
        # Eager attention adds the mask to the logits in plain sight; fused kernels differ in what masks they take.
        model = load_pretrained(CLIPModel, folder, WHERE_TO_GET, dtype=dtype, attn_implementation="eager", whole=True)
        mean, std = _image_statistics(folder)
        prepare = None if manage is None else manage(model)
        return cls.from_parts(model, tokenizer, image_mean=mean, image_std=std, name=folder.name, prepare=prepare)

    @property
    def image_size(self) -> int:
        """Side of the square picture that the vision tower takes, in pixels."""
        return int(self.model.vision_model.config.image_size)

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // int(self.model.vision_model.config.patch_size)

    def score(
        self,
        image: torch.Tensor,
        text: str,
        mask: torch.Tensor | None = None,
        mode: MaskMode = "masked",
        fit: Fit = "pad",
    ) -> float:
        """Cosine similarity of the (masked) picture's and the text's projected features, in -1..1.

        Args:
            image: (H, W, 3) float, 0..1; any size and aspect.
            text: what the region should show; weights as in a prompt are left out.
            mask: (H, W), region of interest above 0.5; another size is resized to the picture's. None: everything.
            mode: ``masked`` blocks the patches outside with -inf; ``published_bias`` reproduces the published code,
                which adds 1 to the logits between allowed patches and so blocks nothing.
            fit: ``pad`` keeps the aspect and blocks the padding; ``stretch`` does not keep it.

        Raises:
            ValueError: wrong shapes, an empty mask, NaNs, or an unknown mode.
        """
        image_feature = self.image_features(image, mask, mode, fit)
        return float((image_feature @ self.text_features(text).to(image_feature)).item())

    def image_features(
        self,
        image: torch.Tensor,
        mask: torch.Tensor | None = None,
        mode: MaskMode = "masked",
        fit: Fit = "pad",
    ) -> torch.Tensor:
        """Unit-length projected feature (D,) of a picture (H, W, 3), 0..1, seen through ``mask``; see `score`."""
        if mode not in MASK_MODES:
            raise ValueError(f"mask_mode: {mode!r} is not one of {', '.join(MASK_MODES)}.")
        pixels, inside = fit_to_square(image, self.image_size, fit)
        allowed = patch_coverage(inside, self.grid) > 0.5
        if not allowed.any():
            allowed[:] = patch_coverage(inside, self.grid) > 0
        region = allowed if mask is None else allowed & self._patches_of(mask, image, fit)
        if self.prepare is not None:
            self.prepare()
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.image_mean, self.image_std))
        # Padding is blocked by the mask; filling it with the mean keeps it harmless under ``published_bias`` as well.
        pixels = torch.where(inside > 0, (pixels - mean) / std, 0.0)
        with torch.no_grad():
            return F.normalize(self._encode_image(pixels, attention_bias(region, mode))[0].float(), dim=-1)

    def text_features(self, text: str) -> torch.Tensor:
        """Unit-length projected feature (D,) of a text, remembered for the next call.

        Prompts are scored by their words: this CLIP does not know ComfyUI's weights and embeddings (`plain_text`).

        Raises:
            ValueError: no words are left.
        """
        written, text = text, plain_text(text)
        if not text:
            raise ValueError(
                f"text: {written!r} holds no words that the scorer could compare with an image (embeddings are known "
                "to the model's own text encoder only). Name the object in words."
            )
        if text not in self._texts:
            if self.prepare is not None:
                self.prepare()
            if len(self._texts) >= TEXT_CACHE_SIZE:
                self._texts.pop(next(iter(self._texts)))
            with torch.no_grad():
                self._texts[text] = F.normalize(self._encode_text(text)[0].float(), dim=-1).cpu()
        return self._texts[text]

    def _patches_of(self, mask: torch.Tensor, image: torch.Tensor, fit: Fit) -> torch.Tensor:
        """(grid, grid) bool: the patches that the mask touches enough to count."""
        if mask.ndim == 3 and mask.shape[0] == 1:
            mask = mask[0]
        if mask.ndim != 2:
            raise ValueError(f"mask: expected a shape (H, W), got {tuple(mask.shape)}.")
        height, width = image.shape[:2]
        hard = (picture_masks(mask, 1, (height, width), "mask") > 0.5).float()[None]
        if not hard.any():
            raise ValueError(
                "mask: is empty (no value above 0.5), so there is no region to score. Connect a mask of the object."
            )
        if hard.shape[-2:] != (height, width):
            hard = F.interpolate(hard, size=(height, width), mode="area")
        square, _ = fit_to_square(hard[0, 0, :, :, None].expand(-1, -1, 3), self.image_size, fit)
        coverage = patch_coverage(square[:, :1], self.grid)
        chosen = coverage >= MIN_COVERAGE
        # An object smaller than a patch must not vanish.
        return chosen if chosen.any() else coverage >= coverage.max()

    def _encode_image(self, pixels: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Projected feature (1, D) of normalised pixels (1, 3, S, S), with ``bias`` added to the attention logits."""
        vision = self.model.vision_model
        weight = vision.embeddings.patch_embedding.weight
        pixels, bias = (part.to(weight.device, weight.dtype) for part in (pixels, bias))
        hidden = vision.pre_layrnorm(vision.embeddings(pixels))
        hidden = vision.encoder(inputs_embeds=hidden, attention_mask=bias)[0]
        return self.model.visual_projection(vision.post_layernorm(hidden[:, 0]))

    def _encode_text(self, text: str) -> torch.Tensor:
        """Projected feature (1, D) of a text."""
        device = self.model.text_projection.weight.device
        inputs = {key: value.to(device) for key, value in self.tokenize([text]).items()}
        return self.model.text_projection(self.model.text_model(**inputs)[1])


def attention_bias(region: torch.Tensor, mode: MaskMode) -> torch.Tensor:
    """What is added to every attention logit: (1, 1, 1 + g², 1 + g²) for a (g, g) bool region, class token first.

    The class token may always be attended to. Blocking holds for every query, so that nothing of a blocked patch
    reaches the class token by way of an allowed one. ``published_bias`` adds its 1 only where query and key both
    belong to the region or are the class token.
    """
    allowed = torch.cat([torch.ones(1, dtype=torch.bool), region.flatten()])
    if mode == "published_bias":
        return torch.outer(allowed, allowed).float()[None, None]
    row = torch.zeros(allowed.numel()).masked_fill(~allowed, float("-inf"))
    return row.expand(1, 1, allowed.numel(), allowed.numel())


def fit_to_square(image: torch.Tensor, size: int, fit: Fit) -> tuple[torch.Tensor, torch.Tensor]:
    """Resize (H, W, 3) to a square without cropping.

    Returns:
        pixels (1, 3, size, size) and inside (1, 1, size, size), 1 where the picture lies and 0 on the padding.
    """
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[-1] < 3:
        raise ValueError(f"image: expected a shape (H, W, 3), got {tuple(image.shape)}.")
    pixels = image[..., :3].detach().float().cpu().movedim(-1, 0)[None]
    if not torch.isfinite(pixels).all():
        raise ValueError("image: holds NaN or infinite values. Check the nodes before this one.")
    height, width = pixels.shape[-2:]
    if fit == "stretch":
        new_height = new_width = size
    elif fit == "pad":
        scale = size / max(height, width)
        new_height, new_width = (max(1, round(side * scale)) for side in (height, width))
    else:
        raise ValueError(f"fit: {fit!r} is not one of pad, stretch.")
    if (height, width) != (new_height, new_width):
        pixels = F.interpolate(pixels, (new_height, new_width), mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    padding = (left, size - new_width - left, top, size - new_height - top)
    inside = F.pad(torch.ones(1, 1, new_height, new_width), padding)
    return F.pad(pixels, padding), inside


def patch_coverage(mask: torch.Tensor, grid: int) -> torch.Tensor:
    """Share of each patch that lies in the mask: (1, 1, S, S) → (grid, grid)."""
    patch = mask.shape[-1] // grid
    return F.avg_pool2d(mask, patch, patch)[0, 0, :grid, :grid]


def _image_statistics(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return OPENAI_MEAN, OPENAI_STD
    config = read_json(file, WHERE_TO_GET)
    mean, std = config.get("image_mean", OPENAI_MEAN), config.get("image_std", OPENAI_STD)
    lists = all(isinstance(one, list | tuple) and len(one) == 3 for one in (mean, std))
    if not lists or not all(isinstance(value, int | float) for value in (*mean, *std)) or min(std) <= 0:
        raise ValueError(
            f"'{file}': image_mean and image_std must hold three values each, and std be above 0. Get the model's own "
            "file again."
        )
    return mean, std


def warn_cut(text: str, limit: int) -> None:
    """Say that a text is longer than CLIP's context of ``limit`` tokens: what stands at its end does not count."""
    logging.warning(
        "PartEdit: CLIP reads %d tokens, and the text to score, '%s …', is longer: only its beginning counts. Score a "
        "shorter text; what the object becomes has to be in it.",
        limit,
        text[:60],
    )


def _tokenize_with(tokenizer: Callable[..., Any], model: Any) -> Callable[[Sequence[str]], dict[str, torch.Tensor]]:
    limit = int(model.text_model.config.max_position_embeddings)

    def tokenize(texts: Sequence[str]) -> dict[str, torch.Tensor]:
        if hasattr(tokenizer, "model_max_length"):
            lengths = map(len, tokenizer(list(texts), verbose=False)["input_ids"])
            for text in (text for text, length in zip(texts, lengths, strict=True) if length > limit):
                warn_cut(text, limit)
            found = tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        else:
            found = tokenizer(list(texts))
        kept = {key: torch.as_tensor(found[key]) for key in ("input_ids", "attention_mask") if key in found}
        if kept["input_ids"].shape[-1] > limit:
            raise ValueError(
                f"tokenizer: gave {kept['input_ids'].shape[-1]} tokens, but the text tower takes {limit}. Use its own."
            )
        return kept

    return tokenize
