"""Time and peak memory of a piece of work, in a process of its own so that nothing else's peak is counted."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
_STATUS = Path("/proc/self/status")
_MARK = "measured: "


class Peak:
    """``with Peak() as peak: work()``, then ``peak.seconds``, ``peak.bytes`` and ``peak.start``.

    Attributes:
        start: bytes held when the work began; bytes: the highest level during the work, above ``start``.
        device: "cpu": memory of this process; "cuda": memory that torch has taken on the device.
        exact: False where the system cannot reset a process's peak (not Linux): then ``bytes`` counts from the highest
            level before the work, and is too low if that was passed and given back.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device, self.exact = device, True
        self.start = self.bytes = 0
        self.seconds = 0.0

    def __enter__(self) -> Peak:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        else:
            _give_back()
            self.exact = _reset_peak()
            self.start = _resident() if self.exact else _highest()
        self._clock = time.perf_counter()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
            highest = torch.cuda.max_memory_allocated()
        else:
            highest = _highest()
        self.seconds = time.perf_counter() - self._clock
        self.bytes = max(0, highest - self.start)


def in_a_fresh_process(module: str, arguments: list[str]) -> dict[str, Any]:
    """What ``python -m module arguments`` gives to `hand_over`.

    Raises:
        RuntimeError: the process failed or handed nothing over.
    """
    # Settings that keep freed memory would hide what is taken again later.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not lines:
        raise RuntimeError(f"{' '.join(command[1:])} failed ({done.returncode}).")
    return json.loads(lines[-1][len(_MARK) :])


def hand_over(values: dict[str, Any]) -> None:
    """Print values for `in_a_fresh_process`."""
    print(_MARK + json.dumps(values), flush=True)


def _give_back() -> None:
    """Return freed memory to the system, so that it is counted when it is taken again (glibc only)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        pass


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return _STATUS.is_file()


def _entry(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _resident() -> int:
    return _entry("VmRSS:")


def _highest() -> int:
    # Not getrusage where this is there: a child's figure there begins with its parent's peak.
    if _STATUS.is_file():
        return _entry("VmHWM:")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
