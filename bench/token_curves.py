"""How many images a part token needs, and how it compares with baselines, on the demo checkpoint.

    python run.py bench token_curves [--limit 20] [--tokens 2]

For each of the demo's five parts: 20 training images and 100 held-out ones, all drawn, with exact masks. Every map is
the mean over three noise levels (0.3, 0.5, 0.7 of the diffusion time) and becomes a mask by the adaptive threshold
(part where at least 0.5). On the same held-out images:

- tokens trained on cached queries with 1, 2, 5, 10 and 20 images and their mirror images, like the demo's own tokens
  (the mean over a few draws of the images);
- the same maps under plain Otsu, without the adaptive band;
- the word's own cross-attention (DAAM, Tang et al. 2023): the column of the part's word in a prompt, with a short
  prompt ("a cat with a head") and with the image's full caption ("a red cat with a blue head in the snow"), over all
  layers and over the token's layers;
- tokens trained as published, through full passes of the UNet, in few steps (see ``published_recipe`` in the result)
  over which the learning rate falls as far as over the published 2000: as keys for the image's own queries, and as the
  only prompt, whose values change the queries too (at the published rate and at a smaller one); and for comparison the
  same recipe on cached queries.

Time and memory of each kind of training are measured in separate processes.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from demo.training.common import prepare_cpu
from demo.training.parts import (
    DEMO_PARTS,
    FIRST,
    HELD_OUT,
    LAYERS,
    DemoPart,
    part_masks,
    single_scenes,
    token_settings,
    training_views,
)
from demo.training.studio import Studio
from demo.world import Picture
from tools.evaluate.tokens import engine
from tools.evaluate.tokens.engine import scores

from .charts import COLOURS, INK, Level, Line, chart
from .part_tokens import PICTURES
from .peak_memory import Peak, hand_over, in_a_fresh_process
from .published_training import QUERIES, PublishedRecipe, PublishedTraining
from .results import write_result
from .token_baselines import full_prompt, short_prompt, word_maps

NAME = "token_curves"
COUNTS = (1, 2, 5, 10, 20)  # training pictures
JUDGED = {"noise_low": 0.2, "noise_high": 0.8, "noise_count": 3}  # levels 0.3, 0.5, 0.7
NOISE_SEED = 77
TIMED_STEPS = 4
WAYS = ("cached", *QUERIES)
THROUGH_THE_UNET: dict[str, dict[str, Any]] = {
    "through the UNet, the picture's queries": {"queries": "picture"},
    "through the UNet, the token's queries": {"queries": "token"},
    "through the UNet, the token's queries, rate 1": {"queries": "token", "learning_rate": 1.0},
}


@dataclass
class PartData:
    """What one part's tokens are trained on and judged by.

    Attributes:
        latents, masks: of the training views, the pictures and then the same mirrored: (40, C, h, w), (40, 1, H, W).
        training: their queries, with the empty prompt, at the training's noise levels.
        pictures, held_latents: the held-out pictures. held_out: their queries at the judged levels.
    """

    part: DemoPart
    latents: torch.Tensor
    masks: torch.Tensor
    training: Any
    pictures: list[Picture]
    held_latents: torch.Tensor
    held_out: Any

    @property
    def truth(self) -> torch.Tensor:
        """(N, H, W) bool masks of the held-out pictures."""
        return part_masks(self.pictures, self.part)[:, 0] > 0.5


def queries(studio: Studio, latents: torch.Tensor, levels: dict[str, Any], seed: int) -> Any:
    """QueryCache of latents at the demo's token layers, with the empty prompt."""
    layers = engine.layers_of(studio.model, LAYERS)
    return engine.queries(studio.model, studio.text(""), latents, layers, levels, seed)


def prepare(studio: Studio, part: DemoPart, count: int) -> PartData:
    views, masks, _ = training_views(single_scenes(part.names, FIRST, COUNTS[-1]), part)
    pictures = single_scenes(part.names, HELD_OUT, count)
    latents, held = studio.encode(views), studio.encode(np.stack([p.image for p in pictures]))
    settings = token_settings(part)
    levels = {key: getattr(settings, key) for key in JUDGED}
    training = queries(studio, latents, levels, settings.seed)
    return PartData(part, latents, masks, training, pictures, held, queries(studio, held, JUDGED, NOISE_SEED))


def token_scores(data: PartData, rows: torch.Tensor, latent: int = 32) -> dict[str, float]:
    return scores(engine.part_maps(data.held_out, rows, "background", (latent, latent)), data.truth)


def train(studio: Studio, data: PartData, pictures: list[int], **changes: Any) -> torch.Tensor:
    """Rows learned from some of the training pictures and their mirror images, on the cache."""
    from partedit_oir.core.training.training import train_on_cache

    views = [*pictures, *(COUNTS[-1] + index for index in pictures)]
    cache = engine.subset(data.training, pictures=views)
    settings = dataclasses.replace(token_settings(data.part), **changes)
    rows, _ = train_on_cache(cache, data.masks[views], settings, init_scale=float(studio.text("")[0][0].std()))
    return rows


def curve(studio: Studio, data: PartData, draws: int) -> dict[str, Any]:
    """Per number of training pictures: mean and spread of the IoU over draws of the pictures."""
    result: dict[str, Any] = {}
    for count in COUNTS:
        found: dict[str, list[float]] = {"adaptive": [], "otsu": []}
        for draw in range(draws):
            order = torch.randperm(COUNTS[-1], generator=torch.Generator().manual_seed(draw)).tolist()
            rows = train(studio, data, sorted(order[:count]), seed=draw)
            for method, value in token_scores(data, rows).items():
                found[method].append(value)
        result[str(count)] = {key: {"mean": float(np.mean(v)), "each": v} for key, v in found.items()}
    return result


def words(studio: Studio, data: PartData) -> dict[str, Any]:
    """IoU of the word's own attention for both kinds of prompt and both sets of layers."""
    result: dict[str, Any] = {}
    for name, prompt in (("short prompt", short_prompt), ("full prompt", full_prompt)):
        prompts = [prompt(picture, data.part) for picture in data.pictures]
        found = word_maps(studio, data.held_latents, prompts, data.part.part, data.held_out.sigmas, NOISE_SEED)
        for layers, maps in found.items():
            result[f"{name}, {layers}"] = {"prompt of the first": prompts[0], **scores(maps, data.truth)}
    return result


def few_steps(steps: int) -> PublishedRecipe:
    """The published recipe, shortened: little work per step, and the rate falls sooner so that it still converges."""
    return PublishedRecipe(steps, pictures=2, levels=1, lr_step=max(1, round(80 * steps / 2000)))


def published(studio: Studio, data: PartData, recipe: PublishedRecipe) -> dict[str, Any]:
    """IoU of tokens trained through the UNet, and of one trained by the same recipe on cached queries."""
    cache, result = data.training, {}
    for name, changes in THROUGH_THE_UNET.items():
        clock = time.perf_counter()
        training = PublishedTraining(
            studio.model,
            data.latents,
            data.masks,
            studio.text(""),
            cache.layers,
            cache.sigmas,
            dataclasses.replace(recipe, **changes),
        )
        rows = training.run()
        seconds, losses = round(time.perf_counter() - clock, 1), training.losses
        figures = {"seconds": seconds, "loss": float(np.mean(losses[-10:])), "norm": float(rows.norm(dim=-1).mean())}
        result[name] = {**figures, **token_scores(data, rows)}
    rows = train(
        studio,
        data,
        list(range(COUNTS[-1])),
        steps=recipe.steps,
        batch_size=recipe.pictures,
        loss="l2",
        learning_rate=recipe.learning_rate,
        learning_rate_rule="embedding",
        lr_step=recipe.lr_step,
        lr_gamma=recipe.lr_gamma,
    )
    return {**result, "the same recipe on the cache": token_scores(data, rows)}


# --- time and memory ---------------------------------------------------------------------------------------


def measure(way: str) -> dict[str, Any]:
    """In a process of its own: seconds and memory of training one token on 20 pictures, one way of ``WAYS``."""
    studio = Studio()
    part = DEMO_PARTS[1]
    settings = token_settings(part)
    views, masks, sources = training_views(single_scenes(part.names, FIRST, COUNTS[-1]), part)
    latents = studio.encode(views)
    text = studio.text("")
    # The first pass of a model also takes what any use of it takes.
    queries(studio, latents[:1], {**JUDGED, "noise_count": 1}, 0)
    if way == "cached":
        from partedit_oir.core.training.training import train_part_token

        with Peak() as peak:
            _, report = train_part_token(studio.model, latents, masks, text, settings, sources=sources)
        parts = {"seconds_caching": report.seconds_cache, "seconds_training": report.seconds_training}
        figures = {"steps": settings.steps, "seconds": peak.seconds, **parts, "cache_bytes": report.cache_bytes}
        return {**figures, **_memory(peak)}
    from partedit_oir.core.partedit.layers import choose_layers
    from partedit_oir.core.training.query_cache import noise_levels
    from partedit_oir.core.unet import all_cross_layers

    layers = choose_layers(all_cross_layers(studio.model), LAYERS)
    sigmas = noise_levels(studio.model, settings.noise_low, settings.noise_high, settings.noise_count)
    recipe = PublishedRecipe(settings.steps, settings.batch_size, settings.noise_count, queries=way)
    with Peak() as peak:
        training = PublishedTraining(studio.model, latents, masks, text, layers, sigmas, recipe)
        for _ in range(TIMED_STEPS):
            training.step()
    return {
        "steps_measured": TIMED_STEPS,
        "seconds_measured": peak.seconds,
        "seconds_extrapolated": peak.seconds / TIMED_STEPS * settings.steps,
        **_memory(peak),
    }


def _memory(peak: Peak) -> dict[str, Any]:
    return {"peak_bytes_beyond_the_model": peak.bytes, "bytes_before": peak.start, "exact": peak.exact}


def cost() -> dict[str, Any]:
    """All ways side by side."""
    ways = {way: in_a_fresh_process("bench.token_curves", ["--measure", way]) for way in WAYS}
    one = ways["cached"]
    ratios = {
        way: {
            "time": ways[way]["seconds_extrapolated"] / one["seconds"],
            "memory": ways[way]["peak_bytes_beyond_the_model"] / max(one["peak_bytes_beyond_the_model"], 1),
        }
        for way in QUERIES
    }
    return {
        "what": "20 pictures and their mirror images, each step four of these at five noise levels, as many steps; "
        "through the UNet, with the queries of the picture or of the token, timed on a few steps (seconds_measured) "
        "and extrapolated. Without loading and without the VAE.",
        **ways,
        "ratios_to_cached": ratios,
    }


# --- the whole ---------------------------------------------------------------------------------------------


def means(tokens: dict[str, Any]) -> dict[str, Any]:
    """Means over the tokens of whatever all of them have."""
    result: dict[str, Any] = {}
    each = list(tokens.values())
    for count in COUNTS:
        curves = [token["curve"][str(count)] for token in each if "curve" in token]
        if curves:
            result[f"token, {count} pictures"] = {k: float(np.mean([c[k]["mean"] for c in curves])) for k in curves[0]}
    for stage in ("word", "published"):
        found = [token[stage] for token in each if stage in token]
        for name in found[0] if found else ():
            result[name] = {k: float(np.mean([f[name][k] for f in found])) for k in ("adaptive", "otsu")}
    return result


def picture_of(tokens: dict[str, Any]) -> np.ndarray | None:
    """The curves as a chart; error bars are the standard error of the mean over the tokens."""
    curves = {label: token["curve"] for label, token in tokens.items() if "curve" in token}
    if not curves:
        return None
    lines = [
        Line(label, [one[str(n)]["adaptive"]["mean"] for n in COUNTS], COLOURS[index % len(COLOURS)])
        for index, (label, one) in enumerate(curves.items())
    ]
    values = [[one[str(n)]["adaptive"]["mean"] for one in curves.values()] for n in COUNTS]
    errors = [float(np.std(v) / max(len(v) - 1, 1) ** 0.5) for v in values]
    middle = Line("mean of the tokens", [float(np.mean(v)) for v in values], INK, errors, thick=True)
    average = means(tokens)
    others = {"Otsu, 20 pictures": average[f"token, {COUNTS[-1]} pictures"]["otsu"]}
    word = {name: value["adaptive"] for name, value in average.items() if "prompt" in name}
    if word:
        others["the word (its best)"] = max(word.values())
    through = {name: value["adaptive"] for name, value in average.items() if name in THROUGH_THE_UNET}
    if through:
        others["through the UNet (its best)"] = max(through.values())
    levels = [Level(name, value, COLOURS[-1 - index]) for index, (name, value) in enumerate(others.items())]
    title = "IoU on held-out pictures, demo checkpoint"
    below = "training pictures (error bars: standard error over the tokens)"
    return chart(title, below, [*map(str, COUNTS)], [*lines, middle], levels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=PICTURES, help="held-out pictures a token")
    parser.add_argument("--tokens", type=int, default=len(DEMO_PARTS), help="number of tokens to run")
    parser.add_argument("--draws", type=int, default=2, help="draws of the training pictures for each point")
    parser.add_argument("--published-steps", type=int, default=300, help="steps of the training through the UNet")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    prepare_cpu()
    if args.measure:
        hand_over(measure(args.measure))
        return
    started = time.perf_counter()
    studio = Studio()
    recipe = few_steps(args.published_steps)
    tokens: dict[str, Any] = {}
    values: dict[str, Any] = {
        "held_out_pictures_a_token": args.limit,
        "draws": args.draws,
        "judged_at": [0.3, 0.5, 0.7],
        "published_recipe": dataclasses.asdict(recipe),
    }

    def keep(whole: bool = False) -> None:
        values.update({"seconds": round(time.perf_counter() - started), "mean": means(tokens), "tokens": tokens})
        write_result(NAME, values, picture_of(tokens), whole)

    ready = []
    for part in DEMO_PARTS[: args.tokens]:
        ready.append(prepare(studio, part, args.limit))
        tokens[part.label] = {"curve": curve(studio, ready[-1], args.draws)}
        keep()
    for stage, work in (
        ("word", lambda data: words(studio, data)),
        ("published", lambda data: published(studio, data, recipe)),
    ):
        for data in ready:
            tokens[data.part.label][stage] = work(data)
            keep()
    values["cost"] = cost()
    keep(whole=args.limit >= PICTURES and args.tokens >= len(DEMO_PARTS))


if __name__ == "__main__":
    main()
