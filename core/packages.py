"""The packages of requirements.txt, and one sentence for a Python that lacks one."""

from __future__ import annotations

import importlib
from types import ModuleType

# Module → the package that an installer knows.
PACKAGES = {"skimage": "scikit-image", "segment_anything": "segment-anything", "transformers": "transformers"}


def require(module: str) -> ModuleType:
    """Import one of `PACKAGES`: called before long work begins that needs it later.

    Raises:
        ModuleNotFoundError: it is not installed; the message says what to install and where.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        better = explained(error)
        if better is None:
            raise
        raise better from error


def explained(error: ModuleNotFoundError) -> ModuleNotFoundError | None:
    """The error in an artist's words if it is about one of `PACKAGES`, else None."""
    package = PACKAGES.get((error.name or "").split(".")[0])
    if package is None:
        return None
    return ModuleNotFoundError(
        f"The package {package} is missing. Install the pack's requirements.txt into the Python that runs ComfyUI "
        f"(or: python -m pip install {package}), then restart ComfyUI. Nodes that do not need it work without.",
        name=error.name,
    )
