"""Training part tokens on cached queries.

PartEdit (Cvejic et al. 2025, section 3.1) optimises two text-embedding rows, background and part, so that the
softmax-normalised cross-attention map of the part row matches a mask. Here the gradient flows only through the keys of
the chosen layers: the queries come from `QueryCache`, so a step is two matrix products per layer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..conditioning import check_conditioning, check_sees_picture
from ..packages import require
from ..partedit.layers import choose_layers
from ..partedit.tokens import FAMILY_WIDTHS, PartToken
from ..unet import LayerKey, all_cross_layers, context_width, latent_scale
from .query_cache import Progress, QueryCache, build_query_cache, noise_levels
from .settings import TrainingReport, TrainingSettings, checked_masks, split_pictures
from .state import picture_prints
from .trainer import Trainer
from .views import Watch


def train_part_token(
    model: Any,
    latents: torch.Tensor,
    masks: torch.Tensor,
    cond: Sequence[Any],
    settings: TrainingSettings,
    *,
    sources: Sequence[int] | None = None,
    state_file: Path | None = None,
    model_family: str = "",
    progress: Progress | None = None,
    watch: Watch | None = None,
    stop: Callable[[], bool] | None = None,
) -> tuple[PartToken, TrainingReport]:
    """Train one token (one or several parts) for a frozen model.

    Args:
        model: ``ModelPatcher``; not changed.
        latents: (N, C, h, w) from the VAE. masks: (N, P, H, W), 0..1, any resolution with the same aspect ratio.
        cond: CONDITIONING the images are encoded with.
        sources: for augmented views, the index of the image each comes from. All views of a held-out image are held
            out; the first view of an image is the one evaluated. None: each view is an image.
        state_file: resume from it if it matches these images and settings; written every ``save_every`` steps.
        progress: called with (done, total); may raise to stop, which leaves the model unchanged.
        watch: called with a `TrainingView` after each step.
        stop: asked after each step; if true, that step is evaluated, and the best so far is the result.

    Raises:
        ValueError: mismatched shapes, empty masks, NaNs, or layers the model does not have.
    """
    require("skimage")  # said now: held-out images are judged in the middle of a run
    masks, layers, sigmas = checked_inputs(model, masks, latents.shape[0], cond, settings, sources)
    # Outside ComfyUI's inference mode, latents may come with the graph of the VAE that made them.
    latents = latents.detach()
    started = time.perf_counter()
    passes = latents.shape[0] * len(sigmas)
    total = passes + settings.steps

    def cache_progress(done: int, _: int) -> None:
        if progress is not None:
            progress(done, total)

    cache = build_query_cache(
        model,
        latents,
        cond,
        layers,
        sigmas,
        seed=settings.seed,
        rows=settings.rows,
        device=settings.cache_device,
        progress=cache_progress,
    )
    seconds = time.perf_counter() - started
    rows, report = train_on_cache(
        cache,
        masks,
        settings,
        prints=picture_prints(latents),
        init_scale=_spread(cond),
        text=cond[0][0][0],
        sources=sources,
        device=model.load_device,
        state_file=state_file,
        progress=None if progress is None else lambda done, _: progress(passes + done, total),
        watch=watch,
        stop=stop,
    )
    report.seconds_cache, report.cache_bytes, report.passes = seconds, cache.nbytes, passes
    token = PartToken(
        embedding=rows,
        part_rows=tuple(range(1, 1 + len(settings.part_names))),
        names=settings.part_names,
        model_family=model_family or family_of(model),
        metadata=token_metadata(settings, report, len(set(sources) if sources is not None else range(len(latents)))),
        layers=(settings.layers,) * len(settings.part_names),
        paddings=(settings.trained_padding,) * len(settings.part_names),
    )
    return token, report


def checked_inputs(
    model: Any,
    masks: torch.Tensor,
    pictures: int,
    cond: Sequence[Any],
    settings: TrainingSettings,
    sources: Sequence[int] | None = None,
) -> tuple[torch.Tensor, tuple[LayerKey, ...], tuple[float, ...]]:
    """Check the inputs before images are encoded; returns masks (N, P, H, W), layers and noise levels.

    Raises:
        ValueError: see `train_part_token`.
    """
    masks = checked_masks(masks, pictures, len(settings.part_names))
    split_pictures(masks, sources, settings)
    layers = choose_layers(all_cross_layers(model), settings.layers)
    sigmas = noise_levels(model, settings.noise_low, settings.noise_high, settings.noise_count)
    width = context_width(model)
    check_conditioning("positive", cond, width)
    if len(cond) > 1:
        raise ValueError(
            f"positive: has {len(cond)} entries (combined or scheduled prompts), but a token is trained under one "
            "prompt. Connect the output of one CLIP Text Encode."
        )
    scale = latent_scale(model)
    check_sees_picture(
        "positive",
        list(cond),
        (masks.shape[-2] // scale, masks.shape[-1] // scale),
        model.get_model_object("model_sampling"),
        sigmas,
        "A token is trained on whole images; connect a plain prompt (CLIP Text Encode).",
    )
    if settings.init is not None and (settings.init.ndim < 2 or settings.init.shape[-1] != width):
        raise ValueError(
            f"init_words: their embedding has shape {tuple(settings.init.shape)}, but this model's text conditioning "
            f"is {width} wide. Connect the CLIP that belongs to the model."
        )
    return masks, layers, sigmas


def train_on_cache(
    cache: QueryCache,
    masks: torch.Tensor,
    settings: TrainingSettings,
    *,
    init_scale: float = 1.0,
    sources: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    state_file: Path | None = None,
    prints: torch.Tensor | None = None,
    text: torch.Tensor | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    stop: Callable[[], bool] | None = None,
) -> tuple[torch.Tensor, TrainingReport]:
    """The optimisation; returns the rows (1 + P, D) float32 on the CPU, background first, and the report.

    ``prints`` are the images' `picture_prints`, so that a saved state is not used for others; ``text`` (L, D) is the
    prompt's embedding, for the paddings that need it.
    """
    with torch.inference_mode(False), torch.enable_grad():
        trainer = Trainer(cache, masks, settings, init_scale, sources, torch.device(device), state_file, prints, text)
        return trainer.run(progress, watch, stop)


def token_metadata(settings: TrainingSettings, report: TrainingReport, pictures: int) -> dict[str, str]:
    """Metadata for the token file: how it was trained."""
    return {
        "steps": str(report.best_step),
        "pictures": str(pictures),
        "recipe": settings.recipe,
        "loss": settings.loss,
        "softmax": settings.trained_softmax,
        "learning_rate": f"{settings.learning_rate:g} ({settings.learning_rate_rule})",
        "noise": f"{settings.noise_low:g} to {settings.noise_high:g}, {settings.noise_count} levels",
        "seed": str(settings.seed),
        "iou": ", ".join(f"{name} {value:.3f}" for name, value in report.part_iou.items()),
        "iou_measured_on": "held-out pictures" if report.held_out else "training pictures",
    }


def family_of(model: Any) -> str:
    """Family name of a ``ModelPatcher`` for a token's metadata, from its class and the width of its context."""
    width = context_width(model)
    if type(model.model).__name__.startswith("SDXL") and width != FAMILY_WIDTHS["sdxl"]:
        return "demo"
    return next((family for family, known in FAMILY_WIDTHS.items() if known == width), "")


def _spread(cond: Sequence[Any]) -> float:
    """Standard deviation of the conditioning's rows: the scale that this model's embeddings live on."""
    spread = float(cond[0][0].detach().float().std())
    return spread if math.isfinite(spread) and spread > 0 else 1.0
