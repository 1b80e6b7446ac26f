"""A stand-in for ComfyUI's server with one page that listens, as far as the pack's nodes ask it."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest


class Listener:
    """The server; ``sent`` has each (event, message)."""

    def __init__(self, fails: bool = False) -> None:
        self.client_id, self.sockets, self.last_node_id = "page", {"page": None}, "7"
        self.last_prompt_id, self.sent, self.fails = "one", [], fails

    def send_sync(self, event: str, data: dict[str, Any], sid: str | None = None) -> None:
        if self.fails:
            raise RuntimeError("Event loop is closed")
        assert sid == "page"
        self.sent.append((event, data))


def listening(monkeypatch: pytest.MonkeyPatch, folder: Path, server: Listener) -> Listener:
    """Put the server where nodes look for it, and ComfyUI's temporary files into the folder.

    There is no pause between messages, so that a test knows how many there are.
    """
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(folder))
    module = types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=server))
    monkeypatch.setitem(sys.modules, "server", module)
    live = importlib.import_module("partedit_oir.nodes.live")
    monkeypatch.setattr(live, "PAUSE", 0.0)
    monkeypatch.setattr(live.Page, "free", lambda page: page.finish() or True)
    return server
