"""What was measured, kept at once in one JSON file, each entry with a key of all that it depends on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..host.layout import write_whole


class Measured:
    """Results by name: measured when first asked for, read from the file after that.

    Args:
        file: where they are kept.
        common: what every entry depends on; anything that JSON or ``str`` can write.
    """

    def __init__(self, file: Path, common: Any) -> None:
        self.file, self.common = file, common
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            self.kept: dict[str, Any] = kept if isinstance(kept, dict) else {}
        except (OSError, ValueError):
            self.kept = {}
        self.made = 0

    def __call__(self, name: str, settings: Any, work: Callable[[], Any]) -> Any:
        """The result of ``work``, from an earlier run if it had the same name and settings."""
        text = json.dumps([self.common, settings], sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        entry = self.kept.get(name)
        if not isinstance(entry, dict) or entry.get("key") != key:
            begin = time.perf_counter()
            entry = {"key": key, "value": work(), "seconds": round(time.perf_counter() - begin, 2)}
            self.kept[name] = entry
            self.made += 1
            write_whole(self.file, json.dumps(self.kept, indent=1) + "\n")
        return entry["value"]
