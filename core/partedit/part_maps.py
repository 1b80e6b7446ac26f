"""Where part tokens find their parts in an image, without editing anything."""

from __future__ import annotations

from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from ..attention import BlendCall, CallMasks, Probe, blended_options, call_untraced, replace_options, without_compile
from ..conditioning import check_conditioning, check_sees_picture
from ..guidance import unguided
from ..hooks import without_dynamic_memory
from ..inversion.engine import Denoiser, run_loop
from ..latents import check_latent, check_sampled, process_latent_in
from ..unet import all_cross_layers, context_width
from .layers import AUTO, reading_layers
from .masks import MapSum, check_found, fit_mask, normalise
from .prompt import Conditioning
from .tokens import AUTO_PADDING, PartToken, probe_contexts
from .upsampling import cell_size, guided_upsampling


class _OnlyCollecting(CallMasks):
    def __init__(self, total: MapSum) -> None:
        self._total = total

    def collect(self, maps: torch.Tensor, parts: tuple[int, ...]) -> None:
        self._total.add(maps, parts)


def part_maps(
    model: Any,
    token: PartToken,
    latent: torch.Tensor,
    conditioning: Conditioning,
    noise_level: float = 0.25,
    samples: int = 1,
    seed: int = 0,
    layers: str = AUTO,
    padding: str = AUTO_PADDING,
) -> torch.Tensor:
    """Attention maps of a token in noised images (PartEdit, Sec. 4.3), averaged over layers and noise draws.

    Args:
        model: a ``ModelPatcher``, left as it is.
        latent: (B, C, H, W), as in a LATENT.
        conditioning: prompt of the images.
        noise_level: fraction of the diffusion time, 0 (clean) to 1 (pure noise).
        samples: number of noise draws to average.
        seed: of the noise.
        layers, padding: see `layers.reading_layers` and `PartToken.context`.

    Returns:
        (B, P, H, W) float32, not normalised (with several parts: each layer normalised jointly).

    Raises:
        ValueError: a token or conditioning of the wrong width, or a noise level outside 0 … 1.
    """
    if not 0.0 <= noise_level <= 1.0:
        raise ValueError(f"noise_level: {noise_level} is not between 0 (clean) and 1 (pure noise).")
    check_latent("latent_image", model, latent)
    width = context_width(model)
    token.check_width(width)
    check_conditioning("positive", conditioning, width)
    known = all_cross_layers(model)
    reading = reading_layers(known, layers, token)
    sampling = model.get_model_object("model_sampling")
    # At the ends, percent_to_sigma gives infinity and 0; use the schedule's own ends.
    sigma = min(
        max(float(sampling.percent_to_sigma(1.0 - noise_level)), float(sampling.sigma_min)), float(sampling.sigma_max)
    )
    check_sees_picture(
        "positive",
        conditioning,
        (latent.shape[-2], latent.shape[-1]),
        sampling,
        [sigma],
        "A part token is read over the whole image at noise_level; connect a plain prompt (CLIP Text Encode).",
    )
    batch = latent.shape[0]
    total = MapSum(token.parts)
    probe = Probe(probe_contexts(token, reading, padding, conditioning[0][0]))

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        def install(options: dict[str, Any]) -> dict[str, Any]:
            chunks = len(options["uuids"])
            # Entries limited to an area, and tiles, only see part of the image.
            seen = range(chunks) if args[0].shape[-2:] == latent.shape[-2:] else ()
            call = BlendCall(batch, (), chunks, seen, probe, _OnlyCollecting(total), self_limit=0, probed=seen)
            return blended_options(options, executor.class_obj, [layer.key for layer in known], call)

        args, kwargs = replace_options(args, kwargs, install)
        return executor(*args, **kwargs)

    clean = process_latent_in(model, latent)
    generator = torch.Generator().manual_seed(seed)

    def loop(denoise: Denoiser) -> None:
        for _ in range(samples):
            noise = torch.randn(clean.shape, generator=generator)
            noisy = sampling.noise_scaling(torch.tensor([sigma]), noise, clean, False)
            denoise(noisy.to(denoise.device), sigma)

    clone = unguided(without_compile(without_dynamic_memory(model, conditioning).clone()))
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "partedit_probe", call_untraced(wrapper))
    run_loop(
        clone,
        loop,
        positive=conditioning,
        negative=None,
        cfg=1.0,
        latent_image=latent,
        rows=batch,
        sigmas=torch.tensor([sigma, 0.0]),
        seed=seed,
    )
    if not total.complete:
        raise ValueError(
            "model: no call of its UNet covered the whole image, so the part token was not read. An earlier node "
            "splits the image into tiles or bypasses the UNet (tiled diffusion, caching). Connect the model from "
            "before it."
        )
    maps = total.mean((latent.shape[-2], latent.shape[-1]))
    check_sampled(maps, "the attention to the part token")
    return maps


def map_cell(model: Any, token: PartToken, layers: str = AUTO) -> float:
    """Mean cell width, in latent pixels, of the maps of a token that are read from ``layers`` of a model."""
    known = all_cross_layers(model)
    return cell_size(known, tuple(reading_layers(known, layers, token)))


def soft_masks(
    maps: torch.Tensor,
    size: tuple[int, int],
    region: torch.Tensor | None = None,
    guide: torch.Tensor | None = None,
    cell: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Part maps as soft masks of an image.

    Args:
        maps: (B, P, h, w) from `part_maps`.
        size: (H, W) of the image.
        region: ComfyUI MASK multiplied in.
        guide, cell: for guided upsampling (`upsampling.guided_upsampling`); None: bilinear.

    Returns:
        (B, H, W) all parts together, and (B·P, H, W) the single parts, grouped by image; each from 0 to 1.

    Raises:
        ValueError: the token found nothing in an image, or nothing inside the region.
    """
    batch = maps.shape[0]
    all_maps = torch.cat([maps.sum(dim=1, keepdim=True), maps], dim=1).float().cpu()
    check_found(all_maps[:, 0])
    all_maps = normalise(all_maps) if guide is None else normalise(guided_upsampling(all_maps, guide, cell))
    if region is not None:
        hint = fit_mask(region, batch, (all_maps.shape[-2], all_maps.shape[-1]), "region").to(all_maps)
        all_maps = all_maps * hint
        check_found(all_maps[:, 0], "region")
        all_maps = normalise(all_maps)
    fitted = fit_mask(all_maps.flatten(0, 1).clamp(0, 1), batch * all_maps.shape[1], size, "mask")
    fitted = fitted.reshape(batch, -1, *size)
    return fitted[:, 0], fitted[:, 1:].flatten(0, 1)
