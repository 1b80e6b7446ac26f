"""Part token training as published: each step runs the whole UNet and keeps its graph.

The baseline for training on cached queries, in IoU, time and memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

QUERIES = ("picture", "token")


@dataclass(frozen=True)
class PublishedRecipe:
    """The published way of training: the token is the UNet's context, and the gradient runs back through its passes.

    AdamW with torch's own weight decay, rate 30, StepLR 80 × 0.7; the map is the softmax column of the part,
    summed over heads, layers and noise levels (here divided by their number, so that it can equal a mask), resized to
    the mask. The loss is the squared error between mask and map, where the paper states cross-entropy.

    Attributes:
        pictures, levels: drawn for each step; their passes keep one graph until the gradient is taken.
        queries: ``picture``: the rows with the token's context take the queries of the picture under its own prompt
            in every layer, as the published editing does, so the token is met as keys only. ``token``: they keep
            their own, so that the token's values, too, change what it is compared with.
    """

    steps: int
    pictures: int
    levels: int
    queries: str = "picture"
    learning_rate: float = 30.0
    lr_step: int = 80
    lr_gamma: float = 0.7
    seed: int = 0


class PublishedTraining:
    """One token learned by `PublishedRecipe`; used for a whole training, and for single steps that are timed.

    Attributes:
        rows: (2, D) parameter, background first.
        losses: of the steps so far.
    """

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

        from partedit_oir.core.unet import all_cross_layers

        if recipe.queries not in QUERIES:
            raise ValueError(f"queries: expected one of {', '.join(QUERIES)}, got {recipe.queries!r}.")
        comfy.model_management.load_models_gpu([model])
        self.inner, self.device = model.model, model.load_device
        self.inner.diffusion_model.requires_grad_(False)  # frozen there, too: no gradients of weights are kept
        self.layers, self.recipe = frozenset(layers), recipe
        self.every_layer = [layer.key for layer in all_cross_layers(model)]
        self.sigmas = torch.tensor(list(sigmas), device=self.device)
        with torch.inference_mode(False), torch.no_grad():
            self.latents = self.inner.process_latent_in(latents.detach().clone().float()).to(self.device)
            self.masks = masks.detach().clone().float().to(self.device)
            self.prompt = cond[0][0].detach().clone().to(self.device)
            pooled = cond[0][1]["pooled_output"].clone()
            size = {"width": latents.shape[-1] * 8, "height": latents.shape[-2] * 8}
            self.adm = self.inner.encode_adm(pooled_output=pooled, device=self.device, **size).to(self.device)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        width = cond[0][0].shape[-1]
        rows = torch.randn((2, width), generator=self.generator) * float(cond[0][0].float().std())
        self.rows = torch.nn.Parameter(rows.to(self.device))
        self.optimizer = torch.optim.AdamW([self.rows], lr=recipe.learning_rate)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, recipe.lr_step, recipe.lr_gamma)
        self.losses: list[float] = []

    def run(self) -> torch.Tensor:
        """All steps; returns the rows (2, D), background first."""
        for _ in range(self.recipe.steps):
            self.step()
        return self.rows.detach().float().cpu().clone()

    def step(self) -> None:
        """One step of the optimiser."""
        recipe = self.recipe
        with torch.inference_mode(False), torch.enable_grad():
            chosen = torch.randperm(len(self.latents), generator=self.generator)[: recipe.pictures]
            levels = torch.randperm(len(self.sigmas), generator=self.generator)[: recipe.levels]
            maps = torch.stack([self._drawn(chosen, int(level)) for level in levels]).mean(dim=0)
            target = self.masks[chosen]
            loss = F.mse_loss(F.interpolate(maps, target.shape[-2:], mode="bilinear"), target)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
        self.losses.append(float(loss.detach()))

    def _drawn(self, chosen: torch.Tensor, level: int) -> torch.Tensor:
        latents = self.latents[chosen]
        noise = torch.randn(latents.shape, generator=self.generator).to(latents)
        sigma = self.sigmas[level].expand(len(latents))
        return self.maps(self.inner.model_sampling.noise_scaling(sigma[:1], noise, latents, False), sigma)

    def maps(self, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """(n, 1, h, w) part maps of noisy latents (n, C, h, w) at sigma (n,), with the graph back to the rows."""
        from partedit_oir.core.attention import TOKEN_CONTEXT, grid_of, layer_of, plain_attention

        own: dict[Any, torch.Tensor] = {}
        found: list[torch.Tensor] = []

        def keep(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: dict[str, Any], _: Any) -> torch.Tensor:
            own[layer_of(extra)] = q
            return plain_attention(q, k, v, extra)

        def read(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: dict[str, Any], _: Any) -> torch.Tensor:
            layer, heads = layer_of(extra), extra["n_heads"]
            q = own.get(layer, q)
            if layer in self.layers:
                query, keys = (x.unflatten(-1, (heads, -1)).float() for x in (q, k))
                logits = torch.einsum("nqhd,nkhd->nhqk", query, keys) * query.shape[-1] ** -0.5
                part = logits.softmax(dim=-1)[..., 1].mean(dim=1).unflatten(-1, grid_of(extra))
                found.append(part[:, None])
            return plain_attention(q, k, v, extra)

        if self.recipe.queries == "picture":
            with torch.no_grad():  # the token has no part in this pass
                self._run_unet(noisy, sigma, self.prompt, keep)
        context = torch.cat([self.rows, self.rows[:1].expand(TOKEN_CONTEXT - 2, -1)])[None]
        self._run_unet(noisy, sigma, context, read)
        finest = max((one.shape[-2:] for one in found), key=lambda grid: grid[0] * grid[1])
        return torch.stack([F.interpolate(one, finest, mode="bilinear") for one in found]).mean(dim=0)

    def _run_unet(self, noisy: torch.Tensor, sigma: torch.Tensor, context: torch.Tensor, patch: Any) -> None:
        from partedit_oir.core.attention import chain_cross

        options: dict[str, Any] = {}
        chain_cross(options, self.every_layer, patch)
        self.inner.apply_model(
            noisy,
            sigma,
            c_crossattn=context.expand(len(noisy), -1, -1),
            y=self.adm.expand(len(noisy), -1),
            transformer_options=options,
        )
