"""What the demo's own models can do, apart from edits.

Whether prompts are drawn as asked, how well pictures survive the VAE, whether the scorer names what it sees, and how
well the part tokens find their parts.

On seeds that no training script uses. What a generated picture shows is read off by the judge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import decibels
from ..bootstrap import PACK_DIR
from .measured import Measured

# Part of every key: raised when what is measured changes.
FORMAT = 1
PROMPTS, BATCH = 200, 10
VAE_PICTURES, VAE_SEED = 100, 3_000_000
SCORER_SCENES = 300
TOKEN_PICTURES, TOKEN_LEVEL = 100, 0.5
JUDGE_SCENES = range(8_000_000, 8_000_200)


def prompt_of(seed: int) -> tuple[str, str, str, str]:
    """A seeded prompt, and the object, the colour and the pattern that it asks for."""
    from demo.training.pictures import BACKGROUNDS, COLOURS, OBJECTS, PATTERNS, Look, article

    rng = np.random.default_rng([20262, seed])
    name, background = str(rng.choice(OBJECTS)), str(rng.choice(list(BACKGROUNDS)))
    look = Look(str(rng.choice(list(COLOURS))), str(rng.choice(PATTERNS, p=(0.7, 0.15, 0.15))))
    return f"{article(look.words)} {name} {BACKGROUNDS[background]}", name, look.colour, look.pattern


def prompts(studio: Any, count: int = PROMPTS) -> dict[str, Any]:
    """Shares of seeded prompts whose picture shows the object, its colour, both, and its pattern."""
    from .judge import judge, the_judge

    right = dict.fromkeys(("object", "colour", "both", "pattern"), 0)
    wrong: list[str] = []
    begin = time.perf_counter()
    for start in range(0, count, BATCH):
        wanted = [prompt_of(seed) for seed in range(start, min(count, start + BATCH))]
        pictures = studio.decode(studio.sample([one[0] for one in wanted], seed=start))
        for (text, name, colour, pattern), verdict in zip(wanted, judge(the_judge(), pictures)):
            thing = verdict.thing()
            seen = verdict.look_of(thing) if thing else ("none", "none")
            both = (thing, seen[0]) == (name, colour)
            right["object"] += thing == name
            right["colour"] += seen[0] == colour
            right["pattern"] += seen[1] == pattern
            right["both"] += both
            if not both:
                wrong.append(f"{text}: {seen[0]} {thing}")
    seconds = (time.perf_counter() - begin) / count
    return {
        "prompts": count,
        **{key: value / count for key, value in right.items()},
        "wrong": wrong,
        "seconds_per_picture": seconds,
        "threads": torch.get_num_threads(),
    }


def vae(studio: Any, count: int = VAE_PICTURES) -> dict[str, Any]:
    """Mean PSNR in dB of drawn pictures that went through the VAE."""
    from demo.training.pictures import draw_scene, random_scene
    from partedit_oir.core.metrics import psnr

    images = np.stack([draw_scene(random_scene(VAE_SEED + k)).image for k in range(count)])
    back = studio.decode(studio.encode(images)).double().numpy()
    each = [psnr(one.astype(np.float64) / 255, other) for one, other in zip(images, back)]
    return {"pictures": count, "psnr_db": decibels.mean(each)}


def scorer(studio: Any, count: int = SCORER_SCENES) -> dict[str, Any]:
    """Shares of masked objects whose kind, colour and pattern the scorer names right, of all that there are."""
    from demo.training.scorer import HELD_OUT, Bank, accuracy
    from partedit_oir.demo.loader import load_demo_scorer

    return {"scenes": count, **accuracy(load_demo_scorer().model, Bank.drawn(range(HELD_OUT, HELD_OUT + count)))}


def held_out_parts(studio: Any, part: Any, count: int) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Drawn images (N, H, W, 3) uint8 that no token was trained on, their latents, and (N, H, W) bool of the part."""
    from demo.training.parts import HELD_OUT, part_masks, single_scenes

    pictures = single_scenes(part.names, HELD_OUT, count)
    images = np.stack([one.image for one in pictures])
    return images, studio.encode(images), part_masks(pictures, part)[:, 0] > 0.5


def tokens(studio: Any, count: int = TOKEN_PICTURES) -> dict[str, Any]:
    """{part: mean IoU with the exact mask} of the shipped tokens at half the noise, by threshold."""
    from demo.training.parts import DEMO_PARTS, LAYERS
    from partedit_oir.core.partedit.part_maps import part_maps

    from .tokens.engine import map_ious, mean_scores

    found: dict[str, dict[str, float]] = {}
    for part in DEMO_PARTS:
        _, latents, truth = held_out_parts(studio, part, count)
        each: dict[str, list[torch.Tensor]] = {}
        for start in range(0, count, BATCH):
            here, token = slice(start, start + BATCH), studio.token(part)
            maps = part_maps(
                studio.model, token, latents[here], studio.text(""), TOKEN_LEVEL, seed=start, layers=LAYERS
            )
            for name, values in map_ious(maps[:, :1], truth[here]).items():
                each.setdefault(name, []).append(values)
        found[part.label] = {name: float(torch.cat(values).mean()) for name, values in each.items()}
    return {"pictures": count, "mean": mean_scores(list(found.values())), "parts": found}


def judge_itself(studio: Any) -> dict[str, Any]:
    """The judge itself, on drawn pictures."""
    from .judge import accuracy, the_judge

    return accuracy(the_judge(), JUDGE_SCENES)


CHECKS: dict[str, Callable[..., dict[str, Any]]] = {
    "prompts": prompts,
    "vae": vae,
    "scorer": scorer,
    "tokens": tokens,
    "judge": judge_itself,
}


def measure(names: Sequence[str], file: Path, log: Callable[[str], None] = print) -> dict[str, Any]:
    """{check: figures}, kept in ``file``; what is there of the same weights is not measured again."""
    if not names:
        return {}
    weights = [*sorted((PACK_DIR / "demo" / "weights").iterdir()), *sorted((PACK_DIR / "tokens").glob("demo_*"))]
    weights.append(Path(__file__).with_name("judge.safetensors"))
    kept = Measured(file, [FORMAT, {one.name: sha256(one.read_bytes()).hexdigest() for one in weights}])

    @cache
    def studio() -> Any:
        from demo.training.studio import Studio

        return Studio()

    def run(name: str) -> dict[str, Any]:
        log(f"the demo's models: {name}")
        return CHECKS[name](studio())

    return {name: kept(name, None, partial(run, name)) for name in names}


def said(found: dict[str, Any]) -> list[str]:
    """The figures of `measure`, a line each."""
    return [SAID[name](figures) for name, figures in found.items()]


def _percent(figures: dict[str, Any], keys: Iterable[str]) -> str:
    return ", ".join(f"{key} {100 * figures[key]:.1f} %" for key in keys)


SAID: dict[str, Callable[[dict[str, Any]], str]] = {
    "prompts": lambda f: (
        f"Prompts: of {f['prompts']} pictures, {_percent(f, ('object', 'colour', 'both', 'pattern'))} are as asked; "
        f"{f['seconds_per_picture']:.1f} s each in batches of {BATCH}, on {f['threads']} threads."
    ),
    "vae": lambda f: f"VAE: {f['psnr_db']:.1f} dB over {f['pictures']} drawn pictures.",
    "scorer": lambda f: (
        f"Scorer: {_percent(f, ('kind', 'colour', 'pattern'))} of masked objects named right, in {f['scenes']} scenes."
    ),
    "tokens": lambda f: (
        f"Part tokens: mean IoU {f['mean']['adaptive']:.2f} (Otsu alone {f['mean']['otsu']:.2f}); "
        + ", ".join(f"{part} {one['adaptive']:.2f}" for part, one in f["parts"].items())
        + f"; {f['pictures']} drawn pictures each."
    ),
    "judge": lambda f: (
        f"Judge: {_percent(f, ('object', 'colour'))} of {f['things']} drawn things named right, "
        f"mean IoU of parts {f['part_iou']:.2f}."
    ),
}
