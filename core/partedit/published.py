"""The part tokens that PartEdit's authors publish, and where to get them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .token_names import NOT_INSTALLED, token_stem

INDEX_FILE = Path(__file__).resolve().parents[2] / "tokens" / "index.json"


@dataclass(frozen=True)
class PublishedToken:
    """An entry of the index: a token that PartEdit's authors publish and this pack does not redistribute.

    Attributes:
        file: name of the published file, and in ComfyUI's folder.
        part: name of its part.
        url: address of the file.
        remark: the authors' own, or "".
        also: other names it is known by.
        note: what else to know, or "".
        licence: of the data set it belongs to.
        shape: (rows, width) of its embedding.
        family: model family it is for.
    """

    file: str
    part: str
    url: str
    remark: str
    also: tuple[str, ...]
    note: str
    licence: str
    shape: tuple[int, int]
    family: str

    @property
    def stem(self) -> str:
        """Its file's name as names of tokens are compared, see `token_names.token_stem`."""
        return token_stem(self.file)


@lru_cache(maxsize=1)
def published_tokens() -> tuple[PublishedToken, ...]:
    """The tokens that PartEdit's authors publish, from ``tokens/index.json``."""
    index = json.loads(INDEX_FILE.read_text(encoding="utf-8"))
    rows, width = index["shape"]
    return tuple(
        PublishedToken(
            entry["file"],
            entry["part"],
            entry["url"],
            entry.get("remark", ""),
            tuple(entry["also"]),
            entry.get("note", ""),
            index["licence"],
            (rows, width),
            index["model_family"],
        )
        for entry in index["tokens"]
    )


def published_token(name: str) -> PublishedToken | None:
    """The published token that a name means: its file's, whatever the case and suffix, or another it is known by."""
    stem = token_stem(name)
    return next((token for token in published_tokens() if stem == token.stem or stem in token.also), None)


def published_names(installed: Sequence[str]) -> list[str]:
    """Entries for a combo widget: published tokens that are not installed, marked as such."""
    stems = {token_stem(name) for name in installed}
    return [token.file + NOT_INSTALLED for token in published_tokens() if token.stem not in stems]


def where_to_get(name: str, folder: str) -> str | None:
    """For a published token, sentences on where to get it and where to put it; None for any other name."""
    token = published_token(name)
    if token is None:
        return None
    called = token.file if token_stem(name) == token.stem else f"{token_stem(name)}, in full {token.file},"
    remark = f"; its authors: {token.remark}" if token.remark else ""
    return (
        f"{called} ({token.part}{remark}) is published by PartEdit's authors and is not part of this pack. Download "
        f"{token.url} and save it as {token.file} in {folder}; nothing needs to be changed in the workflow. Licence: "
        f"{token.licence} {token.note}"
    ).strip()
