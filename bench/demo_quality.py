"""How good the demo checkpoint is: correct object and colour on seeded prompts, VAE fidelity, seconds per image.

python run.py bench demo_quality
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from demo.training.pictures import BACKGROUNDS, COLOURS, OBJECTS, PATTERNS, Look, article, draw_scene, random_scene
from demo.training.studio import Studio, grid
from tools.evaluate.judge import accuracy, judge, load_judge

from .results import write_result
from .scores import psnr

PROMPTS, BATCH = 200, 10


def prompt_of(seed: int) -> tuple[str, str, Look]:
    """The seeded prompt, with the object and the look that it asks for."""
    rng = np.random.default_rng([20262, seed])
    name, background = str(rng.choice(OBJECTS)), str(rng.choice(list(BACKGROUNDS)))
    look = Look(str(rng.choice(list(COLOURS))), str(rng.choice(PATTERNS, p=(0.7, 0.15, 0.15))))
    return f"{article(look.words)} {name} {BACKGROUNDS[background]}", name, look


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="only this many of the seeded prompts")
    prompts = parser.parse_args().prompts
    studio, model = Studio(), load_judge()
    right = {"object": 0, "colour": 0, "both": 0, "pattern": 0}
    kept: list[torch.Tensor] = []
    wrong: list[str] = []
    for start in range(0, prompts, BATCH):
        wanted = [prompt_of(seed) for seed in range(start, min(prompts, start + BATCH))]
        pictures = studio.decode(studio.sample([w[0] for w in wanted], seed=start))
        for (text, name, look), verdict, picture in zip(wanted, judge(model, pictures), pictures):
            thing = verdict.thing()
            colour, pattern = verdict.look_of(thing) if thing else ("none", "none")
            right["object"] += thing == name
            right["colour"] += colour == look.colour
            right["pattern"] += pattern == look.pattern
            both = thing == name and colour == look.colour
            right["both"] += both
            if not both:
                wrong.append(f"{text}: {colour} {thing}")
            if len(kept) < 40:
                kept.append(picture)
    images = np.stack([draw_scene(random_scene(3_000_000 + k)).image for k in range(100)])
    back = studio.decode(studio.encode(images))
    fidelity = float(np.mean([psnr(torch.from_numpy(x) / 255, y) for x, y in zip(images, back)]))
    seconds = []
    for seed in range(3):
        begin = time.perf_counter()
        studio.decode(studio.sample(["a red robot in the snow"], seed))
        seconds.append(time.perf_counter() - begin)
    write_result(
        "demo_quality",
        {
            "judge_held_out": accuracy(model, range(8_000_000, 8_000_200)),
            "prompts": prompts,
            **{f"right_{k}": v / prompts for k, v in right.items()},
            "vae_psnr_db": fidelity,
            "seconds_a_picture_25_steps": min(seconds),
            "threads": torch.get_num_threads(),
            "wrong": wrong,
        },
        grid(torch.stack(kept), 8),
        whole=prompts == PROMPTS,
    )


if __name__ == "__main__":
    main()
