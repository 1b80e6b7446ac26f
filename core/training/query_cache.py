"""Cached queries: computed once per image and noise level, so that training does not run the model.

A token enters the network only as keys of the cross-attention layers, and the network is frozen. So the queries of the
chosen layers, for each image and noise level, determine everything that a loss on attention maps depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.samplers
import torch

from ..attention import capture_queries, key_projection
from ..guidance import unguided
from ..hooks import without_dynamic_memory
from ..step_caches import without_step_caches
from ..unet import LayerKey

Progress = Callable[[int, int], None]

# Left free on the device next to a cache: activations of a training step, and other users.
SPARE_DEVICE_BYTES = 2 * 1024**3


@dataclass
class QueryCache:
    """Queries and key projections of a frozen model.

    Attributes:
        queries: per layer (N, T, h·w, heads·d), half precision; N images, T noise levels.
        key_weights: per layer (D, heads·d), float32: a context row times this gives the layer's key.
        heads: per layer, number of attention heads.
        grids: per layer, (h, w) of its map.
        sigmas: the T noise levels, in ComfyUI's σ.
    """

    queries: dict[LayerKey, torch.Tensor] = field(default_factory=dict)
    key_weights: dict[LayerKey, torch.Tensor] = field(default_factory=dict)
    heads: dict[LayerKey, int] = field(default_factory=dict)
    grids: dict[LayerKey, tuple[int, int]] = field(default_factory=dict)
    sigmas: tuple[float, ...] = ()

    @property
    def layers(self) -> tuple[LayerKey, ...]:
        return tuple(self.queries)

    @property
    def pictures(self) -> int:
        return next(iter(self.queries.values())).shape[0]

    @property
    def width(self) -> int:
        """D, the width of a context row."""
        return next(iter(self.key_weights.values())).shape[0]

    @property
    def nbytes(self) -> int:
        return sum(q.numel() * q.element_size() for q in self.queries.values())

    @property
    def finest_grid(self) -> tuple[int, int]:
        return max(self.grids.values(), key=lambda grid: grid[0] * grid[1])


def noise_levels(model: Any, low: float, high: float, count: int) -> tuple[float, ...]:
    """``count`` levels spread evenly over a range of the diffusion time, noisiest first.

    Args:
        low, high: fraction of the training timesteps, 0 (clean) to 1 (noise); the paper's strength 0.25 is 0 to 0.25.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(
            f"noise_low, noise_high: expected 0 <= noise_low < noise_high <= 1, got {low} and {high}. Give noise_high "
            "the larger value."
        )
    if count < 1:
        raise ValueError(f"noise_count: expected at least 1, got {count}.")
    sampling = model.get_model_object("model_sampling")
    times = [high - (index + 0.5) / count * (high - low) for index in range(count)]
    return tuple(float(sampling.percent_to_sigma(1 - time)) for time in times)


class _CaptureSampler(comfy.samplers.Sampler):
    """Visits each noise level with fresh noise instead of denoising; the guider around it loads the model."""

    def __init__(self, noises: torch.Tensor, on_level: Callable[[int], None], at_end: Callable[[Any], None]):
        self.noises, self.on_level, self.at_end = noises, on_level, at_end

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        sampling = model_wrap.inner_model.model_sampling
        for index, sigma in enumerate(sigmas):
            drawn = self.noises[index].to(noise)
            noisy = sampling.noise_scaling(sigma, drawn, latent_image, False)
            self.on_level(index)
            model_wrap(noisy, sigma.expand(noisy.shape[0]).to(noisy), **extra_args)
        self.at_end(model_wrap.inner_model)
        return latent_image


def build_query_cache(
    model: Any,
    latents: torch.Tensor,
    cond: Sequence[Any],
    layers: Sequence[LayerKey],
    sigmas: Sequence[float],
    *,
    seed: int = 0,
    rows: int = 1,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> QueryCache:
    """One pass of the model for each image and noise level.

    Args:
        model: a ``ModelPatcher``; a clone is patched, the given one stays as it is.
        latents: (N, C, h, w) as a VAE node gives them.
        cond: ComfyUI CONDITIONING used for every image (an empty prompt works).
        layers: cross-attention layers to keep.
        sigmas: noise levels, see `noise_levels`.
        seed: of the noise; image i gets the same noise whatever the batching.
        rows: images per pass of the model.
        device: where the queries are kept; None decides by free memory after the first pass.
        progress: called with (done, total) passes; may raise to stop.

    Returns:
        QueryCache with normal (not inference-mode) tensors.
    """
    if latents.ndim != 4:
        raise ValueError(f"latents: expected a shape (N, C, h, w), got {tuple(latents.shape)}.")
    if not torch.isfinite(latents).all():
        raise ValueError("latents: contain NaN or infinite values.")
    if not layers:
        raise ValueError("layers: no cross-attention layer of this model was chosen.")
    cache = QueryCache(sigmas=tuple(float(s) for s in sigmas))
    count, levels = latents.shape[0], len(cache.sigmas)
    recorder = _Recorder(cache, len(layers), count, rows, device)

    def read_keys(inner_model: Any) -> None:
        for layer in layers:
            if layer not in cache.key_weights:
                cache.key_weights[layer] = key_projection(inner_model, layer).float()

    # Autograd refuses tensors made in inference mode, in which nodes run.
    with torch.inference_mode(False), torch.no_grad():
        clean = latents.detach().clone().float().cpu()
        noises = _noises(clean, levels, seed)
        static = without_step_caches(without_dynamic_memory(model, cond))
        guider = comfy.samplers.CFGGuider(unguided(capture_queries(static, layers, recorder.store)))
        guider.set_conds(list(cond), list(cond))
        guider.set_cfg(1.0)
        for start in range(0, count, rows):
            batch = clean[start : start + rows]

            def on_level(index: int, start: int = start, size: int = batch.shape[0]) -> None:
                recorder.start, recorder.level = start, index
                if progress is not None:
                    progress(start * levels + index * size, count * levels)

            guider.sample(
                torch.zeros_like(batch),
                batch,
                _CaptureSampler(noises[:, start : start + rows], on_level, read_keys),
                torch.tensor(cache.sigmas),
                disable_pbar=True,
                seed=seed,
            )
    missing = [layer for layer in layers if layer not in cache.queries]
    if missing:
        raise ValueError(
            f"layers: {missing[0]} was not reached while the model ran. Choose layers that this model has."
        )
    unread = [(layer, int((~stored).sum())) for layer, stored in recorder.stored.items() if not bool(stored.all())]
    if unread:
        raise ValueError(
            f"model: {unread[0][1]} of {count * levels} passes did not reach layer {unread[0][0]}. An earlier node "
            "skips calls of the UNet (a cache of steps). Connect the model from before it."
        )
    if progress is not None:
        progress(count * levels, count * levels)
    return cache


def _noises(clean: torch.Tensor, levels: int, seed: int) -> torch.Tensor:
    """(T, N, C, h, w) noise of N latents at T levels; an image's noise does not depend on the number of images."""
    each = [
        torch.randn((levels, *clean.shape[1:]), generator=torch.Generator().manual_seed(seed * 100_003 + index))
        for index in range(clean.shape[0])
    ]
    return torch.stack(each, dim=1)


class _Recorder:
    """Stores the queries of one pass in a cache, at its images and noise level.

    Attributes:
        start: first image of the current pass. level: its noise level.
        stored: per layer (N, T) bool, what has been stored.
    """

    def __init__(
        self, cache: QueryCache, layers: int, pictures: int, rows: int, device: torch.device | str | None
    ) -> None:
        self.cache, self.layers, self.pictures, self.rows = cache, layers, pictures, rows
        self.device = None if device is None else torch.device(device)
        self.start = self.level = 0
        self.stored: dict[LayerKey, torch.Tensor] = {}

    def store(self, layer: LayerKey, query: torch.Tensor, heads: int, grid: tuple[int, int]) -> None:
        cache = self.cache
        if layer not in cache.queries:
            shape = (self.pictures, len(cache.sigmas), *query.shape[1:])
            if self.device is None:
                self.device = _place(query, self.layers * shape[0] * shape[1])
            cache.heads[layer], cache.grids[layer] = heads, grid
            cache.queries[layer] = torch.empty(shape, dtype=torch.float16, device=self.device)
            self.stored[layer] = torch.zeros(shape[:2], dtype=torch.bool)
        limit = torch.finfo(torch.float16).max
        here = slice(self.start, min(self.start + self.rows, self.pictures))
        # A model option can force an unconditional pass. It has the same conditioning here, so any rows will do.
        kept = query[: here.stop - here.start].clamp(-limit, limit)
        cache.queries[layer][here, self.level] = kept.to(self.device, torch.float16)
        self.stored[layer][here, self.level] = True


def _place(query: torch.Tensor, rows: int) -> torch.device:
    """The query's own device if ``rows`` queries like it fit there with room to spare, else host memory."""
    import comfy.model_management

    if query.device.type == "cpu":
        return query.device
    needed = rows * query[0].numel() * 2
    free = comfy.model_management.get_free_memory(query.device)
    return query.device if free > needed + SPARE_DEVICE_BYTES else torch.device("cpu")
