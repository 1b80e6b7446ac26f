"""Compare the pack with golden cases: ``python3 run.py parity DIR`` (one JSON line a case; 1 if one is too far off).

A case is a pair NAME.json (settings) and NAME.safetensors (tensors); its settings tell which method it is about.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .bootstrap import load_pack


def main(folder: Path | str) -> int:
    """Run all cases of ``folder``.

    Returns:
        0 when every case is within its tolerance, 1 when one is not, 2 when there is no case.
    """
    folder = Path(folder)
    cases = sorted(path for path in folder.glob("*.json") if path.with_suffix(".safetensors").is_file())
    if not cases:
        print(f"{folder}: no golden case here (pairs NAME.json and NAME.safetensors).", file=sys.stderr)
        return 2
    load_pack()
    from . import parity_oir, parity_partedit

    good = True
    for path in cases:
        settings = json.loads(path.read_text(encoding="utf-8"))
        result = (parity_oir if "reassembly" in settings else parity_partedit).run_case(path)
        print(json.dumps(result), flush=True)
        good = good and bool(result["ok"])
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with golden cases")
    sys.exit(main(parser.parse_args().folder))
