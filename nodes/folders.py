"""Finding models in ComfyUI's folders, and handing them to its memory management."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch

# Shown by a loader whose folder is empty. Choosing it gives an error that says which file to put where.
NONE_FOUND = "(none found)"


def model_folders(kind: str) -> list[str]:
    """Names of the transformers folders (those with a config.json) below the registered folders of ``kind``, sorted."""
    found = set()
    for root in folder_paths.get_folder_paths(kind):
        base = Path(root)
        if base.is_dir():
            found |= {entry.name for entry in base.iterdir() if (entry / "config.json").is_file()}
    return sorted(found)


def model_folder(kind: str, name: str, where: str) -> Path:
    """Path of one of `model_folders`; any other name is refused, so a name never leaves its folder.

    Raises:
        ValueError: there is none of that name; the message says where to get one and where to put it.
    """
    if name in model_folders(kind):
        for root in folder_paths.get_folder_paths(kind):
            if (Path(root) / name / "config.json").is_file():
                return Path(root) / name
    places = " or ".join(folder_paths.get_folder_paths(kind))
    raise ValueError(f"model: no folder {name!r} with a transformers model in {places}. {where}.")


def model_files(kind: str) -> list[str]:
    """Names of the files that ComfyUI lists under ``kind``."""
    return folder_paths.get_filename_list(kind)


def model_file(kind: str, name: str, where: str) -> Path:
    """Path of a file that `folder_paths` lists under ``kind``; any other name is refused.

    Raises:
        ValueError: there is none of that name; the message says where to get one and where to put it.
    """
    path = folder_paths.get_full_path(kind, name) if name in model_files(kind) else None
    if path is None:
        places = " or ".join(folder_paths.get_folder_paths(kind))
        raise ValueError(f"checkpoint: no file {name!r} in {places}. {where}.")
    return Path(path)


def is_there(find: Callable[[str, str, str], Path], kind: str, name: str | None, where: str) -> bool | str:
    """For a node's ``validate_inputs``: True, or the message of ``find`` about a missing model.

    Without it, ComfyUI rejects a name that is not in the list and only prints the list. A linked name (None) is not
    known before the other node has run.
    """
    try:
        if name is not None:
            find(kind, name, where)
    except ValueError as error:
        return str(error)
    return True


class _Held(torch.nn.Module):
    """ComfyUI sets ``device`` on the modules it manages, which transformers and SAM models do not allow."""

    def __init__(self, inner: torch.nn.Module):
        super().__init__()
        self.inner = inner


def managed(model: Any) -> Callable[[], None]:
    """Hand a torch module to ComfyUI's memory management; call the result before each use to load it to the device."""
    patcher = comfy.model_patcher.ModelPatcher(
        _Held(model),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )

    def prepare() -> None:
        comfy.model_management.load_models_gpu([patcher], force_full_load=True)

    return prepare
