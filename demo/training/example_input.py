"""Draw the example images of the template ``train_token``: robots, and exact masks of their heads.

    python -m demo.training.example_input [--pictures 12]

Two animated files, which ComfyUI's Load Image loads as batches. No benchmark uses these seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from .pictures import Picture, draw_scene, random_scene

FOLDER = Path(__file__).parent / "input"
FIRST_SEED = 4_900_000


def robots(count: int) -> list[Picture]:
    """``count`` images with one robot each."""
    found: list[Picture] = []
    seed = FIRST_SEED
    while len(found) < count:
        scene = random_scene(seed, pairs=0.0)
        if scene.things[0].name == "robot":
            found.append(draw_scene(scene))
        seed += 1
    return found


def write_series(pictures: list[np.ndarray], path: Path) -> None:
    """A lossless animated WebP of (H, W, 3) uint8 images, one per second."""
    first, *more = [Image.fromarray(picture) for picture in pictures]
    first.save(path, save_all=True, append_images=more, duration=1000, loop=0, lossless=True, quality=100, method=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=12)
    count = parser.parse_args().pictures
    FOLDER.mkdir(exist_ok=True)
    pictures = robots(count)
    write_series([picture.image for picture in pictures], FOLDER / "robot_pictures.webp")
    masks = [np.repeat(picture.part_mask("head", ("robot",))[..., None], 3, axis=2) for picture in pictures]
    write_series([mask.astype(np.uint8) * 255 for mask in masks], FOLDER / "robot_head_masks.webp")


if __name__ == "__main__":
    main()
