"""Where benchmarks leave their figures: ``bench/results/NAME.json``, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
RESULTS.mkdir(exist_ok=True)


def write_result(name: str, values: dict[str, Any]) -> None:
    """Store ``values`` and print them."""
    text = json.dumps(values, indent=1)
    part = RESULTS / f"{name}.part"
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, RESULTS / f"{name}.json")
    print(text)
