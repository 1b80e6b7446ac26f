"""What learned part tokens are compared with: the word's own attention, and training through the whole UNet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from demo.train_tokens import LAYERS, DemoPart
from demo.world import BACKGROUNDS, Picture

from .studio import Studio

# --- the word ----------------------------------------------------------------------------------------------


def short_prompt(picture: Picture, part: DemoPart) -> str:
    """The object and its part, nothing else: "a cat with a head"."""
    return f"a {picture.scene.things[0].name} with a {part.part}"


def full_prompt(picture: Picture, part: DemoPart) -> str:
    """The picture told as its own caption would, the part included: "a red cat with a blue head in the snow"."""
    from demo.pictures import article

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
    from partedit_oir.core.partedit.query_cache import build_query_cache
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


# --- training through the whole UNet -----------------------------------------------------------------------


@dataclass(frozen=True)
class PublishedRecipe:
    """The published way of training: the token is the UNet's context, and the gradient runs back through its passes.

    AdamW with torch's own weight decay, rate 30, StepLR 80 × 0.7, L2 between mask and map; the map is the softmax
    column of the part, summed over heads, layers and noise levels (here divided by their number, so that it can equal
    a mask), resized to the mask.

    Attributes:
        pictures, levels: drawn for each step; their passes keep one graph until the gradient is taken.
    """

    steps: int
    pictures: int
    levels: int
    learning_rate: float = 30.0
    lr_step: int = 80
    lr_gamma: float = 0.7
    seed: int = 0


class PublishedTraining:
    """One token learned by `PublishedRecipe`; used for a whole training, and for single steps that are timed."""

    def __init__(
        self,
        model: Any,
        latents: torch.Tensor,
        masks: torch.Tensor,
        cond: Any,
        layers: Sequence[Any],
        sigmas: Sequence[float],
        recipe: PublishedRecipe,
    ) -> None:
        """``latents`` (N, C, h, w); ``masks`` (N, 1, H, W); ``sigmas`` the levels that are drawn from."""
        import comfy.model_management

        comfy.model_management.load_models_gpu([model])
        self.inner, self.device = model.model, model.load_device
        self.inner.diffusion_model.requires_grad_(False)  # frozen there, too: no gradients of weights are kept
        self.layers, self.recipe = tuple(layers), recipe
        self.sigmas = torch.tensor(list(sigmas), device=self.device)
        with torch.inference_mode(False), torch.no_grad():
            self.latents = self.inner.process_latent_in(latents.detach().clone().float()).to(self.device)
            self.masks = masks.detach().clone().float().to(self.device)
            pooled = cond[0][1]["pooled_output"].clone()
            size = {"width": latents.shape[-1] * 8, "height": latents.shape[-2] * 8}
            self.adm = self.inner.encode_adm(pooled_output=pooled, device=self.device, **size).to(self.device)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        width = cond[0][0].shape[-1]
        rows = torch.randn((2, width), generator=self.generator) * float(cond[0][0].float().std())
        self.rows = torch.nn.Parameter(rows.to(self.device))
        self.optimizer = torch.optim.AdamW([self.rows], lr=recipe.learning_rate)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, recipe.lr_step, recipe.lr_gamma)

    def run(self) -> torch.Tensor:
        """All steps; returns the rows (2, D), background first."""
        for _ in range(self.recipe.steps):
            self.step()
        return self.rows.detach().float().cpu().clone()

    def step(self) -> float:
        """One step of the optimiser; returns its loss."""
        recipe = self.recipe
        with torch.inference_mode(False), torch.enable_grad():
            chosen = torch.randperm(len(self.latents), generator=self.generator)[: recipe.pictures]
            levels = torch.randperm(len(self.sigmas), generator=self.generator)[: recipe.levels]
            maps = torch.stack([self._maps(chosen, int(level)) for level in levels]).mean(dim=0)
            target = self.masks[chosen]
            loss = F.mse_loss(F.interpolate(maps, target.shape[-2:], mode="bilinear"), target)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
        return float(loss.detach())

    def _maps(self, chosen: torch.Tensor, level: int) -> torch.Tensor:
        """(n, 1, h, w) part maps of the chosen pictures at one level, with the graph back to the rows."""
        from partedit_oir.core.attention import TOKEN_CONTEXT, chain_cross, grid_of, plain_attention

        found: list[torch.Tensor] = []

        def read(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: dict[str, Any], _: Any) -> torch.Tensor:
            heads = extra["n_heads"]
            query, keys = (x.unflatten(-1, (heads, -1)).float() for x in (q, k))
            logits = torch.einsum("nqhd,nkhd->nhqk", query, keys) * query.shape[-1] ** -0.5
            part = logits.softmax(dim=-1)[..., 1].mean(dim=1).unflatten(-1, grid_of(extra))
            found.append(part[:, None])
            return plain_attention(q, k, v, extra)

        latents = self.latents[chosen]
        noise = torch.randn(latents.shape, generator=self.generator).to(latents)
        sigma = self.sigmas[level].expand(len(latents))
        noisy = self.inner.model_sampling.noise_scaling(sigma[:1], noise, latents, False)
        context = torch.cat([self.rows, self.rows[:1].expand(TOKEN_CONTEXT - 2, -1)])
        options: dict[str, Any] = {}
        chain_cross(options, self.layers, read)
        self.inner.apply_model(
            noisy,
            sigma,
            c_crossattn=context.expand(len(latents), -1, -1),
            y=self.adm.expand(len(latents), -1),
            transformer_options=options,
        )
        finest = max((one.shape[-2:] for one in found), key=lambda grid: grid[0] * grid[1])
        return torch.stack([F.interpolate(one, finest, mode="bilinear") for one in found]).mean(dim=0)
