"""The process in which diffusers' pipelines run: one request a line on stdin, one answer a line on stdout.

    python -m tools.evaluate.peers.process [--cpu]

A request: ``{"method", "model", "size", "picture", "mask", …}``, pictures as base64 PNG, the rest the method's
settings. An answer: ``{"picture", "seconds"}``, ``{"missing": …}`` or ``{"error": …}``.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import sys
import time
from typing import Any

from PIL import Image


class Peers:
    """Does requests, keeping the model that was loaded last."""

    def __init__(self) -> None:
        self.loaded: tuple[str, int] | None = None
        self.model: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            from .edits import EDITS, OWN_WEIGHTS
            from .weights import HostModel, MissingError
        except ImportError as error:
            return {"missing": f"the package {error.name} is not installed"}
        try:
            wanted = (request["model"], request["size"])
            if self.loaded != wanted and request["method"] not in OWN_WEIGHTS:
                self.model, self.loaded = None, None
                self.model, self.loaded = HostModel(*wanted), wanted
            picture, mask = (_opened(request[name]) for name in ("picture", "mask"))
            begin = time.perf_counter()
            edited = EDITS[request["method"]](self.model, picture, mask, request)
            seconds = time.perf_counter() - begin
        except MissingError as error:
            return {"missing": str(error)}
        except ImportError as error:
            return {"missing": f"the package {error.name} is not installed"}
        except Exception as error:  # a pipeline's own refusal: said in the table, and the next edit goes on
            return {"error": f"{type(error).__name__}: {error}"}
        data = io.BytesIO()
        edited.save(data, format="PNG")
        return {"picture": base64.b64encode(data.getvalue()).decode("ascii"), "seconds": seconds}


def _opened(data: str) -> Image.Image | None:
    if not data:
        return None
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        image.load()
        return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    # Everything that a library prints goes to stderr: stdout is for answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from tools.bootstrap import boot_host

    boot_host(cpu=options.cpu)
    import torch

    # denormal numbers make a CPU ten times slower
    torch.set_flush_denormal(True)
    peers = Peers()
    for line in sys.stdin:
        answers.write(json.dumps(peers.answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
