"""A headless Chromium over its DevTools protocol: open a page, run JavaScript in it, take a screenshot."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from .websocket import WebSocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless=new",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--window-size=1600,1000",
    "--remote-debugging-port=0",
)


class BrowserError(RuntimeError):
    """The browser did not start, or JavaScript threw; the message has the exception's text."""


def find_browser() -> str | None:
    """The path of an installed Chromium: PARTEDIT_CHROMIUM, or one on the path."""
    named = os.environ.get("PARTEDIT_CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One browser with one page, as a context manager.

    Attributes:
        console: texts of console errors and uncaught exceptions so far.
    """

    def __init__(self, program: str) -> None:
        self.console: list[str] = []
        self._count = 0
        self._socket: WebSocket | None = None
        # Its sandbox refuses to run for root, and in most containers for anybody.
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        for sandbox in (False,) if root else (True, False):
            self._launch(program, sandbox)
            try:
                self._socket = WebSocket(self._page_address())
                for domain in ("Page", "Runtime", "Log"):
                    self.call(f"{domain}.enable")
                return
            except BaseException as error:
                ended_at_once = self._process.poll() is not None
                self.close()
                if not (sandbox and ended_at_once and isinstance(error, BrowserError)):
                    raise

    def _launch(self, program: str, sandbox: bool) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="chromium-"))
        options = [*OPTIONS, *([] if sandbox else ["--no-sandbox"]), f"--user-data-dir={self._folder}"]
        self._process = subprocess.Popen(
            [program, *options, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=sys.platform != "win32",
        )

    def _page_address(self) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        port_file = self._folder / "DevToolsActivePort"
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise BrowserError(f"the browser ended at once with exit {self._process.returncode}")
            with contextlib.suppress(OSError, ValueError, IndexError):
                port = int(port_file.read_text(encoding="utf-8").splitlines()[0])
                with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
                    pages = [page for page in json.load(answer) if page["type"] == "page"]
                return pages[0]["webSocketDebuggerUrl"]
            time.sleep(0.1)
        raise BrowserError("the browser opened no DevTools port within 60 s")

    def call(self, method: str, parameters: dict[str, Any] | None = None, limit: float = 60.0) -> dict[str, Any]:
        """One DevTools command and its result.

        Raises:
            BrowserError: the command failed.
            TimeoutError: no answer within ``limit`` seconds.
        """
        assert self._socket is not None
        self._count += 1
        number = self._count
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters or {}}))
        end = time.monotonic() + limit
        while True:
            message = json.loads(self._socket.receive(timeout=max(0.1, end - time.monotonic())))
            if message.get("id") == number:
                if "error" in message:
                    raise BrowserError(f"{method}: {message['error'].get('message')}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        data = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = data["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description") or details.get("text", ""))
        elif message.get("method") == "Runtime.consoleAPICalled" and data.get("type") == "error":
            parts = [str(entry.get("value", entry.get("description", ""))) for entry in data.get("args", [])]
            self.console.append(" ".join(parts))

    def open(self, address: str) -> None:
        """Go to a page; does not wait until it is loaded."""
        self.call("Page.navigate", {"url": address})

    def evaluate(self, expression: str, limit: float = 60.0) -> Any:
        """The JSON value of a JavaScript expression; a promise is waited for.

        Raises:
            BrowserError: it threw.
        """
        parameters = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        result = self.call("Runtime.evaluate", parameters, limit)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description") or details.get("text", "it threw"))
        return result["result"].get("value")

    def wait(self, expression: str, limit: float = 60.0) -> Any:
        """Ask again until the expression is true; gives back its value.

        Raises:
            TimeoutError: it never was; the message has the expression and the page's errors.
        """
        end = time.monotonic() + limit
        while True:
            # While a page is loading, what the expression names may not exist yet.
            with contextlib.suppress(BrowserError):
                value = self.evaluate(expression)
                if value:
                    return value
            if time.monotonic() > end:
                raise TimeoutError(f"not true within {limit:.0f} s: {expression}; errors: {self.console[-5:]}")
            time.sleep(0.2)

    def screenshot(self, path: Path) -> None:
        """Write what the page shows as a PNG."""
        data = self.call("Page.captureScreenshot", {"format": "png"})["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser and all its processes, and remove its profile."""
        if self._socket is not None:
            self._socket.close()
        if sys.platform == "win32":
            self._process.kill()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
