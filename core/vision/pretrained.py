"""Models of transformers from a local folder: nothing is downloaded, and no code of the folder runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def read_config(folder: Path, model_types: Sequence[str], where: str) -> dict[str, Any]:
    """config.json of a transformers folder, checked to be of one of ``model_types``."""
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"'{folder}' holds no config.json. Put a transformers model there. {where}.")
    config = read_json(file, where)
    found = config.get("model_type")
    if found not in model_types:
        raise ValueError(f"'{file}' describes a model of type {found!r}; expected {' or '.join(model_types)}. {where}.")
    return config


def read_json(file: Path, where: str) -> dict[str, Any]:
    """A JSON object; a ValueError names the file if it holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"'{file}' could not be read as JSON: {error}. {where}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{file}' holds no JSON object. {where}.")
    return content


def brief(error: BaseException, limit: int = 300) -> str:
    """What an error says, in one line of bounded length: transformers lists every weight that does not fit.

    Without the full stop at its end.
    """
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= limit else f"{text[:limit]} …"


def load_pretrained(
    kind: Any,
    folder: Path,
    where: str,
    *,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
    whole: bool = False,
) -> Any:
    """``from_pretrained`` of a local folder: no network, no code from the folder, safetensors when there are any.

    With ``whole``, weights that the folder lacks are an error; transformers would draw them.
    """
    safe = any(folder.glob("*.safetensors"))
    if not safe and not any(folder.glob("pytorch_model*.bin")):
        raise FileNotFoundError(f"'{folder}' holds no weights (model.safetensors). Put them there. {where}.")
    options: dict[str, Any] = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    try:
        model, info = kind.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=safe,
            weights_only=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        raise ValueError(
            f"The weights in '{folder}' could not be loaded: {brief(error)}. They may be damaged, or belong to another "
            f"config.json. Get the whole model again. {where}."
        ) from error
    missing = sorted(name for name in info["missing_keys"] if not name.endswith("position_ids"))
    if whole and missing:
        raise ValueError(
            f"The weights in '{folder}' are not complete: {len(missing)} are missing, the first is {missing[0]!r}. "
            f"Get the whole model. {where}."
        )
    return model.to(dtype).eval().requires_grad_(False)
