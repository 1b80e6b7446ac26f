"""Writes js/docs/<Node>/example.webp again.

python -m tools.help_pictures.make            all of them; about five minutes on two cores
python -m tools.help_pictures.make NODE ...   only these
"""

from __future__ import annotations

import argparse
import io
import sys
import time

from PIL import Image

from ..host.layout import PACK_DIR, whole_file
from .recipes import RECIPES

FOLDER = PACK_DIR / "js" / "docs"


def encoded(picture: Image.Image) -> bytes:
    """A picture as WebP of the size and quality of a help page's."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=82, method=6)
    return buffer.getvalue()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.help_pictures.make", description=__doc__)
    parser.add_argument("nodes", nargs="*", help="only the pictures of these nodes")
    names = parser.parse_args(arguments).nodes or list(RECIPES)
    if unknown := sorted(set(names) - set(RECIPES)):
        parser.error(f"no recipe for {', '.join(unknown)}. There are: {', '.join(RECIPES)}.")
    for name in names:
        begin = time.perf_counter()
        with whole_file(FOLDER / name / "example.webp") as partial:
            partial.write_bytes(encoded(RECIPES[name]()))
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
