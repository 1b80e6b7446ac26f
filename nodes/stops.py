"""Asking a running node to end early and keep what it has: the one route that the pack adds to ComfyUI's server.

ComfyUI can only cancel a whole prompt, which gives no result. The route takes the ids of a prompt and of a node that is
running in it, sets a flag that the node looks at, and does nothing else.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

PATH = "/partedit/stop"
# Bytes: two ids.
LONGEST = 2000

_running: dict[tuple[str, str], threading.Event] = {}
_lock = threading.Lock()


def open_stop(prompt: str, node: str) -> threading.Event:
    """From now on a node can be asked to stop: the event is then set. Has to be closed."""
    event = threading.Event()
    with _lock:
        _running[prompt, node] = event
    return event


def close_stop(prompt: str, node: str) -> None:
    """The node has ended."""
    with _lock:
        _running.pop((prompt, node), None)


def ask(prompt: str, node: str) -> bool:
    """Ask a node to stop; False if no such node is running."""
    with _lock:
        event = _running.get((prompt, node))
    if event is not None:
        event.set()
    return event is not None


def answer(body: bytes) -> tuple[int, dict[str, Any]]:
    """Status and content of the answer to a request."""
    try:
        asked = json.loads(body)
        prompt, node = asked["prompt_id"], asked["node"]
    except (ValueError, TypeError, KeyError, RecursionError):
        prompt = node = None
    if not isinstance(prompt, str) or not isinstance(node, str):
        return 400, {"error": 'expected {"prompt_id": "…", "node": "…"}'}
    if not ask(prompt, node):
        return 404, {"error": "this node is not running, or cannot be stopped yet"}
    return 200, {"stopping": True}


def serve_stops() -> None:
    """Add the route to the running server; without one there is nothing to add to."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    routes = getattr(server, "routes", None)
    # A second copy of the pack would keep the server from starting.
    if routes is None or any(getattr(route, "path", None) == PATH for route in routes):
        return
    from aiohttp import web

    @routes.post(PATH)
    async def stop(request: web.Request) -> web.Response:
        if request.content_length is None or request.content_length > LONGEST:
            return web.json_response({"error": f"expected at most {LONGEST} bytes"}, status=413)
        status, content = answer(await request.read())
        return web.json_response(content, status=status)
