"""The paper's training recipe (equation 3) beside the pack's, on the demo's five parts at two noise stretches.

    python run.py bench token_recipes [--limit 20] [--tokens 2] [--seeds 1] [--steps 300] [--first-8] [--dice]

Every training is kept in ``token_recipes.partial.json``; a run that was stopped continues with the next one.

PartEdit's equation 3 gives each noise level and each layer a loss of its own, against the mask at that layer's size,
and sums them; while training, the token's softmax runs over its two rows. The pack's recipe averages the maps over
levels and layers first and takes one loss; the softmax runs over the 77 rows that an edit will see. To tell the
two differences apart, the pack's also with two rows; ``--dice`` adds both with cross-entropy plus Dice.

Trained on 20 generator pictures and their mirror images, as the demo's own tokens are, over the demo's noise stretch
and over TrainPartToken's default one (three levels of each), on the decoder's finest layers (which the demo's tokens
use) and, with ``--first-8``, on TrainPartToken's default ones (here four layers at two sizes). Judged on 40 held-out
pictures that no training script draws, at each of three noise levels, split by the adaptive threshold (counted as the
part from 0.5 on) and by Otsu's: the mean IoU over pictures, levels and seeds. A token is read over as many context rows
as it was trained over, as the padding ``auto`` does; ``..._other_rows`` is the other reading (a two-row token over 77
rows, as published, or the reverse).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from demo.training.common import prepare_cpu
from demo.training.parts import DEMO_PARTS, FIRST, LAYERS, LEVELS, DemoPart, single_scenes, training_views
from demo.training.studio import Studio
from tools.evaluate.demo_checks import held_out_parts
from tools.evaluate.tokens import engine

from . import results

NAME = "token_recipes"
TRAINING_PICTURES, PICTURES, STEPS, SEEDS = 20, 40, 300, 1
JUDGED = {"noise_low": 0.2, "noise_high": 0.8, "noise_count": 3}  # levels 0.3, 0.5, 0.7
NOISE_SEED = 77
STRETCHES: dict[str, dict[str, Any]] = {
    "0.3 to 0.95": {**LEVELS, "noise_count": 3},
    "0 to 0.25": {"noise_low": 0.0, "noise_high": 0.25, "noise_count": 3},
}
LAYER_SETS = {"finest layers": LAYERS, "first-8": "first-8"}
METHODS = ("adaptive", "otsu", "adaptive_other_rows", "otsu_other_rows")
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {"recipe": "paper"},
    "pack": {"recipe": "pack"},
    "pack, two rows": {"recipe": "pack", "softmax": "two_way"},
}
WITH_DICE: dict[str, dict[str, Any]] = {
    "paper, bce_dice": {"recipe": "paper", "loss": "bce_dice"},
    "pack, bce_dice": {"recipe": "pack", "loss": "bce_dice"},
}


def queries(studio: Studio, latents: torch.Tensor, levels: dict[str, Any], seed: int) -> Any:
    """QueryCache of latents at every layer of the sets, with the empty prompt."""
    keys = {key for choice in LAYER_SETS.values() for key in engine.layers_of(studio.model, choice)}
    return engine.queries(studio.model, studio.text(""), latents, sorted(keys), levels, seed)


def scores(cache: Any, rows: torch.Tensor, truth: torch.Tensor, padding: str) -> dict[str, float]:
    """Mean IoU over the cache's pictures and noise levels, by threshold; ``padding`` as in `layer_maps`."""
    return engine.mean_scores(engine.level_scores(cache, rows, truth, padding, (32, 32)))


def train(
    cache: Any, masks: torch.Tensor, part: DemoPart, scale: float, seed: int, steps: int, **changes: Any
) -> tuple[torch.Tensor, str]:
    """Rows of a token, and the padding that they were trained with."""
    return engine.train(cache, masks, scale, part_names=(part.label,), steps=steps, seed=seed, **changes)


@dataclasses.dataclass
class Run:
    """The scores of all trainings so far: {part: {stretch, layers: {recipe: [{METHODS} of each seed]}}}."""

    held_out: int
    seeds: int
    steps: int
    layer_sets: tuple[str, ...]
    recipes: dict[str, dict[str, Any]]
    scores: dict[str, dict[str, dict[str, list[dict[str, float]]]]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of the stretches and layers that tokens are trained on."""
        return tuple(f"{stretch}, {name}" for stretch in STRETCHES for name in self.layer_sets)

    @property
    def settings(self) -> dict[str, int]:
        return {
            "held_out_pictures_a_token": self.held_out,
            "training_pictures": TRAINING_PICTURES,
            "steps": self.steps,
            "seeds": self.seeds,
        }

    def resume(self) -> None:
        """Take over what a stopped run with the same settings has left."""
        file = results.RESULTS / f"{NAME}.partial.json"
        if not file.is_file():
            return
        left = json.loads(file.read_text(encoding="utf-8"))
        if all(left.get(name) == value for name, value in self.settings.items()) and "trainings" in left:
            self.scores, self.seconds = left["trainings"], left["seconds"]

    def of(self, part: str, setting: str, recipe: str) -> list[dict[str, float]]:
        return self.scores.setdefault(part, {}).setdefault(setting, {}).setdefault(recipe, [])

    def missing(self, part: str, setting: str, recipe: str) -> range:
        return range(len(self.of(part, setting, recipe)), self.seeds)

    def complete(self, part: str) -> bool:
        return not any(self.missing(part, setting, recipe) for setting in self.cells for recipe in self.recipes)

    def write(self, parts: Sequence[str]) -> None:
        done = {part: part_means(self.scores[part], self.cells, self.recipes) for part in parts if self.complete(part)}
        whole = len(done) == len(DEMO_PARTS) and self.held_out >= PICTURES and self.seeds >= SEEDS
        values = {
            "what": "mean IoU on held-out pictures at noise 0.3, 0.5 and 0.7; each token is read over the rows that it "
            "was trained over (2 or 77), other_rows: over the others",
            **self.settings,
            "seconds": round(self.seconds),
            "mean": mean_over_parts(done) if done else {},
            "parts": done,
        }
        if not whole:
            values["trainings"] = self.scores
        results.write_result(NAME, values, table(done) if done else None, whole)


def judge_part(studio: Studio, part: DemoPart, run: Run, parts: Sequence[str]) -> None:
    """Train and judge all tokens of one part that ``run`` does not have yet."""
    views, masks, _ = training_views(single_scenes(part.names, FIRST, TRAINING_PICTURES), part)
    _, held_out, truth = held_out_parts(studio, part, run.held_out)
    latents = studio.encode(views)
    judged = queries(studio, held_out, JUDGED, NOISE_SEED)
    scale = float(studio.text("")[0][0].std())
    for stretch, levels in STRETCHES.items():
        cache = queries(studio, latents, levels, 0)
        for name in run.layer_sets:
            choice, setting = LAYER_SETS[name], f"{stretch}, {name}"
            layers = engine.layers_of(studio.model, choice)
            trained_on, seen = engine.subset(cache, layers), engine.subset(judged, layers)
            for recipe, changes in run.recipes.items():
                for seed in run.missing(part.label, setting, recipe):
                    started = time.perf_counter()
                    token, padding = train(trained_on, masks, part, scale, seed, run.steps, **changes)
                    other = scores(seen, token, truth, "none" if padding == "background" else "background")
                    own = scores(seen, token, truth, padding)
                    run.of(part.label, setting, recipe).append(
                        {**own, **{f"{k}_other_rows": v for k, v in other.items()}}
                    )
                    run.seconds += time.perf_counter() - started
                    run.write(parts)


def part_means(
    settings: dict[str, dict[str, list[dict[str, float]]]], cells: Sequence[str], recipes: Iterable[str]
) -> dict[str, Any]:
    """{stretch, layers: {recipe: {mean over seeds of each of METHODS, adaptive_each_seed}}} of one part."""
    return {
        setting: {
            recipe: {
                **{method: float(np.mean([one[method] for one in each])) for method in METHODS},
                "adaptive_each_seed": [one["adaptive"] for one in each],
            }
            for recipe, each in ((name, settings[setting][name]) for name in recipes)
        }
        for setting in cells
    }


def mean_over_parts(parts: dict[str, Any]) -> dict[str, Any]:
    first = next(iter(parts.values()))
    return {
        setting: {
            recipe: {
                method: float(np.mean([one[setting][recipe][method] for one in parts.values()])) for method in METHODS
            }
            for recipe in recipes
        }
        for setting, recipes in first.items()
    }


def table(parts: dict[str, Any]) -> np.ndarray:
    """The adaptive IoUs as a picture (H, W, 3) uint8: a block per setting, a row per recipe, a column per part."""
    large, small = ImageFont.load_default(18), ImageFont.load_default(15)
    settings = list(next(iter(parts.values())))
    recipes = list(next(iter(parts.values()))[settings[0]])
    columns = [*parts, "mean"]
    left, step, row = 230, 110, 24
    height = 50 + len(settings) * (len(recipes) + 3) * row
    picture = Image.new("RGB", (left + step * len(columns) + 20, height), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    title = "Mean IoU on held-out pictures (adaptive threshold), demo checkpoint"
    draw.text((16, 12), title, fill=(20, 20, 26), font=large)
    y = 50
    means = mean_over_parts(parts)
    for setting in settings:
        draw.text((16, y), f"trained on noise {setting}", fill=(0, 90, 150), font=small)
        y += row
        for index, name in enumerate(columns):
            draw.text((left + index * step, y), name, fill=(110, 110, 118), font=small)
        y += row
        cells = {
            recipe: [*(one[setting][recipe]["adaptive"] for one in parts.values()), means[setting][recipe]["adaptive"]]
            for recipe in recipes
        }
        best = [max(column) for column in zip(*cells.values(), strict=True)]
        for recipe, values in cells.items():
            draw.text((30, y), recipe, fill=(20, 20, 26), font=small)
            for index, value in enumerate(values):
                colour = (0, 128, 90) if value == best[index] else (20, 20, 26)
                draw.text((left + index * step, y), f"{value:.3f}", fill=colour, font=small)
            y += row
        y += row
    return np.asarray(picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=PICTURES, help="held-out pictures a token")
    parser.add_argument("--tokens", type=int, default=len(DEMO_PARTS), help="only the first so many parts")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings of each token")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps of a training")
    parser.add_argument("--dice", action="store_true", help="also with the loss bce_dice")
    parser.add_argument("--first-8", action="store_true", help="on TrainPartToken's default layers, too")
    args = parser.parse_args()
    prepare_cpu()
    layers = tuple(LAYER_SETS) if args.first_8 else tuple(LAYER_SETS)[:1]
    run = Run(args.limit, args.seeds, args.steps, layers, RECIPES | (WITH_DICE if args.dice else {}))
    run.resume()
    wanted = DEMO_PARTS[: args.tokens]
    labels = [part.label for part in wanted]
    studio = Studio()
    for part in wanted:
        if not run.complete(part.label):
            judge_part(studio, part, run, labels)
    run.write(labels)


if __name__ == "__main__":
    main()
