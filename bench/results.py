"""Results of benchmarks: ``bench/results/NAME.json``, written atomically.

A run that is still in progress, or was limited on the command line, is saved as ``NAME.partial.json`` next to the last
complete result. So an interrupted run keeps what it has, and a quick look replaces nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tools.host.layout import whole_file, write_whole

RESULTS = Path(__file__).resolve().parent / "results"
RESULTS.mkdir(exist_ok=True)


def write_result(name: str, values: dict[str, Any], picture: np.ndarray | None = None, whole: bool = True) -> None:
    """Store ``values`` and a contact sheet (H, W, 3) uint8; print the values of a whole result."""
    stem = name if whole else f"{name}.partial"
    text = json.dumps(values, indent=1)
    write_whole(RESULTS / f"{stem}.json", text + "\n")
    if picture is not None:
        sheet = Image.fromarray(picture)
        sheet.thumbnail((1280, 4000))  # every version stays in the repository's history
        with whole_file(RESULTS / f"{stem}.jpg") as part:
            sheet.save(part, format="JPEG", quality=85)
    if whole:
        for suffix in ("json", "jpg"):
            (RESULTS / f"{name}.partial.{suffix}").unlink(missing_ok=True)
    print(text if whole else f"so far: {stem}.json", flush=True)
