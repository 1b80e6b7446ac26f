"""A whole CLIP from one ``.safetensors`` file: its configuration follows from the shapes of its tensors.

What shapes do not tell is the same in all published CLIPs: text heads are 64 wide, the vocabulary is the one that
ComfyUI brings along, and the pixel statistics are OpenAI's. The width of a vision tower tells how many heads it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from .clip_scorer import ClipScorer
from .pretrained import brief

Activation = Literal["auto", "quick_gelu", "gelu"]
WHERE_TO_GET = (
    "Get one from huggingface.co: model.safetensors of 'openai/clip-vit-large-patch14', under any name. Of CLIP base, "
    "'openai/clip-vit-base-patch32', put the files with config.json and the tokenizer's into a folder instead"
)
ACTIVATIONS: tuple[Activation, ...] = ("auto", "quick_gelu", "gelu")

START, END = 49406, 49407
VOCABULARY = 49408
HEAD_WIDTH = 64
# OpenCLIP's large vision towers have other heads (H, g, bigG).
VISION_HEADS = {1280: 16, 1408: 16, 1664: 16}
TEXT_WIDTHS_OF_OPENCLIP = (1024, 1280)
_EMBEDDING = "text_model.embeddings.token_embedding.weight"
_PATCHES = "vision_model.embeddings.patch_embedding.weight"


def scorer_from_file(
    path: str | Path,
    *,
    activation: Activation = "auto",
    manage: Callable[[Any], Callable[[], None]] | None = None,
) -> ClipScorer:
    """A scorer from one file of a whole CLIP; nothing is downloaded, and the file holds nothing but tensors.

    Args:
        activation: see `read_clip`.
        manage: gets the model and returns what becomes `ClipScorer.prepare`.

    Raises:
        FileNotFoundError, ValueError: see `read_clip`.
    """
    path = Path(path)
    model = read_clip(path, activation)
    prepare = None if manage is None else manage(model)
    return ClipScorer.from_parts(model, clip_tokenizer(), name=path.stem, prepare=prepare)


def read_clip(path: Path, activation: Activation = "auto") -> Any:
    """A ``transformers.CLIPModel`` in evaluation mode from a file in transformers' or OpenCLIP's format.

    Args:
        activation: ``gelu`` or ``quick_gelu``, which no tensor tells. ``auto`` takes what the format takes when nothing
            is said: quick_gelu in transformers' (all of OpenAI's), gelu in OpenCLIP's, and gelu for the sizes that only
            OpenCLIP has (H, g, bigG).

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or holds something other than a whole CLIP; the message says what to load.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: {activation!r} is not one of {', '.join(ACTIVATIONS)}.")
    if not path.is_file():
        raise FileNotFoundError(f"CLIP file '{path}' does not exist. {WHERE_TO_GET}.")
    from safetensors.torch import load_file

    try:
        state = load_file(str(path), device="cpu")
    except Exception as error:  # safetensors raises types of its own
        raise ValueError(
            f"'{path.name}' could not be read as safetensors ({error}): it is incomplete, or of another format. "
            "Download it again."
        ) from error
    state, opened = to_transformers(state)
    check_whole(state, path.name)
    config = clip_config(state, path.name, _act(state, activation, opened))
    from transformers import CLIPModel

    try:
        model, info = CLIPModel.from_pretrained(
            None,
            config=config,
            state_dict=state,
            local_files_only=True,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except Exception as error:
        raise ValueError(f"'{path.name}' does not fit a CLIP model: {brief(error)}. {WHERE_TO_GET}.") from error
    missing = sorted(name for name in info["missing_keys"] if not name.endswith(("position_ids", "logit_scale")))
    if missing:
        raise ValueError(
            f"'{path.name}' is not complete: {len(missing)} tensors are missing, the first is {missing[0]!r}. "
            f"{WHERE_TO_GET}."
        )
    return model.float().eval().requires_grad_(False)


def to_transformers(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], bool]:
    """The state dict with transformers' names, and whether it came with OpenCLIP's."""
    if "visual.transformer.resblocks.0.attn.in_proj_weight" not in state:
        return state, False
    import comfy.clip_vision
    import comfy.utils

    state = comfy.clip_vision.convert_to_transformers(dict(state), "visual.")
    state = comfy.utils.clip_text_transformers_convert(state, "", "")
    return {name: tensor.contiguous() for name, tensor in state.items()}, True


def check_whole(state: dict[str, torch.Tensor], name: str) -> None:
    """Refuse what holds one tower only, or no CLIP at all.

    Raises:
        ValueError: the message names what is missing and where the file belongs.
    """
    text, vision = _EMBEDDING in state, _PATCHES in state
    if text and vision and {"text_projection.weight", "visual_projection.weight"} <= state.keys():
        return
    if vision and not text:
        what = "holds the vision tower alone. It belongs into models/clip_vision, for CLIP Scorer from Models"
    elif text and not vision:
        what = "holds the text tower alone"
    elif text and vision:
        what = "has no projection into a space that pictures and texts share, as CLIP has"
    else:
        what = "is no CLIP with a vision transformer"
    raise ValueError(f"'{name}' {what}. Load a file that holds both towers of a CLIP. {WHERE_TO_GET}.")


def clip_config(state: dict[str, torch.Tensor], name: str, activation: str) -> Any:
    """The ``CLIPConfig`` that the tensors' shapes describe.

    Raises:
        ValueError: a vocabulary other than CLIP's, or shapes that no published CLIP has.
    """
    from transformers import CLIPConfig

    try:
        words, text_width = state[_EMBEDDING].shape
        vision_width, channels, patch, _ = state[_PATCHES].shape
        places = state["vision_model.embeddings.position_embedding.weight"].shape[0]
        text = {
            "vocab_size": words,
            "hidden_size": text_width,
            "intermediate_size": state["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": _layers(state, "text_model.encoder.layers."),
            "num_attention_heads": text_width // HEAD_WIDTH,
            "max_position_embeddings": state["text_model.embeddings.position_embedding.weight"].shape[0],
            "hidden_act": activation,
            "bos_token_id": START,
            "eos_token_id": END,
            "pad_token_id": END,
        }
        grid = math.isqrt(places - 1)
        vision = {
            "hidden_size": vision_width,
            "intermediate_size": state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": _layers(state, "vision_model.encoder.layers."),
            "num_attention_heads": VISION_HEADS.get(vision_width, vision_width // HEAD_WIDTH),
            "num_channels": channels,
            "patch_size": patch,
            "image_size": grid * patch,
            "hidden_act": activation,
        }
    except (KeyError, ValueError) as error:
        raise ValueError(f"'{name}' is not a CLIP with a vision transformer ({error}). {WHERE_TO_GET}.") from error
    if words != VOCABULARY:
        raise ValueError(
            f"'{name}' has a vocabulary of {words} tokens, CLIP's has {VOCABULARY}; a model with another tokenizer "
            "needs its whole folder."
        )
    if (
        grid * grid != places - 1
        or text_width % HEAD_WIDTH
        or (vision_width % HEAD_WIDTH and vision_width not in VISION_HEADS)
    ):
        raise ValueError(
            f"'{name}' has {places} places and widths of {text_width} (text) and {vision_width} (vision), as no "
            "published CLIP has, so its number of attention heads is unknown. "
            "Load it as a whole folder with its config.json."
        )
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=state["text_projection.weight"].shape[0])


def clip_tokenizer() -> Any:
    """CLIP's tokenizer, from the files that ComfyUI brings along."""
    import comfy.sd1_clip
    from transformers import CLIPTokenizer

    folder = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _act(state: dict[str, torch.Tensor], activation: Activation, opened: bool) -> str:
    if activation != "auto":
        return activation
    openclip = (
        opened or state[_EMBEDDING].shape[-1] in TEXT_WIDTHS_OF_OPENCLIP or state[_PATCHES].shape[0] in VISION_HEADS
    )
    return "gelu" if openclip else "quick_gelu"


def _layers(state: dict[str, torch.Tensor], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})
