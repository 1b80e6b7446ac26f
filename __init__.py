"""ComfyUI-PartEdit-OIR: edit one part of an object, or several objects at once, by text.

This file only registers the pack with ComfyUI: its model folders, its web folder and its nodes.
"""

from __future__ import annotations

import logging
import os
import re

import folder_paths

from .core.partedit.token_names import SUFFIXES
from .nodes import PartEditOIRExtension, comfy_entrypoint
from .nodes.folders import FILE_SUFFIXES

WEB_DIRECTORY = "./js"

# Folders in ComfyUI's models directory. An empty set of extensions lists every file, as folders with whole transformers
# models need.
MODEL_FOLDERS: dict[str, set[str]] = {
    "part_tokens": set(SUFFIXES),
    "sams": set(FILE_SUFFIXES["sams"]),
    "grounding": set(),
    "clip_scorers": set(FILE_SUFFIXES["clip_scorers"]),
    "captioners": set(),
}


def _register_model_folders() -> None:
    for name, extensions in MODEL_FOLDERS.items():
        is_new = name not in folder_paths.folder_names_and_paths
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
        # Another pack may have made the entry, with a set that it shares with other folders, or with an empty one, as
        # extra_model_paths.yaml does too: that lists every file, and `nodes.folders` picks those that can be read.
        paths, known = folder_paths.folder_names_and_paths[name]
        if is_new or known:
            folder_paths.folder_names_and_paths[name] = (paths, set(known) | extensions)
    # The pack's own tokens come after the user's, so saving never writes into the pack.
    folder_paths.add_model_folder_path("part_tokens", os.path.join(os.path.dirname(__file__), "tokens"))


def _check_folder_name(folder: str) -> None:
    """Warn if ComfyUI's web server will find nothing here: it does not, under a name that addresses have to quote."""
    name = os.path.basename(folder)
    if not re.fullmatch(r"[\w.~!$&'()*+,;=:@-]+", name, re.ASCII):
        logging.warning(
            "PartEdit + OIR: ComfyUI's web server may find no file in a folder called %r; then widgets, help pages and "
            "templates are missing in the editor. Give it a name without spaces, accents and brackets, such as "
            "ComfyUI-PartEdit-OIR, and restart ComfyUI.",
            name,
        )


_register_model_folders()
_check_folder_name(os.path.dirname(os.path.abspath(__file__)))

__all__ = ["WEB_DIRECTORY", "PartEditOIRExtension", "comfy_entrypoint"]
