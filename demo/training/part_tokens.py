"""Train the part tokens that ship for the demo checkpoint, on drawn images with exact masks.

    python -m demo.training.part_tokens tokens/ [--pictures 20]

Uses the pack's own trainer (`core/training`). No benchmark uses these images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.bootstrap import load_pack

from .common import prepare_cpu
from .parts import DEMO_PARTS, FIRST, STEPS, single_scenes, token_settings, training_views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    prepare_cpu()
    load_pack()
    from partedit_oir.core.partedit.token_files import save_token
    from partedit_oir.core.training.training import train_part_token

    from .studio import Studio

    studio = Studio()
    for part in DEMO_PARTS:
        pictures = single_scenes(part.names, FIRST, args.pictures)
        images, masks, sources = training_views(pictures, part)
        token, report = train_part_token(
            studio.model,
            studio.encode(images),
            masks,
            studio.text(""),
            token_settings(part, args.steps),
            sources=sources,
            model_family="demo",
        )
        save_token(token, args.folder / f"{part.file}.safetensors")
        print(part.label, report.part_iou, f"{report.seconds_cache:.0f} + {report.seconds_training:.0f} s", flush=True)


if __name__ == "__main__":
    main()
