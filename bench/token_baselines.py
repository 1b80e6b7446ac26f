"""The baseline for learned part tokens: the attention of the part's own word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from demo.training.parts import LAYERS, DemoPart
from demo.training.studio import Studio
from demo.world import BACKGROUNDS, Picture
from tools.evaluate.tokens import engine


def short_prompt(picture: Picture, part: DemoPart) -> str:
    """The object and its part, nothing else: "a cat with a head"."""
    return f"a {picture.scene.things[0].name} with a {part.part}"


def full_prompt(picture: Picture, part: DemoPart) -> str:
    """The image's full caption, including the part: "a red cat with a blue head in the snow"."""
    from demo.training.pictures import article

    thing = picture.scene.things[0]
    base = Counter(look.words for look in thing.looks.values()).most_common(1)[0][0]
    look = article(thing.looks[part.part].words)
    return f"{article(base)} {thing.name} with {look} {part.part} {BACKGROUNDS[picture.scene.background]}"


def word_maps(
    studio: Studio, latents: torch.Tensor, prompts: Sequence[str], word: str, sigmas: Sequence[float], seed: int
) -> dict[str, torch.Tensor]:
    """The word's own attention over "all layers" and over "token layers", those that the demo's tokens use.

    See `engine.word_maps`.
    """
    sets = {"all layers": engine.layers_of(studio.model, "all"), "token layers": engine.layers_of(studio.model, LAYERS)}
    return engine.word_maps(studio.model, studio.clip, latents, prompts, word, sigmas, seed, sets)
