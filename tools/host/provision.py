"""Set up a private environment and ComfyUI in ``.runtime/``.

Every completed stage leaves a stamp, so an interrupted setup continues where it stopped, and a complete one is
recognised at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from .archives import CURRENT, FLOOR, fetch_host
from .layout import PACK_DIR, RUNTIME, Host, SetupError, digest, log, run_pip, write_whole

TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
PYTHON_RANGE = ((3, 10), (3, 13))
# A file in the private environment with an id of its own.
MARK = "made-by-run-py"


@contextlib.contextmanager
def locked(path: Path, busy: str = "another setup is running; waiting for it") -> Iterator[None]:
    """Hold an exclusive lock on a file; a second process says ``busy`` and waits.

    The system releases it if the process dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as handle:
        waiting = False
        while not _try_lock(handle.fileno()):
            if not waiting:
                log(busy)
                waiting = True
            time.sleep(1)
        try:
            yield
        finally:
            _unlock(handle.fileno())


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _unlock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_UN)


def stage(name: str, key: str, whole: Path, work: Callable[[], None], runtime: Path | None = None) -> str:
    """Do ``work`` unless its stamp says that it was done for ``key`` and ``whole`` still exists.

    Returns:
        A key for the stages that depend on this one.
    """
    stamp = (runtime or RUNTIME) / "stamps" / f"{name}.json"
    if stamp.is_file() and whole.exists():
        with contextlib.suppress(ValueError, OSError):
            if json.loads(stamp.read_text(encoding="utf-8")).get("key") == key:
                return digest(name + key)
    stamp.unlink(missing_ok=True)
    log(name)
    work()
    if not whole.exists():
        raise SetupError(f"stage {name!r} finished without creating {whole}")
    stamp.parent.mkdir(parents=True, exist_ok=True)
    write_whole(stamp, json.dumps({"key": key}))
    return digest(name + key)


def venv_python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def find_python() -> str:
    """An interpreter that torch has builds for: this one, or one on PATH.

    Raises:
        SetupError: there is none.
    """
    low, high = PYTHON_RANGE
    if low <= sys.version_info[:2] <= high:
        return sys.executable
    for minor in (12, 11, 13, 10):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    raise SetupError(
        f"Python {low[0]}.{low[1]} to {high[0]}.{high[1]} is required. This is "
        f"{sys.version_info[0]}.{sys.version_info[1]}, and no python3.12, 3.11, 3.13 or 3.10 is on PATH. "
        "Install one of them and run the command again."
    )


def _works(python: Path) -> bool:
    """Whether the environment's Python runs, has pip, and is a version that torch has builds for."""
    low, high = PYTHON_RANGE
    code = f"import sys, pip; sys.exit(not {low} <= sys.version_info[:2] <= {high})"
    try:
        return subprocess.run([str(python), "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _make_venv(base: str, folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    python = str(venv_python(folder))
    # A system without ensurepip (Debian, Ubuntu) may still have pip itself.
    ways = (
        [[base, "-m", "venv", str(folder)]],
        [
            [base, "-m", "venv", "--clear", "--without-pip", str(folder)],
            [base, "-m", "pip", "--python", python, "install", "--no-user", "pip"],
        ],
    )
    complaints = []
    for way in ways:
        for command in way:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode != 0:
                complaints.append(f"{' '.join(command)}\n{(done.stdout + done.stderr).strip()[-1500:]}")
                break
        else:
            # Distinguishes this environment from any earlier one in the same place.
            (folder / MARK).write_text(uuid.uuid4().hex, encoding="utf-8")
            return
    raise SetupError(
        "could not create a Python environment:\n\n"
        + "\n\n".join(complaints)
        + "\n\nOn Debian and Ubuntu, install the missing package: sudo apt install python3-venv\n"
        "(or python3.N-venv for a Python other than the system's). Then run the same command again."
    )


def _constraints() -> Path:
    # Keeps the requirements of ComfyUI and the pack from changing the torch version.
    path = RUNTIME / "constraints.txt"
    path.write_text("\n".join(TORCH) + "\n", encoding="utf-8")
    return path


def prepare_private(floor: bool = False) -> Host:
    """The private environment and host, set up or completed as needed.

    Args:
        floor: the oldest ComfyUI the pack supports instead of the current one (same environment).

    Raises:
        SetupError: a stage failed.
    """
    RUNTIME.mkdir(exist_ok=True)
    with locked(RUNTIME / "setup.lock"):
        venv = RUNTIME / "venv"
        python = venv_python(venv)
        # Whichever Python runs this file: a working environment is kept, a broken one is rebuilt.
        if not _works(python):
            (venv / MARK).unlink(missing_ok=True)
        stage("python environment", "", venv / MARK, lambda: _make_venv(find_python(), venv))
        # A pip configured with --user would refuse to install into a virtual environment.
        install = ["install", "--no-user"]
        key = stage(
            "torch",
            digest((venv / MARK).read_text(encoding="utf-8") + " ".join(TORCH)),
            python,
            lambda: run_pip(python, [*install, *TORCH], "installing torch (a few GB on Linux)"),
        )
        root = RUNTIME / "ComfyUI"
        stage("ComfyUI", CURRENT.sha256, root / "main.py", lambda: fetch_host(CURRENT, root, python))
        key = stage(
            "ComfyUI's requirements",
            digest(key + CURRENT.sha256),
            python,
            lambda: run_pip(
                python,
                [*install, "-r", str(root / "requirements.txt"), "-c", str(_constraints())],
                "installing ComfyUI's requirements",
            ),
        )
        files = [PACK_DIR / "requirements.txt", PACK_DIR / "tests" / "requirements.txt"]
        wanted = [argument for file in files for argument in ("-r", str(file))]
        stage(
            "the pack's requirements",
            digest(key + "".join(file.read_text(encoding="utf-8") for file in files)),
            python,
            lambda: run_pip(
                python, [*install, *wanted, "-c", str(_constraints())], "installing the pack's requirements"
            ),
        )
        if floor:
            root = RUNTIME / f"ComfyUI-{FLOOR.version}"
            stage(f"ComfyUI {FLOOR.version}", FLOOR.sha256, root / "main.py", lambda: fetch_host(FLOOR, root, python))
    return Host(root, python, private=True)
