"""Compare the pack with golden cases: ``python3 run.py parity DIR`` (one JSON line per case; exit code 1 if one
is out of tolerance).

A case is a pair NAME.json (settings) and NAME.safetensors (tensors); the settings tell which method it is for. A case
that cannot be run gives a line with its error and counts as out of tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..bootstrap import load_pack
from .settings import check_oir


def main(folder: Path | str) -> int:
    """Run all cases of ``folder``.

    Returns:
        0 if every case is within its tolerance, 1 if one is not or could not be run, 2 if there is no case.
    """
    folder = Path(folder)
    cases = sorted(path for path in folder.glob("*.json") if path.with_suffix(".safetensors").is_file())
    if not cases:
        print(f"{folder}: contains no golden case (pairs NAME.json and NAME.safetensors).", file=sys.stderr)
        return 2
    load_pack()
    good = True
    for path in cases:
        try:
            result = run_case(path)
        except Exception as error:  # one case that cannot be run must not hide the others
            said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            result = {"case": path.stem, "error": said, "ok": False}
        print(json.dumps(result), flush=True)
        good = good and bool(result["ok"])
    return 0 if good else 1


def run_case(path: Path) -> dict[str, Any]:
    """Errors of one case of either method.

    Raises:
        ValueError: the file is not a case, or has unknown settings.
    """
    from . import oir, partedit

    settings = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or not {"reassembly", "edit_prompt"} & set(settings):
        raise ValueError("settings: neither a PartEdit case (edit_prompt) nor an OIR case (reassembly).")
    if "reassembly" not in settings:
        return partedit.run_case(path)
    check_oir(settings)
    return oir.run_case(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with golden cases")
    sys.exit(main(parser.parse_args().folder))
