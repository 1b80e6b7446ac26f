"""One ComfyUI server that runs prompts: one it starts, or one at an address.

It takes nothing but bytes and JSON, so it may live on another machine.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import urllib.error
from pathlib import Path
from typing import Any

from ..host.client import Client, PromptError
from ..host.layout import RUNTIME, Host
from ..host.link import link_pack
from ..host.server import Server, ServerError
from .peers.client import PeerGone, PeerProcess

# Nodes whose outputs a server keeps: two or three edits' worth.
KEPT_OUTPUTS = 60


class JobError(RuntimeError):
    """The prompt itself is wrong: it would fail on any server."""


class MissingError(JobError):
    """Weights or a package that a method needs are not there; the rest of the run goes on without the method."""


class ServerGone(RuntimeError):
    """The server died, or does not answer: another one may do the job."""


class Worker:
    """A server.

    Args:
        address: of a server that runs already; "" starts one.
        cpu: for one that is started.
        threads: of one that is started; None for its default.
        limit: seconds that one prompt may take.
    """

    def __init__(self, address: str = "", cpu: bool = False, threads: int | None = None, limit: float = 3600.0) -> None:
        self.address, self.cpu, self.threads, self.limit = address, cpu, threads, limit
        self.server: Server | None = None
        self.client: Client | None = None
        self.uploaded: set[str] = set()
        self.info: dict[str, Any] = {}
        self.peers = PeerProcess(cpu, threads, limit)

    def open(self) -> dict[str, Any]:
        """Start or reach the server; returns its /object_info.

        Raises:
            ServerGone: it cannot be started or reached.
        """
        self._stop_server()
        try:
            if self.address:
                self.client = Client(self.address)
            else:
                root = Path(os.environ["COMFYUI_PATH"])
                host = Host(root, Path(sys.executable), private=root.is_relative_to(RUNTIME))
                # The metrics run in a prompt of their own between two edits; without this, it would push out what
                # the next edit of the same picture begins with: model, inversion, and the candidates of a search.
                keep = ("--cache-lru", str(KEPT_OUTPUTS))
                self.server = Server(host, cpu=self.cpu, pack_name=link_pack(host), threads=self.threads, options=keep)
                self.server.start()
                self.client = Client(self.server.base_url, alive=self.server.alive)
            self.info = self.client.object_info()
            return self.info
        except (ServerError, OSError, ValueError) as error:
            self._stop_server()
            raise ServerGone(f"{self.address or 'a server'} cannot be used: {error}") from error

    @property
    def place(self) -> str:
        """Where it runs, for people."""
        return self.client.base_url.split("://")[-1] if self.client is not None else self.address or "not started"

    def run(
        self, prompt: dict[str, Any], uploads: dict[str, bytes], pictures: dict[str, str], texts: dict[str, str]
    ) -> tuple[dict[str, bytes], dict[str, str], float]:
        """Run a prompt.

        Args:
            uploads: files for the server's input folder, by name.
            pictures: {label: node} whose first image is wanted.
            texts: {label: node} whose text is wanted.

        Returns:
            Pictures as files, texts, and seconds.

        Raises:
            JobError: the prompt is refused, or a node fails.
            ServerGone: the server died, does not answer, or was interrupted.
        """
        if self.client is None:
            raise ServerGone("the server is not running")
        try:
            for name, data in uploads.items():
                if name not in self.uploaded:
                    self._upload(name, data)
            result = self.client.run(prompt, limit=self.limit)
            made = {label: self.client.view(result.outputs[node]["images"][0]) for label, node in pictures.items()}
            said = {label: str(result.outputs[node]["text"][0]) for label, node in texts.items()}
            return made, said, result.seconds
        except PromptError as error:
            details = error.details if isinstance(error.details, dict) else {}
            if details and "interrupted" not in str(error):
                raise JobError(str(error)) from error
            raise ServerGone(str(error)) from error
        except urllib.error.HTTPError as error:
            raise ServerGone(f"{error.url}: {error}") from error
        except (OSError, KeyError, IndexError, ValueError) as error:
            raise ServerGone(f"{type(error).__name__}: {error}") from error

    def peer(self, request: dict[str, Any]) -> tuple[bytes, float]:
        """Run an edit by diffusers, in a process beside the server (see `peers.process`).

        Returns:
            The edited picture as a file, and seconds.

        Raises:
            MissingError: the package or the weights are not on this machine.
            JobError: the pipeline failed, or its process ended twice.
        """
        try:
            answer = self.peers.ask(request)
        except PeerGone:
            try:
                answer = self.peers.ask(request)
            except PeerGone as error:
                raise JobError(str(error)) from error
        if "missing" in answer:
            raise MissingError(answer["missing"])
        if "error" in answer:
            raise JobError(answer["error"])
        return answer["picture"], answer["seconds"]

    def _upload(self, name: str, data: bytes) -> None:
        assert self.client is not None
        stored = self.client.upload(name, data)
        if stored != name:
            raise JobError(f"the server stored {name} as {stored!r}")
        self.uploaded.add(name)

    def reopen(self, patience: float) -> bool:
        """Bring a lost server back: start it again, or wait for the one at the address. Whether it is there."""
        self.uploaded.clear()
        end = time.monotonic() + patience
        while True:
            with contextlib.suppress(ServerGone):
                self.open()
                return True
            if not self.address or time.monotonic() > end:
                return False
            time.sleep(1)

    def close(self) -> None:
        """Stop what was started here; safe to call twice."""
        self.peers.close()
        self._stop_server()

    def _stop_server(self) -> None:
        server, self.server, self.client = self.server, None, None
        if server is not None:
            server.stop()
