"""Bring a real ComfyUI into this process, on the CPU unless told otherwise, and import the pack under it.

Used by the tests, the benchmarks, the parity command and the demo's training scripts. ComfyUI is taken from
the environment variable ``COMFYUI_PATH`` (``run.py`` sets it).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

PACK_NAME = "partedit_oir"
PACK_DIR = Path(__file__).resolve().parent.parent


def boot_host(cpu: bool = True) -> Path:
    """Put ComfyUI on ``sys.path`` and set its device before anything of it is imported.

    Raises:
        RuntimeError: ``COMFYUI_PATH`` is not set, or is not a ComfyUI folder.
    """
    root = Path(os.environ.get("COMFYUI_PATH", ""))
    if not (root / "comfy" / "sd.py").is_file():
        raise RuntimeError(
            f"COMFYUI_PATH is {str(root)!r}, which is not a ComfyUI folder (no comfy/sd.py). "
            "Run this through 'python3 run.py ...', or set COMFYUI_PATH to a ComfyUI folder."
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    from comfy.cli_args import args

    args.cpu = cpu
    return root


def load_pack() -> ModuleType:
    """Import this repository as the package ``partedit_oir`` (its folder name is not a valid module name)."""
    if PACK_NAME in sys.modules:
        return sys.modules[PACK_NAME]
    boot_host()
    spec = importlib.util.spec_from_file_location(
        PACK_NAME, PACK_DIR / "__init__.py", submodule_search_locations=[str(PACK_DIR)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK_NAME] = module
    spec.loader.exec_module(module)
    return module
