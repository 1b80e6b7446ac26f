"""Put the owner of the repository and the publisher of the pack into every file that names them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .host.layout import LINK_NAME, PACK_DIR, SetupError, write_whole

ENDINGS = {".md", ".toml", ".yml", ".yaml"}
ADDRESS = re.compile(rf"(github(?:usercontent)?\.com/)([A-Za-z0-9-]+)(/{LINK_NAME})")
PUBLISHER = re.compile(r'^(PublisherId = )"[^"]*"$', re.MULTILINE)
# What a reader is told as long as nobody has set the owner.
PLACEHOLDER_NOTE = re.compile(r"\s*\(`OWNER` stands for [^)]*\)")
ACCOUNT = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}")
PUBLISHER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def set_owner(owner: str, publisher: str | None = None, root: Path = PACK_DIR) -> list[Path]:
    """Set them in all files; what an earlier call set is replaced too.

    Args:
        owner: the GitHub account or organisation that holds the repository.
        publisher: the publisher's id in the Comfy registry; ``owner`` when left out.
        root: folder of the repository.

    Returns:
        The files that changed.

    Raises:
        SetupError: a name that neither GitHub nor the registry takes; nothing is changed.
    """
    if not ACCOUNT.fullmatch(owner):
        raise SetupError(f"{owner!r} is not a GitHub account. Give its name alone, letters, digits and '-': octocat.")
    publisher = publisher or owner
    if not PUBLISHER_ID.fullmatch(publisher):
        raise SetupError(f"{publisher!r} is not a publisher id. Give the id of registry.comfy.org, such as octocat.")
    project = root / "pyproject.toml"
    found = ADDRESS.search(project.read_text(encoding="utf-8"))
    if found is None:
        raise SetupError(f"{project} names no address of this repository (github.com/OWNER/{LINK_NAME}).")
    before = found[2]

    def addressed(match: re.Match[str]) -> str:
        return match[1] + (owner if match[2] == before else match[2]) + match[3]

    changed = []
    for path in _files(root):
        text = path.read_text(encoding="utf-8")
        new = ADDRESS.sub(addressed, text)
        if path == project:
            new = PUBLISHER.sub(rf'\1"{publisher}"', new)
        elif owner != "OWNER" and path.suffix == ".md":
            new = PLACEHOLDER_NOTE.sub("", new)
        if new != text:
            write_whole(path, new)
            changed.append(path)
    return changed


def _files(root: Path) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(root):
        # .runtime, .git and caches hold much, and nothing of this.
        folders[:] = [name for name in folders if name == ".github" or not name.startswith(".")]
        found += [Path(folder, name) for name in names if Path(name).suffix in ENDINGS]
    return sorted(found)
