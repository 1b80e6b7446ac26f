"""ComfyUI's HTTP and websocket API: queue a prompt, follow it, fetch what it made.

Needs aiohttp, which ComfyUI brings; run.py itself does without this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

# Loopback must not go through a proxy that the user's environment names.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class PromptError(RuntimeError):
    """The server rejected the prompt, or a node failed while running.

    Attributes:
        node: API id of the failing node, "" when unknown.
        node_type: its class, "" when unknown.
        details: the server's response.
    """

    def __init__(self, message: str, node: str = "", node_type: str = "", details: Any = None) -> None:
        super().__init__(message)
        self.node, self.node_type, self.details = node, node_type, details


@dataclass
class RunResult:
    """What one prompt gave: ``outputs[node id][kind]`` as in /history, seconds, and the nodes that really ran."""

    prompt_id: str
    outputs: dict[str, dict[str, list[Any]]]
    seconds: float
    executed: list[str] = field(default_factory=list)


Progress = Callable[[str, int, int], None]


class Events:
    """The messages that a server sends over its websocket, as a context manager.

    They are read in a thread of their own: the caller's thread may already have a running event loop, and a
    message that takes long to arrive never costs another one.

    Args:
        url: ``ws://host:port/path``.
        timeout: seconds for connecting and for the handshake.

    Raises:
        ConnectionError: nothing listens there, or it does not answer as a websocket server.
        TimeoutError: no answer in time.
    """

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        self.url = url
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._problem: Exception | None = None
        self._connected = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._listening = self._loop.create_task(self._listen(timeout))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._connected.wait()
        if self._problem is not None:
            self._thread.join()
            raise self._problem

    def _run(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._listening)
        finally:
            self._loop.close()
            self._messages.put(None)
            self._connected.set()

    async def _listen(self, timeout: float) -> None:
        async with aiohttp.ClientSession() as session:
            try:
                # Previews of large batches exceed any limit that fits other messages.
                patience = aiohttp.ClientWSTimeout(ws_close=1.0)
                connecting = session.ws_connect(self.url, timeout=patience, max_msg_size=0)
                socket = await asyncio.wait_for(connecting, timeout)
            except asyncio.TimeoutError:
                self._problem = TimeoutError(f"no answer from {self.url} within {timeout:g} s")
                return
            except (aiohttp.ClientError, ValueError, OSError) as error:
                self._problem = ConnectionError(f"no websocket at {self.url}: {error}")
                return
            self._connected.set()
            async with socket:
                async for message in socket:
                    # Binary messages are previews.
                    if message.type == aiohttp.WSMsgType.TEXT:
                        self._messages.put(json.loads(message.data))

    def receive(self, timeout: float) -> dict[str, Any]:
        """The next message.

        Raises:
            TimeoutError: none arrived whole within ``timeout`` seconds; the connection stays usable.
            ConnectionError: the server closed the connection.
        """
        try:
            message = self._messages.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no message from {self.url} within {timeout:g} s") from None
        if message is None:
            self._messages.put(None)
            raise ConnectionError(f"{self.url} closed the connection")
        return message

    def close(self) -> None:
        """Say good-bye and close; safe to call twice."""
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._listening.cancel)
        self._thread.join()

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client:
    """Talks to one server.

    Args:
        base_url: for instance ``http://127.0.0.1:8188``.
        alive: tells whether the server process still runs; without it only the time limit ends a wait.
    """

    def __init__(self, base_url: str, alive: Callable[[], bool] | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self.client_id = uuid.uuid4().hex
        self._alive = alive

    def request(
        self, path: str, data: bytes | None = None, headers: dict[str, str] | None = None, timeout: float = 60.0
    ) -> bytes:
        """GET, or POST when there is data. Raises ``urllib.error.HTTPError`` for a refusing status."""
        request = urllib.request.Request(self.base_url + path, data=data, headers=headers or {})
        with _OPENER.open(request, timeout=timeout) as answer:
            return answer.read()

    def get_json(self, path: str) -> Any:
        return json.loads(self.request(path))

    def post_json(self, path: str, body: Any) -> Any:
        answer = self.request(path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return json.loads(answer) if answer.strip() else None

    def object_info(self) -> dict[str, Any]:
        return self.get_json("/object_info")

    def interrupt(self) -> None:
        self.post_json("/interrupt", {})

    def view(self, item: dict[str, str]) -> bytes:
        """The bytes of one entry of ``outputs[node]["images"]``."""
        keys = {name: item.get(name, "") for name in ("filename", "subfolder", "type")}
        return self.request("/view?" + urllib.parse.urlencode(keys))

    def upload_image(self, path: Path) -> str:
        """Upload an image to the server's input folder; returns its name for LoadImage."""
        return self.upload(path.name, path.read_bytes())

    def upload(self, name: str, data: bytes) -> str:
        """Upload an image's bytes under a name; see `upload_image`."""
        boundary = uuid.uuid4().hex
        body = (
            (
                f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
                f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
                "Content-Type: application/octet-stream\r\n\r\n"
            ).encode()
            + data
            + f"\r\n--{boundary}--\r\n".encode()
        )
        answer = self.request("/upload/image", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
        return json.loads(answer)["name"]

    def submit(self, prompt: dict[str, Any]) -> str:
        """Queue an API-format prompt; returns its id.

        Raises:
            PromptError: validation failed; the message names each node, input and reason.
        """
        try:
            accepted = self.post_json("/prompt", {"prompt": prompt, "client_id": self.client_id})
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            try:
                answer = json.loads(text)
            except ValueError:
                raise PromptError(f"the server refused the prompt: {error.code} {text[:500]}") from None
            raise PromptError(_explain_refusal(answer), details=answer) from None
        # A host runs the outputs that are sound and leaves out the others.
        if accepted.get("node_errors"):
            self.post_json("/queue", {"delete": [accepted["prompt_id"]]})
            self.interrupt()
            raise PromptError(_explain_refusal(accepted), details=accepted)
        return accepted["prompt_id"]

    def run(self, prompt: dict[str, Any], progress: Progress | None = None, limit: float = 600.0) -> RunResult:
        """Queue a prompt and wait for its end.

        Args:
            progress: called with (class of the running node, step, number of steps).
            limit: seconds after which the wait is given up and the run interrupted.

        Raises:
            PromptError: refused, failed, interrupted, or the server died.
            TimeoutError: the limit passed.
        """
        started = time.monotonic()
        address = self.base_url.replace("http://", "ws://", 1) + f"/ws?clientId={self.client_id}"
        executed: list[str] = []
        with Events(address) as events:
            prompt_id = self.submit(prompt)
            while True:
                left = started + limit - time.monotonic()
                if left < 0:
                    # A server that hangs does not answer this either.
                    with contextlib.suppress(OSError):
                        self.interrupt()
                    raise TimeoutError(f"the prompt did not finish within {limit:.0f} s")
                try:
                    event = events.receive(timeout=min(0.5, left))
                except TimeoutError:
                    if self._alive is not None and not self._alive():
                        raise PromptError("the server died while the prompt ran") from None
                    continue
                except ConnectionError:
                    raise PromptError("the server closed the connection while the prompt ran") from None
                data = event.get("data") or {}
                if data.get("prompt_id") not in (None, prompt_id):
                    continue
                if _follow(event["type"], data, prompt, executed, progress):
                    break
        history = self._history(prompt_id)
        return RunResult(prompt_id, history.get("outputs", {}), time.monotonic() - started, executed)

    def _history(self, prompt_id: str) -> dict[str, Any]:
        # The entry is written a moment after the last websocket message.
        for _ in range(100):
            history = self.get_json(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.05)
        raise PromptError(f"the server keeps no history of prompt {prompt_id}")


def _follow(
    kind: str, data: dict[str, Any], prompt: dict[str, Any], executed: list[str], progress: Progress | None
) -> bool:
    """Take one websocket event in; True when the prompt is done."""
    if kind == "execution_error":
        name = data.get("node_type", "")
        text = str(data.get("exception_message", "")).strip()
        raise PromptError(f"{name}: {text}", str(data.get("node_id", "")), name, data)
    if kind == "execution_interrupted":
        raise PromptError("the run was interrupted", str(data.get("node_id", "")), data.get("node_type", ""), data)
    if kind == "execution_success":
        return True
    if kind == "executing":
        node = data.get("node")
        if node is None:
            return True
        executed.append(str(node))
        if progress is not None:
            progress(prompt.get(str(node), {}).get("class_type", str(node)), 0, 0)
    if kind == "progress" and progress is not None:
        name = prompt.get(str(data.get("node")), {}).get("class_type", "")
        progress(name, int(data.get("value", 0)), int(data.get("max", 0)))
    return False


def _explain_refusal(answer: dict[str, Any]) -> str:
    lines = [str((answer.get("error") or {}).get("message", "the server refused the prompt or a part of it"))]
    for node, entry in (answer.get("node_errors") or {}).items():
        for error in entry.get("errors", []):
            lines.append(f"  node {node} ({entry.get('class_type')}): {error.get('message')}: {error.get('details')}")
    return "\n".join(lines)
