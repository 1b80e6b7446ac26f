"""What a node shows in the editor while it runs, and the pictures it leaves there.

Messages go to the page that queued the prompt, over the connection that ComfyUI has with it; pictures are files in
ComfyUI's temporary folder, which the page fetches as it fetches previews. Without a server, or without a page that
listens, there is nobody to send to: `watching` gives None, and a node does nothing of this.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import folder_paths

from ..core.files import whole_file

EVENT = "partedit.live"
SUBFOLDER = "partedit"
# Seconds between two messages about steps; a fast model takes more steps than an eye can follow.
PAUSE = 0.1


class Page:
    """The page that queued the running prompt, and the node that it is shown.

    Args:
        server: ComfyUI's server.
        client: id of the page's connection.
        node, prompt: ids of the running node and its prompt.
    """

    def __init__(self, server: Any, client: str, node: str, prompt: str | None) -> None:
        self._server, self._client, self._node, self._prompt = server, client, node, prompt
        self._sent, self._worker = 0.0, ThreadPoolExecutor(1, "PartEdit editor")
        self._job: Future[None] | None = None

    @property
    def ids(self) -> tuple[str, str]:
        """Of the running prompt and its node."""
        return str(self._prompt), self._node

    def free(self) -> bool:
        """Whether the last message is out, and long enough ago for another one that may be left out."""
        return (self._job is None or self._job.done()) and time.monotonic() - self._sent >= PAUSE

    def send(self, kind: str, make: Callable[[], dict[str, Any]]) -> None:
        """Send a message in another thread, so that the run goes on meanwhile.

        Args:
            make: gives its content; bytes, and bytes in a list, travel as base64.
        """
        self._sent = time.monotonic()
        self._job = self._worker.submit(self._send, kind, make)

    def finish(self) -> None:
        """Wait for the messages sent so far: what a node shows at its end comes after them."""
        if self._job is not None:
            self._job.result()

    def _send(self, kind: str, make: Callable[[], dict[str, Any]]) -> None:
        try:
            data = {key: _as_text(value) for key, value in make().items()}
            self._server.send_sync(
                EVENT, {**data, "kind": kind, "node": self._node, "prompt_id": self._prompt}, self._client
            )
        except Exception as error:  # a page that has gone is no reason to stop a run
            logging.warning("PartEdit: the editor could not be shown the running node: %s", error)

    def holds(self, file: dict[str, str] | None) -> bool:
        """Whether a picture that `save` once kept is still there: the temporary folder may be emptied meanwhile."""
        return file is not None and self._path(file["filename"]).is_file()

    def _path(self, name: str) -> Path:
        return Path(folder_paths.get_temp_directory()) / SUBFOLDER / name

    def save(self, data: bytes, ending: str) -> dict[str, str] | None:
        """Keep a picture in the temporary folder under the hash of its bytes.

        Returns:
            what /view asks for, as in the outputs of Preview Image; None, with a warning, if it cannot be written.
        """
        name = f"{hashlib.sha256(data).hexdigest()[:24]}.{ending}"
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                with whole_file(path) as unfinished:
                    unfinished.write_bytes(data)
        except OSError as error:
            logging.warning("PartEdit: a picture for the editor could not be written: %s", error)
            return None
        return {"filename": name, "subfolder": SUBFOLDER, "type": "temp"}


def _as_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return [_as_text(one) for one in value] if isinstance(value, list) else value


def watching() -> Page | None:
    """The page that listens to the node being executed; None without one."""
    # Looked up, not imported: without a running server there is nothing to find, and nothing to load.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    client = getattr(server, "client_id", None)
    if client is None or client not in getattr(server, "sockets", {}):
        return None
    node, prompt = _running(server)
    return None if node is None else Page(server, client, node, prompt)


def _running(server: Any) -> tuple[str | None, str | None]:
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        context = None
    else:
        context = get_executing_context()
    if context is not None:
        return str(context.node_id), context.prompt_id
    return getattr(server, "last_node_id", None), getattr(server, "last_prompt_id", None)
