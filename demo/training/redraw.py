"""Scenes redrawn by the image model with other words: the kind of image the scorer sees in a step search.

    python -m demo.training.redraw OUT.safetensors --scenes 1200

A drawn pair of objects is noised to some level and denoised with a caption that keeps, recolours or replaces each of
them (SDEdit, Meng et al. 2022). At low levels, where the old objects remain, so do the words. Each object is masked
where the old one was, as in a search. A scorer that only knows clean drawings prefers an image that hardly changed to
one of the right kind drawn by the model.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..scorer import SIZE
from ..world import ANIMALS, BACKGROUNDS, COLOURS, OBJECTS, PARTS, PATTERNS, Look, Scene
from .common import prepare_cpu, save
from .pictures import draw_scene, plain_pair, side_by_side
from .scorer import object_views, phrase_of

FIRST, BATCH, STEPS = 8_000_000, 8, 7
LOWEST, CHANGING = 0.4, 0.75  # fractions of the schedule that are noised; words change from the second on


def redrawn_pair(seed: int, changing: bool) -> tuple[Scene, Scene]:
    """A scene of two plain objects, and the same with other objects in the old boxes."""
    rng = np.random.default_rng([20268, seed])

    def look() -> Look:
        return Look(str(rng.choice(list(COLOURS))), PATTERNS[int(rng.choice(3, p=(0.8, 0.1, 0.1)))])

    names = str(rng.choice(OBJECTS)), str(rng.choice(OBJECTS))
    scene = plain_pair(names, (look(), look()), str(rng.choice(list(BACKGROUNDS))), seed)
    if not changing:
        return scene, scene
    things = []
    for thing in scene.things:
        what = rng.choice(["colour", "kind", "nothing"], p=(0.4, 0.45, 0.15))
        if what == "kind" and thing.name in ANIMALS:
            name = str(rng.choice([other for other in ANIMALS if other != thing.name]))
            thing = replace(thing, name=name, looks=dict.fromkeys(PARTS[name], next(iter(thing.looks.values()))))
        elif what != "nothing":
            thing = replace(thing, looks=dict.fromkeys(PARTS[thing.name], look()))
        things.append(thing)
    left, right = (phrase_of(thing) for thing in things)
    caption = side_by_side(left, right, scene.background)
    return scene, replace(scene, things=tuple(things), caption=caption)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenes", type=int, default=1200)
    parser.add_argument("--first", type=int, default=FIRST)
    args = parser.parse_args()
    prepare_cpu()
    from .studio import Studio

    studio = Studio()
    rng, begin = np.random.default_rng(args.first), time.time()
    images, covers, phrases, captions = [], [], [], []
    for start in range(args.first, args.first + args.scenes, BATCH):
        share = float(rng.uniform(LOWEST, 1.0))
        pairs = [redrawn_pair(seed, share >= CHANGING) for seed in range(start, start + BATCH)]
        drawn = [draw_scene(before) for before, _ in pairs]
        with torch.autocast("cpu", torch.bfloat16):
            latents = studio.sample(
                [after.caption for _, after in pairs],
                start,
                max(2, round(STEPS * share)),
                float(rng.choice([3.0, 7.0])),
                scheduler="normal",
                start=studio.encode(np.stack([p.image for p in drawn])),
                denoise=share,
            )
            pictures = studio.decode(latents)
        small = torch.nn.functional.avg_pool2d(pictures.movedim(-1, 1), pictures.shape[1] // SIZE).movedim(1, -1)
        images.append((small * 255).round().to(torch.uint8))
        for picture, (_, after) in zip(drawn, pairs):
            captions.append(after.caption)
            views = object_views(picture, after.things)
            covers.append(np.stack([seen for seen, _ in views]))
            phrases.append([phrase for _, phrase in views])
        if (start - args.first) // BATCH % 10 == 0:
            print(f"{time.time() - begin:5.0f}s {start - args.first + BATCH} scenes", flush=True)
    tensors = {
        "images": torch.cat(images),
        "covers": torch.from_numpy(np.stack(covers)),
        "phrases": torch.tensor(phrases),
    }
    save(tensors, args.out, {"captions": "\n".join(captions)})


if __name__ == "__main__":
    main()
