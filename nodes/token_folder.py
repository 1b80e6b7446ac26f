"""ComfyUI's part token folders: listing, finding and saving tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

import folder_paths

from ..core.files import safe_file_name
from ..core.partedit.published import published_names, published_token, published_tokens, where_to_get
from ..core.partedit.token_facts import token_content, token_facts
from ..core.partedit.token_files import clean_text, load_token, save_token
from ..core.partedit.token_names import NOT_INSTALLED, find_listed, is_token_file
from ..core.partedit.token_pictures import ENDINGS, keep_picture
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
    if not isinstance(name, str):
        raise ValueError(f"part_token: expected the name of a token file, got {name!r}. Choose one in the list.")
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


def described_tokens(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the editor's picker shows of each entry of the combo widget, by its name there.

    Args:
        names: names of the token files, as `list_tokens` gives them.

    Returns:
        of a file: ``parts``, ``family``, ``iou`` (one for each part), ``held_out``, and ``preview``: the number of its
        folder if a picture of its name lies beside it, which is how ComfyUI serves previews. Of a published token that
        is not installed: ``parts``, ``family``, ``file``, ``folder``, ``url``, ``licence``, ``remark``, ``note``.
        What is unknown is left out. No file is loaded.
    """
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    described: dict[str, dict[str, Any]] = {}
    for name in names:
        number, path = next(((n, f / name) for n, f in enumerate(folders) if (f / name).is_file()), (0, None))
        if path is None:
            continue
        facts = token_facts(path)
        known = {"parts": facts.parts, "family": facts.family, "iou": facts.iou}
        described[name] = {key: list(value) if key != "family" else value for key, value in known.items() if value}
        if facts.iou:
            described[name]["held_out"] = facts.held_out
        # ComfyUI looks for pictures by a pattern, and does not mask these signs in a name.
        if not set("[]*?") & set(str(path)) and any(path.with_suffix(ending).is_file() for ending in ENDINGS):
            described[name]["preview"] = number
    missing = set(published_names(names))
    for token in published_tokens():
        entry = token.file + NOT_INSTALLED
        if entry in missing:
            more = {"remark": token.remark, "note": token.note}
            described[entry] = {
                "parts": [token.part],
                "family": token.family,
                "file": token.file,
                "folder": f"models/{FOLDER}",
                "url": token.url,
                "licence": token.licence,
                **{key: value for key, value in more.items() if value},
            }
    return described


def token_contents(names: Sequence[str]) -> dict[str, str]:
    """{file: a text that changes with its content} of token files, for programs that keep results made with them."""
    found = {name: folder_paths.get_full_path(FOLDER, name) for name in names}
    return {name: token_content(Path(path)) for name, path in found.items() if path is not None}


def user_folder() -> Path | None:
    """Where tokens are put and saved: the first folder that ComfyUI knows, except the pack's own."""
    # The pack's own folder is part of the code: an update would delete what is saved there.
    own = Path(__file__).resolve().parents[1] / "tokens"
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    return next((folder for folder in folders if folder.resolve() != own), None)


def keep_token(token: PartToken, name: str, *, replace: bool = False, note: str = "") -> Path:
    """Save a token into the user's token folder under a plain name, and its picture beside it.

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
    same = False
    if replace and path.exists():
        try:
            same = load_token(path).has_rows_of(token)
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
    if token.picture or not same:
        keep_picture(token.picture, path)
    return path
