"""The baseline for learned part tokens: the attention of the part's own word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from demo.training.parts import LAYERS, DemoPart
from demo.training.studio import Studio
from demo.world import BACKGROUNDS, Picture


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


def word_columns(clip: Any, prompt: str, word: str) -> list[int]:
    """Positions of a word of one token in a prompt's context.

    Raises:
        ValueError: the prompt does not hold it.
    """
    numbers = [entry[0] for entry in next(iter(clip.tokenize(prompt).values()))[0]]
    wanted = next(iter(clip.tokenize(word).values()))[0][1][0]
    columns = [index for index, number in enumerate(numbers) if number == wanted]
    if not columns:
        raise ValueError(f"{prompt!r} does not hold the word {word!r}.")
    return columns


def word_maps(
    studio: Studio, latents: torch.Tensor, prompts: Sequence[str], word: str, sigmas: Sequence[float], seed: int
) -> dict[str, torch.Tensor]:
    """A word's own cross-attention in noised pictures (DAAM, Tang et al. 2023), each with its own prompt.

    softmax(q·kᵀ/√d) over the whole context of the prompt, the word's columns, averaged over heads, noise levels and
    layers, each layer resized (bilinear) to the latent's size.

    Args:
        latents: (N, C, h, w). prompts: N. sigmas: noise levels. seed: of the noise, other for each picture and level.

    Returns:
        For "all layers" and for "token layers" (the layers that the demo's tokens use): (N, 1, h, w).
    """
    from partedit_oir.core.partedit.layers import choose_layers
    from partedit_oir.core.training.query_cache import build_query_cache
    from partedit_oir.core.unet import all_cross_layers

    known = all_cross_layers(studio.model)
    sets = {name: choose_layers(known, choice) for name, choice in (("all layers", "all"), ("token layers", LAYERS))}
    size = (latents.shape[-2], latents.shape[-1])
    found: dict[str, list[torch.Tensor]] = {name: [] for name in sets}
    for index, prompt in enumerate(prompts):
        cond = studio.text(prompt)
        columns = word_columns(studio.clip, prompt, word)
        cache = build_query_cache(
            studio.model, latents[index : index + 1], cond, sets["all layers"], sigmas, seed=seed + index
        )
        maps = {}
        for layer in cache.layers:
            heads = cache.heads[layer]
            query = cache.queries[layer][0].float().unflatten(-1, (heads, -1))
            keys = (cond[0][0][0].float().cpu() @ cache.key_weights[layer].cpu()).unflatten(-1, (heads, -1))
            logits = torch.einsum("tqhd,khd->thqk", query, keys) * query.shape[-1] ** -0.5
            seen = logits.softmax(dim=-1)[..., columns].sum(dim=-1).mean(dim=(0, 1))
            maps[layer] = F.interpolate(seen.view(1, 1, *cache.grids[layer]), size, mode="bilinear")
        for name, layers in sets.items():
            found[name].append(torch.stack([maps[layer] for layer in layers]).mean(dim=0))
    return {name: torch.cat(each) for name, each in found.items()}
