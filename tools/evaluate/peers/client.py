"""Starts the process of `process` when it is first needed, and speaks to it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from ...host.layout import PACK_DIR, module_command


class PeerGone(RuntimeError):
    """The process ended, or took too long."""


class PeerProcess:
    """A process with diffusers.

    Args:
        cpu: do not use a GPU.
        threads: of its numerical libraries; None for their default.
        limit: seconds that one edit may take.
    """

    def __init__(self, cpu: bool = False, threads: int | None = None, limit: float = 3600.0) -> None:
        self.cpu, self.threads, self.limit = cpu, threads, limit
        self.process: subprocess.Popen[str] | None = None
        self.log: Path | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request; pictures in it and in the answer are bytes.

        Raises:
            PeerGone: the process ended, or took longer than the limit.
        """
        if self.process is None or self.process.poll() is not None:
            self._start()
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        coded = {key: base64.b64encode(v).decode("ascii") if isinstance(v, bytes) else v for key, v in request.items()}
        timer = threading.Timer(self.limit, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps(coded) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            said = self._tail()
            self.close()
            raise PeerGone(f"the process with diffusers ended; it last said: {said}")
        answer: dict[str, Any] = json.loads(line)
        if "picture" in answer:
            answer["picture"] = base64.b64decode(answer["picture"])
        return answer

    def _start(self) -> None:
        self.close()
        environment = dict(os.environ, HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", PYTHONIOENCODING="utf-8")
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        handle, name = tempfile.mkstemp(prefix="peers-", suffix=".log")
        self.log = Path(name)
        with os.fdopen(handle, "w") as sink:
            self.process = subprocess.Popen(
                [sys.executable, *module_command("tools.evaluate.peers.process", ["--cpu"] if self.cpu else [])],
                cwd=PACK_DIR,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                encoding="utf-8",
            )

    def _tail(self) -> str:
        if self.log is None:
            return "nothing"
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        text = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-3:]) or "nothing"

    def close(self) -> None:
        """End the process; safe to call twice."""
        process, self.process = self.process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()  # it ends when its requests end
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
            process.kill()
            process.wait()
        if self.log is not None:
            self.log.unlink(missing_ok=True)
            self.log = None
