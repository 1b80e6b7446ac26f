"""The user's own ComfyUI: inspected, never changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .layout import Host, SetupError

# What each command imports, and the package that has it. torch and numpy are ComfyUI's own.
RUN_MODULES = {"skimage": "scikit-image", "safetensors": "safetensors", "transformers": "transformers"}
STYLE_MODULES = {"ruff": "ruff", "mypy": "mypy"}
TEST_MODULES = {
    "pytest": "pytest",
    "xdist": "pytest-xdist",
    "diffusers": "diffusers",
    "matplotlib": "matplotlib",
    "pyarrow": "pyarrow",
    "segment_anything": "segment-anything",
    **STYLE_MODULES,
    "playwright": "playwright",
    **RUN_MODULES,
}


def existing_host(root: Path, modules: dict[str, str]) -> Host:
    """The ComfyUI at ``root`` with the interpreter in COMFYUI_PYTHON, or this one. Nothing is installed.

    Raises:
        SetupError: no ComfyUI there, or a module is missing; says which, and how to install it.
    """
    if not (root / "main.py").is_file() or not (root / "comfy" / "sd.py").is_file():
        raise SetupError(
            f"COMFYUI_PATH is {str(root)!r}, which is not a ComfyUI folder (main.py and comfy/sd.py are expected "
            "there). Set it to ComfyUI's folder, or unset it to let run.py set up a private one."
        )
    # Not resolved: a virtual environment's python is a link, and only its own path selects the environment.
    python = Path(os.environ.get("COMFYUI_PYTHON") or sys.executable).absolute()
    if not python.is_file():
        raise SetupError(f"COMFYUI_PYTHON is {str(python)!r}, which is not a file. Set it to ComfyUI's Python.")
    wanted = ["torch", "numpy", "aiohttp", *modules]
    code = "import importlib.util, json; print(json.dumps([m for m in %r if importlib.util.find_spec(m) is None]))"
    try:
        done = subprocess.run([str(python), "-c", code % wanted], capture_output=True, text=True, check=False)
        missing = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError) as error:
        raise SetupError(f"{python} is not a Python that runs ({error}). Set COMFYUI_PYTHON to ComfyUI's.") from None
    if missing is None:
        raise SetupError(f"{python} does not run: {done.stderr.strip()[-500:]}")
    if missing:
        packages = " ".join(modules.get(name, name) for name in missing)
        raise SetupError(
            f"the ComfyUI at {root} runs with {python}, which lacks: {', '.join(missing)}.\nrun.py installs nothing "
            f"into your own environment. Install what is missing with\n  {python} -m pip install {packages}\nor set "
            "COMFYUI_PYTHON to another interpreter, or unset COMFYUI_PATH to let run.py set up a private ComfyUI."
        )
    return Host(root.resolve(), python, private=False)


def has_accelerator(python: Path) -> bool:
    """Whether torch of that interpreter sees a GPU that ComfyUI can use."""
    code = (
        "import torch; x = getattr(torch, 'xpu', None); "
        "print(int(torch.cuda.is_available() or torch.backends.mps.is_available() or bool(x and x.is_available())))"
    )
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip().endswith("1")
