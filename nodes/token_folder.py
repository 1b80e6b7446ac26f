"""ComfyUI's part token folders: listing, finding and saving tokens."""

from __future__ import annotations

from dataclasses import replace as replace_fields
from pathlib import Path

import folder_paths

from ..core.files import safe_file_name
from ..core.partedit.published import published_token, where_to_get
from ..core.partedit.token_files import clean_text, load_token, save_token
from ..core.partedit.token_names import find_listed, is_token_file
from ..core.partedit.tokens import PartToken
from ..core.version import VERSION

FOLDER = "part_tokens"


def list_tokens() -> list[str]:
    """Names of the token files that ComfyUI knows: in models/part_tokens, extra_model_paths, and the pack."""
    return [name for name in folder_paths.get_filename_list(FOLDER) if is_token_file(name)]


def find_token(name: str) -> Path:
    """Path of the token that a name means, see `find_listed`: also a published one that has been saved meanwhile.

    Raises:
        ValueError: no listed file fits (a name is never used as a path itself), or several do.
    """
    published = published_token(name)
    file = find_listed(name, list_tokens(), () if published is None else (published.stem,))
    path = None if file is None else folder_paths.get_full_path(FOLDER, file)
    if path is None:
        shown = name if name.isprintable() else ascii(name)
        folder = user_folder()
        new = "" if folder is None or folder.is_dir() else " (create this folder)"
        help_with = where_to_get(name, f"{folder or f'models/{FOLDER}'}{new}")
        if help_with is None:
            folders = " or ".join(folder_paths.get_folder_paths(FOLDER))
            help_with = f"{shown!r} is not among the token files. Put it into {folders}."
        raise ValueError(f"part_token: {help_with}")
    return Path(path)


def user_folder() -> Path | None:
    """Where tokens are put and saved: the first folder that ComfyUI knows, except the pack's own."""
    # The pack's own folder is part of the code: an update would delete what is saved there.
    own = Path(__file__).resolve().parents[1] / "tokens"
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    return next((folder for folder in folders if folder.resolve() != own), None)


def keep_token(token: PartToken, name: str, *, replace: bool = False, note: str = "") -> Path:
    """Save a token into the user's token folder under a plain name.

    Args:
        name: see `safe_file_name`; the extension of a token file is dropped.
        replace: overwrite a token of that name; otherwise a number is added.
        note: stored as metadata.

    Returns:
        The file's path.

    Raises:
        ValueError: an invalid name, or a file of that name that is not a token.
    """
    stem = safe_file_name(name)
    stem = safe_file_name(stem[: -len(Path(stem).suffix)] if is_token_file(stem) else stem)
    folder = user_folder()
    if folder is None:
        raise ValueError(f"file_name: ComfyUI has no models/{FOLDER} folder to save to. Create it and restart ComfyUI.")
    folder.mkdir(parents=True, exist_ok=True)
    path, number = folder / f"{stem}.safetensors", 1
    if replace and path.exists():
        try:
            load_token(path)
        except ValueError as error:
            raise ValueError(
                f"file_name: {path} exists and is not a part token, so it was not replaced. Choose another name."
            ) from error
    while not replace and path.exists():
        number += 1
        path = folder / f"{stem}_{number}.safetensors"
    metadata = {**token.metadata, "pack_version": VERSION}
    if note.strip():
        metadata["note"] = clean_text(note)
    save_token(replace_fields(token, metadata=metadata), path)
    return path
