"""Start a ComfyUI server on a free loopback port, wait for it, and always stop it with all its child processes."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from .keeper import PATIENCE
from .layout import LINK_NAME, RUNTIME, Host

# The first start on a slow machine compiles every module that ComfyUI and its libraries import.
START_LIMIT = 600.0
KEEPER = Path(__file__).with_name("keeper.py")
# Loopback must not go through a proxy that the user's environment names.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerError(RuntimeError):
    """The server did not start, or died; the message ends with the last lines of its log."""


class Server:
    """A running server, as a context manager.

    Args:
        host: which ComfyUI and which interpreter.
        cpu: run on the CPU even where there is a GPU.
        private: keep users, inputs, outputs, temporary files, saved part tokens and the database in a folder of this
            run, deleted afterwards, and load no custom nodes except this pack.
        pack_name: folder name of the pack in custom_nodes.
        threads: limits the threads of the numerical libraries; None: their default.
        models: a further folder of models for a private run, laid out like ComfyUI's; its folders must exist.
        options: further arguments of ComfyUI's command line.
    """

    def __init__(
        self,
        host: Host,
        cpu: bool,
        private: bool = True,
        pack_name: str = LINK_NAME,
        threads: int | None = None,
        models: Path | None = None,
        options: Sequence[str] = (),
    ):
        self.host, self.cpu, self.private, self.pack_name, self.threads = host, cpu, private, pack_name, threads
        self.models, self.options = models, tuple(options)
        self.process: subprocess.Popen[bytes] | None = None
        self.base_url = ""
        runs = RUNTIME / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=runs))
        self.log = self.folder / "server.log"
        self.part_tokens = self.folder / "part_tokens"

    def command(self, port: int) -> list[str]:
        arguments = [
            str(self.host.python),
            str(self.host.root / "main.py"),
            "--port",
            str(port),
            "--disable-auto-launch",
        ]
        arguments += ["--listen", "127.0.0.1"]
        if self.cpu:
            arguments.append("--cpu")
        if self.private:
            for name in ("user", "input", "output", "temp"):
                (self.folder / name).mkdir(exist_ok=True)
                arguments += [f"--{name}-directory", str(self.folder / name)]
            # Part tokens saved by a run must not end up among the user's models.
            models = self.folder / "models.yaml"
            # JSON is YAML.
            folders: dict[str, dict[str, object]] = {"run": {"is_default": True, "part_tokens": str(self.part_tokens)}}
            if self.models is not None:
                folders["more"] = {path.name: str(path) for path in sorted(self.models.iterdir()) if path.is_dir()}
            models.write_text(json.dumps(folders, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
            arguments += ["--extra-model-paths-config", str(models)]
            arguments += ["--database-url", f"sqlite:///{(self.folder / 'comfyui.db').as_posix()}"]
            arguments += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", self.pack_name]
            arguments.append("--disable-api-nodes")
        return [*arguments, *self.options]

    def start(self, limit: float = START_LIMIT, port: int = 0) -> None:
        """Start and wait until /system_stats answers.

        Args:
            limit: seconds to wait for an answer.
            port: 0 for a free one.

        Raises:
            ServerError: it died, did not answer in time, or the port that was asked for is taken.
        """
        # Another program may take the free port in the meantime; then try another one.
        for attempt in range(3):
            chosen = port or free_port()
            self.base_url = f"http://127.0.0.1:{chosen}"
            self._launch(chosen)
            if self._wait(limit):
                return
            text = self.tail()
            self._end_process()
            if port or attempt == 2 or not ("already in use" in text.lower() or "10048" in text):
                raise ServerError(f"the server ended before it answered; the last lines of its log:\n{text}")
        raise AssertionError("unreachable")

    def _launch(self, port: int) -> None:
        environment = dict(os.environ, PYTHONUNBUFFERED="1", PYTHONIOENCODING="utf-8")
        # Nothing the server loads may download weights.
        environment.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", NO_ALBUMENTATIONS_UPDATE="1", DO_NOT_TRACK="1")
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        options: dict[str, object] = {}
        if sys.platform == "win32":
            options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
        else:
            options["start_new_session"] = True
        with open(self.log, "wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, str(KEEPER), str(self.folder), *self.command(port)],
                cwd=self.host.root,
                env=environment,
                # Never written to: when it closes, the keeper knows that this program is gone.
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                **options,  # type: ignore[call-overload]
            )

    def _wait(self, limit: float) -> bool:
        end = time.monotonic() + limit
        while self.alive():
            try:
                with _OPENER.open(f"{self.base_url}/system_stats", timeout=5) as answer:
                    json.load(answer)
                return True
            except (OSError, ValueError, http.client.HTTPException):
                if time.monotonic() > end:
                    text = self.tail()
                    self._end_process()
                    raise ServerError(f"no answer within {limit:.0f} s; the last lines of its log:\n{text}") from None
                time.sleep(0.2)
        return False

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tail(self, lines: int = 40) -> str:
        """The last lines of the server's log."""
        if not self.log.is_file():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _end_process(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=PATIENCE + 5)
        except subprocess.TimeoutExpired:
            pass
        # Child processes may have outlived a server that died.
        _kill_tree(process)
        process.wait(timeout=30)

    def stop(self) -> None:
        """End the server and remove its folder; safe to call twice."""
        try:
            self._end_process()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        if process.poll() is None:
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
        return
    try:
        # start_new_session made the keeper the leader of a process group that includes all child processes.
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def free_port() -> int:
    """A loopback port that nothing is listening on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
