"""The part tokens that PartEdit's authors publish, and where to get them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

INDEX_FILE = Path(__file__).resolve().parents[2] / "tokens" / "index.json"
NOT_INSTALLED = " (published, not installed)"


@dataclass(frozen=True)
class PublishedToken:
    """An entry of the index: a token that PartEdit's authors publish and this pack does not redistribute."""

    name: str
    part: str
    repository: str
    file: str
    shape: tuple[int, ...]
    note: str


@lru_cache(maxsize=1)
def published_tokens() -> tuple[PublishedToken, ...]:
    """The tokens that PartEdit's authors publish, from ``tokens/index.json``."""
    index = json.loads(INDEX_FILE.read_text(encoding="utf-8"))
    return tuple(
        PublishedToken(
            entry["name"],
            entry["part"],
            index["repository"],
            entry.get("file") or "",
            tuple(index["shape"]),
            entry.get("note") or "",
        )
        for entry in index["tokens"]
    )


def published_names(installed: list[str]) -> list[str]:
    """Entries for a combo widget: published tokens that are not installed, marked as such."""
    stems = {Path(name).stem.lower() for name in installed}
    return [token.name + NOT_INSTALLED for token in published_tokens() if token.name.lower() not in stems]


def where_to_get(name: str, folder: str) -> str | None:
    """For a published token, a sentence on where to get it and where to put it; None for any other name."""
    stem = Path(name.removesuffix(NOT_INSTALLED)).stem.lower()
    token = next((token for token in published_tokens() if token.name.lower() == stem), None)
    if token is None:
        return None
    index = json.loads(INDEX_FILE.read_text(encoding="utf-8"))
    file = f"the file {token.file}" if token.file else index["file_hint"]
    sentence = (
        f"{token.name!r} ({token.part}) is published by PartEdit's authors and is not part of this pack. Get {file} "
        f"from {token.repository} and save it as {token.name}.safetensors or {token.name}.pt in {folder}. Licence: "
        f"{index['licence']}"
    )
    return f"{sentence} {token.note}".strip()
