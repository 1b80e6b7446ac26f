"""Finding models in ComfyUI's folders, and handing them to its memory management."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from comfy.patcher_extension import CallbacksMP

from ..core.files import FileState, comparable_path, file_state

# Shown by a loader whose folder is empty. Choosing it gives an error that says which file to put where.
NONE_FOUND = "(none found)"
# Of the checkpoints in folders that also hold single files.
FILE_SUFFIXES = {"sams": (".pth", ".pt", ".safetensors"), "clip_scorers": (".safetensors",)}


def model_folders(kind: str) -> list[str]:
    """Names of the transformers folders (those with a config.json) below the registered folders of ``kind``, sorted."""
    found = set()
    for root in folder_paths.get_folder_paths(kind):
        base = Path(root)
        if base.is_dir():
            found |= {entry.name for entry in base.iterdir() if (entry / "config.json").is_file()}
    return sorted(found)


def listed(name: str, names: Sequence[str]) -> str | None:
    """The entry of a list that a name means: itself, or the only one of the same name, see `comparable_path`."""
    if name in names:
        return name
    fits = [one for one in names if isinstance(name, str) and comparable_path(one) == comparable_path(name)]
    return fits[0] if len(fits) == 1 else None


def model_folder(kind: str, name: str, where: str) -> Path:
    """Path of one of `model_folders`; any other name is refused, so a name never leaves its folder.

    Raises:
        ValueError: there is none of that name; the message says where to get one and where to put it.
    """
    folder = listed(name, model_folders(kind))
    if folder is not None:
        for root in folder_paths.get_folder_paths(kind):
            if (Path(root) / folder / "config.json").is_file():
                return Path(root) / folder
    places = " or ".join(folder_paths.get_folder_paths(kind))
    raise ValueError(f"model: no folder {name!r} with a transformers model in {places}. {where}.")


def model_files(kind: str) -> list[str]:
    """Names of the files that ComfyUI lists under ``kind``, without those that the pack cannot read."""
    names = folder_paths.get_filename_list(kind)
    return [name for name in names if Path(name).suffix.lower() in FILE_SUFFIXES[kind]]


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


def loose_files(kind: str) -> list[str]:
    """`model_files` that are not part of one of the `model_folders`."""
    folders = model_folders(kind)
    return [name for name in model_files(kind) if Path(name.replace("\\", "/")).parts[0] not in folders]


def folder_or_file(kind: str, name: str, where: str, entry: str = "model") -> Path:
    """Path of one of `model_folders` or `loose_files`; any other name is refused.

    Args:
        entry: the input that holds the name.

    Raises:
        ValueError: nothing of that name is there; the message says where it is published and where it belongs.
    """
    file = listed(name, loose_files(kind))
    if file is not None:
        return model_file(kind, file, where)
    folder = listed(name, model_folders(kind))
    if folder is not None:
        return model_folder(kind, folder, where)
    places = " or ".join(folder_paths.get_folder_paths(kind))
    raise ValueError(f"{entry}: no file or folder {name!r} in {places}. {where}.")


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


def files_state(path: Path) -> tuple[tuple[str, FileState], ...]:
    """What changes when a model's file, or one of the files of its folder, does; see `file_state`."""
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    return tuple((file.name, file_state(file)) for file in files)


def model_fingerprint(find: Callable[[str, str, str], Path], kind: str, name: str | None, where: str) -> str | None:
    """For a node's ``fingerprint_inputs``: changes when another model has taken the place of the one of this name."""
    if name is None:  # linked: decided by the other node's inputs
        return None
    try:
        path = find(kind, name, where)
        return f"{path}: {files_state(path)}"
    except (ValueError, OSError):
        return str(name)


class _Held(torch.nn.Module):
    """ComfyUI sets ``device`` on the modules it manages, which transformers and SAM models do not allow."""

    def __init__(self, inner: torch.nn.Module):
        super().__init__()
        self.inner = inner


def managed(model: Any, on_unload: Callable[[], None] | None = None) -> Callable[[], None]:
    """Hand a torch module to ComfyUI's memory management; call the result before each use to load it to the device.

    Args:
        on_unload: called after ComfyUI has unloaded the model to make room, when it may be let go of.
    """
    patcher = comfy.model_patcher.ModelPatcher(
        _Held(model),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )

    def detached(_: Any, unloaded: bool) -> None:
        # Models that are asked for again are detached, too, but keep their weights where they are.
        if on_unload is None or not unloaded:
            return
        # ComfyUI is walking its list of models; one that vanishes meanwhile would be taken from it twice.
        for entry in comfy.model_management.current_loaded_models:
            if entry.model is patcher:
                weakref.finalize(entry, on_unload).atexit = False

    patcher.add_callback(CallbacksMP.ON_DETACH, detached)

    def prepare() -> None:
        comfy.model_management.load_models_gpu([patcher], force_full_load=True)

    return prepare


Loaded = TypeVar("Loaded")


class KeptModel(Generic[Loaded]):
    """The last model that a node without a loader node of its own has read, until ComfyUI unloads it.

    A file of the folder that has changed makes it be read again.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._model: Loaded | None = None

    def get(self, folder: Path, load: Callable[..., Loaded]) -> Loaded:
        """The model of ``folder``. ``load`` gets the folder and, as ``manage``, what hands a module to ComfyUI."""
        key = (folder, files_state(folder))
        if self._model is None or key != self._key:
            self._key, self._model = None, None

            def drop() -> None:
                if self._key is key:
                    self._key, self._model = None, None

            self._model = load(folder, manage=lambda module: managed(module, drop))
            self._key = key
        return self._model
