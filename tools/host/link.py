"""The link to the pack in a host's ``custom_nodes``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .layout import LINK_NAME, PACK_DIR, Host, SetupError, run_step


def link_pack(host: Host, pack: Path = PACK_DIR) -> str:
    """Make ``custom_nodes/ComfyUI-PartEdit-OIR`` of a host point to this pack; returns the folder's name.

    A pack that was cloned straight into custom_nodes, or linked there under another name, is used as it is.

    Raises:
        SetupError: something else has that name; it is left alone.
    """
    folder = host.root / "custom_nodes"
    folder.mkdir(exist_ok=True)
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and entry.resolve() == pack.resolve():
            return entry.name
    link = folder / LINK_NAME
    if os.path.lexists(link):
        # In the private host, such a link can only be run.py's own, left by a repository that was moved.
        if not (host.private and (link.is_symlink() or not link.exists())):
            raise SetupError(f"{link} exists and is not this pack ({pack}). Move or rename it.")
        unlink_pack(host.root)
    if sys.platform == "win32":
        # A junction needs no administrator rights, a symbolic link does. Quoted by hand: paths may contain &.
        run_step(f'cmd /c mklink /J "{link}" "{pack}"', "linking the pack into custom_nodes")
    else:
        os.symlink(pack, link, target_is_directory=True)
    return link.name


def unlink_pack(root: Path) -> None:
    """Remove the link from the host at ``root``, if there is one."""
    # Removed separately, so that removing the folder above can never reach through a junction into the pack.
    link = root / "custom_nodes" / LINK_NAME
    if link.is_symlink():
        link.unlink()
    elif sys.platform == "win32" and link.exists():
        os.rmdir(link)
