"""Where results are kept: pictures beside one JSON for each edit, written last, so that what is there is whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..host.layout import whole_file, write_whole
from .cases import Case, file_name


def key_of(*parts: Any) -> str:
    """What a result depends on, as a short text that changes with it."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Store:
    """The results of an evaluation, in one folder for each case."""

    folder: Path

    def place(self, case: Case, method: str) -> Path:
        """Path without suffix of the files of one edit."""
        return self.folder / file_name(case.data) / file_name(case.name) / file_name(method)

    def picture(self, case: Case, method: str, label: str = "edited") -> Path:
        place = self.place(case, method)
        return place.with_name(place.name + (".png" if label == "edited" else f".{label}.png"))

    def read(self, case: Case, method: str, key: str) -> dict[str, Any] | None:
        """The result, if it was made from the same things and its pictures are there."""
        place = self.place(case, method)
        file = place.with_name(place.name + ".json")
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict) or found.get("key") != key:
            return None
        whole = all(self.picture(case, method, label).is_file() for label in found.get("pictures", []))
        return found if whole else None

    def write(self, case: Case, method: str, values: dict[str, Any], pictures: dict[str, bytes] | None = None) -> None:
        """Keep a result, and its pictures if they are new."""
        place = self.place(case, method)
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.with_name(place.name + ".json")
        if pictures is not None:
            # An older result must not vouch for half of the new pictures.
            file.unlink(missing_ok=True)
            for label, data in pictures.items():
                with whole_file(self.picture(case, method, label)) as partial:
                    partial.write_bytes(data)
        write_whole(file, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
