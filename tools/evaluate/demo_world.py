"""Edits of the demo model's own world, drawn with exact masks, and success by the colour of what was edited."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from demo.training.parts import DEMO_PARTS
from demo.training.pictures import article, draw_scene, nearest_colour, plain_pair, plain_scene
from demo.world import BACKGROUNDS, COLOURS, OBJECTS, Look

from .cases import Case, Pair, Pictures

# No training script, judge, scorer or benchmark draws scenes with these seeds.
FIRST_SEED = 40_000_000


def drawn_parts(data: str, count: int, seed: int, pictures: Pictures) -> Iterator[Case]:
    """Drawn pictures of one object, one part of which gets another colour; the demo's five tokens in turn."""
    for k in range(count):
        part = DEMO_PARTS[k % len(DEMO_PARTS)]
        name = part.names[k // len(DEMO_PARTS) % len(part.names)]
        rng = np.random.default_rng([20271, seed, k])
        old, new = (str(c) for c in rng.choice(list(COLOURS), 2, replace=False))
        scene = plain_scene(name, Look(old), str(rng.choice(list(BACKGROUNDS))), FIRST_SEED + 10_000 * seed + k)
        picture = draw_scene(scene)
        mask = _mask(pictures, picture.part_mask(part.part, part.names))
        before, after = article(f"{old} {name}"), article(f"{new} {name}")
        yield Case(
            data,
            f"{k:03d} {name} {part.part} {old} to {new}",
            scene.caption,
            scene.caption.replace(before, after, 1),
            pictures.picture(Image.fromarray(picture.image)),
            mask,
            (Pair(before, after, mask, new),),
            f"{part.file}.safetensors",
            seed=k,
        )


def drawn_objects(data: str, count: int, seed: int, pictures: Pictures) -> Iterator[Case]:
    """Drawn pictures of two objects, each of which gets another colour."""
    for k in range(count):
        rng = np.random.default_rng([20272, seed, k])
        first, second = (str(n) for n in rng.choice(OBJECTS, 2, replace=False))
        a, b, c, d = (str(one) for one in rng.choice(list(COLOURS), 4, replace=False))
        background = str(rng.choice(list(BACKGROUNDS)))
        scene = plain_pair((first, second), (Look(a), Look(b)), background, FIRST_SEED + 10_000 * seed + k)
        picture = draw_scene(scene)
        pairs = tuple(
            Pair(article(f"{old} {name}"), article(f"{new} {name}"), _mask(pictures, picture.owner == place), new)
            for place, (name, old, new) in enumerate(((first, a, c), (second, b, d)), 1)
        )
        edit = scene.caption
        for pair in pairs:
            edit = edit.replace(pair.before, pair.after, 1)
        yield Case(
            data,
            f"{k:03d} {first} and {second}",
            scene.caption,
            edit,
            pictures.picture(Image.fromarray(picture.image)),
            pictures.union([pair.mask for pair in pairs]),
            pairs,
            seed=k,
        )


def generated_parts(data: str, count: int, seed: int, pictures: Pictures) -> Iterator[Case]:
    """Prompts alone; the model generates the source."""
    for k in range(count):
        part = DEMO_PARTS[k % len(DEMO_PARTS)]
        name = part.names[k // len(DEMO_PARTS) % len(part.names)]
        rng = np.random.default_rng([20273, seed, k])
        old, new = (str(c) for c in rng.choice(list(COLOURS), 2, replace=False))
        place = BACKGROUNDS[str(rng.choice(list(BACKGROUNDS)))]
        before, after = article(f"{old} {name}"), article(f"{new} {name}")
        yield Case(
            data,
            f"{k:03d} {name} {part.part} {old} to {new}",
            f"{before} {place}",
            f"{after} {place}",
            pairs=(Pair(before, after, "", new),),
            token=f"{part.file}.safetensors",
            seed=1000 * seed + k,
            judged=(name, part.part),
        )


def success(image: Image.Image, case: Case, pictures: Pictures) -> float | None:
    """1 if every object or part has its new colour in its exact mask, 0 if one has not; None if no colour is asked for.

    In a generated picture, whose exact masks nobody knows, the judge finds the part in the source and reads its colour
    in the edit; None where it sees no such part.

    Raises:
        JudgeError: the judge cannot be used.
    """
    if not all(pair.colour for pair in case.pairs) or not case.pairs:
        return None
    if case.generated:
        return _judged(pictures.open(case.picture), image, case) if case.judged and case.picture else None
    if not case.masked_pairs:
        return None
    pixels = np.asarray(image.convert("RGB"))
    regions = [np.asarray(pictures.open(pair.mask)) > 127 for pair in case.pairs]
    return float(all(nearest_colour(pixels, one) == pair.colour for one, pair in zip(regions, case.pairs)))


def _judged(source: Image.Image, edited: Image.Image, case: Case) -> float | None:
    from .judge import judge, the_judge

    both = [np.asarray(one.convert("RGB").resize((INPUT, INPUT))) for one in (source, edited)]
    before, after = judge(the_judge(), np.stack(both))
    assert case.judged is not None
    part = before.where(*case.judged)
    return float(after.attribute(part)[0] == case.pairs[0].colour) if part.sum() >= LEAST_CELLS else None


# The judge's pictures, and how many of its 64 × 64 cells a part has to fill to be judged.
INPUT, LEAST_CELLS = 256, 6


def _mask(pictures: Pictures, region: np.ndarray) -> str:
    return pictures.mask(Image.fromarray(region.astype(np.uint8) * 255))
