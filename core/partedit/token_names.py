"""Names of part token files: which suffixes they have, and which file a name in a workflow means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from ..files import comparable_path

# safetensors first: of files that differ in their suffix only, the first kind is taken.
SAFE_SUFFIXES = (".safetensors", ".sft")
SUFFIXES = (*SAFE_SUFFIXES, ".pt", ".pth", ".bin", ".ckpt")
NOT_INSTALLED = " (published, not installed)"


def is_token_file(name: str) -> bool:
    """Whether a file of that name may hold a token; like ComfyUI's own lists, in any case: X.SAFETENSORS."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def token_path(name: str) -> str:
    """A name as it is compared: `comparable_path` without the suffix of a token file."""
    name = comparable_path(name.removesuffix(NOT_INSTALLED))
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
    return name.removesuffix(suffix)


def token_stem(name: str) -> str:
    """`token_path` without its folders."""
    return token_path(name).rpartition("/")[2]


def find_listed(name: str, listed: Sequence[str], stems: Iterable[str] = ()) -> str | None:
    """The file of a list that a name means: itself; or one of the same name, whatever its case and its suffix; or one
    of that name in another folder.

    Args:
        name: as a workflow has it.
        listed: names of files, with their folders.
        stems: further names to look for, as `token_stem` gives them.

    Raises:
        ValueError: several files fit, and they differ in more than their suffix.
    """
    if name in listed:
        return name
    if any(piece in ("", ".", "..", "~") or ":" in piece for piece in token_path(name).split("/")):
        return None  # it leads out of the folder of tokens, and means no file in it
    for fits in (
        [file for file in listed if token_path(file) == token_path(name)],
        *([file for file in listed if token_stem(file) == stem] for stem in (token_stem(name), *stems)),
    ):
        if len({file[: -len(PurePosixPath(file).suffix)] for file in fits}) > 1:
            raise ValueError(
                f"part_token: {name!r} may be {', '.join(map(repr, sorted(fits)))}. Choose one of these in the list."
            )
        if fits:
            return min(fits, key=lambda file: SUFFIXES.index(PurePosixPath(file).suffix.lower()))
    return None
