"""The whole edit, from latents and settings to edited latents and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch

from ..inversion.replay import FROM_SOURCE, TrajectorySampler, check_noise_maps
from ..inversion.schedule import check_same_kind
from ..inversion.trajectory import Trajectory
from ..mask_inputs import mask_batch, one_per_edit
from ..paste_back import PasteBack
from ..unet import latent_scale
from .guider import BlendGuider
from .prompt import Conditioning
from .settings import BlendInputs
from .step_masks import StepMasks
from .step_views import StepView, Watch

Callback = Callable[[int, torch.Tensor, torch.Tensor, int], None]


@dataclass(frozen=True)
class SampleSettings:
    """How to sample; names as in ComfyUI's KSampler. ``cfg`` is the paper's for generated pictures (App. K).

    With a trajectory, its own steps and levels are used, ``denoise`` is the fraction of them that is edited, and
    ``noise_maps`` says where the edits' noise maps come from (`replay.NOISE_MAPS`). Pixels are pasted back by the code
    that decodes the result (`paste_back.paste_pixels`).
    """

    seed: int = 0
    steps: int = 30
    cfg: float = 7.5
    sampler: str = "euler"
    scheduler: str = "normal"
    denoise: float = 1.0
    edits_per_pass: int = 0
    paste_back: PasteBack = PasteBack()
    noise_maps: str = FROM_SOURCE


@dataclass(frozen=True)
class BlendResult:
    """Result of N edits of B images.

    Attributes:
        edited: (N·B, C, H, W) latents, edit by edit, as a LATENT holds them.
        source: (B, C, H, W).
        mask: (N·B, H·f, W·f) final masks at image size; f is the latent's downscale factor.
        step_masks: (S, H·f, N·B·W·f) masks after each step, those of all images side by side.
        mean_mask: (N·B, H·f, W·f) masks like ``mask``, the mean over the steps that blended with them.
    """

    edited: torch.Tensor
    source: torch.Tensor
    mask: torch.Tensor
    step_masks: torch.Tensor
    mean_mask: torch.Tensor


def feature_blend(
    model: Any,
    inputs: BlendInputs,
    negative: Conditioning,
    latent: dict[str, Any] | None,
    settings: SampleSettings,
    trajectory: Trajectory | None = None,
    callback: Callback | None = None,
    watch: Watch | None = None,
) -> BlendResult:
    """Sample a source and its edits (PartEdit).

    Args:
        model: a ``ModelPatcher``, left as it is.
        inputs: prompts, part token or mask, blend settings.
        negative: unconditional prompt.
        latent: LATENT of the source image's size (empty for a generated source); None with a trajectory.
        settings: of the sampling.
        trajectory: an inverted image that the source rows replay.
        callback: called with (step, x0, x, total steps) for a preview; x0 and x hold the edited rows of the pass.
        watch: called after each step with its masks and predicted latents.

    Raises:
        ValueError: inputs that do not fit together, or a model that gives NaN.
    """
    samples = _source_latent(model, latent, trajectory)
    if trajectory is not None:
        check_same_kind(model, trajectory)
        check_noise_maps(trajectory, settings.noise_maps)
    latent = latent or {}
    count = len(inputs.prompt.edits)
    per_pass = settings.edits_per_pass or count
    starts = range(0, count, per_pass)
    batch, mask = samples.shape[0], inputs.mask
    if mask is not None:
        mask = mask_batch(mask, "mask")
        one_per_edit(mask[:, :1, :1], batch, count, "mask")  # before the first pass, not in the middle
    edited, source = [], None
    masks: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for number, first in enumerate(starts):
        given = mask
        if mask is not None and mask.shape[0] not in (1, batch):
            given = mask[first * batch : (first + per_pass) * batch]
        part = replace(inputs, prompt=inputs.prompt.subset(first, first + per_pass), mask=given)

        def progress(step: int, x0: torch.Tensor, x: torch.Tensor, total: int, number: int = number) -> None:
            if callback is not None:
                callback(number * total + step, x0, x, total * len(starts))

        def look(step: int, x0: torch.Tensor, total: int, run: StepMasks, first: int = first) -> None:
            if watch is not None:
                watch(StepView(step, total, first, count, run.edit_masks(), run.edit_bands(), x0))

        out, run_masks = _one_pass(model, part, negative, samples, latent, settings, trajectory, progress, look)
        source = out[:batch] if source is None else source
        edited.append(out[batch:])
        masks.append(_masks_of(run_masks, samples, latent_scale(model)))
    final, every, mean = zip(*masks, strict=True)
    return BlendResult(torch.cat(edited), source, torch.cat(final), torch.cat(every, dim=2), torch.cat(mean))


def _source_latent(model: Any, latent: dict[str, Any] | None, trajectory: Trajectory | None) -> torch.Tensor:
    """(B, C, H, W) latent that the source starts from.

    Raises:
        ValueError: neither a latent nor a trajectory, or two that differ in shape.
    """
    inverted = None if trajectory is None else trajectory.latent_image
    if latent is None:
        if inverted is None:
            raise ValueError(
                "latent_image: not connected. Connect a latent (Empty Latent Image), or a trajectory (Invert Latent)."
            )
        return inverted
    # An empty latent made for another kind of model (Empty Flux 2 Latent: 16 pixels per latent pixel) says its scale;
    # ComfyUI resizes it, as in its own samplers. Older versions neither say it nor take it.
    scales = ("downscale_ratio_spacial", "downscale_ratio_temporal")
    scale = {name: latent[name] for name in scales if latent.get(name) is not None}
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], **scale)
    if inverted is not None and samples.shape != inverted.shape:
        raise ValueError(
            f"latent_image: has shape {tuple(samples.shape)}, but the trajectory was inverted from "
            f"{tuple(inverted.shape)}. Disconnect latent_image; the trajectory has its own."
        )
    return samples


def _one_pass(
    model: Any,
    inputs: BlendInputs,
    negative: Conditioning,
    samples: torch.Tensor,
    latent: dict[str, Any],
    settings: SampleSettings,
    trajectory: Trajectory | None,
    callback: Callback,
    look: Callable[[int, torch.Tensor, int, StepMasks], None],
) -> tuple[torch.Tensor, StepMasks]:
    guider = BlendGuider(model, inputs, include_source=True, paste_latent=settings.paste_back.latent)
    guider.set_negative(negative)
    guider.set_cfg(settings.cfg)
    if trajectory is None:
        plan = comfy.samplers.KSampler(
            model,
            settings.steps,
            model.load_device,
            settings.sampler,
            settings.scheduler,
            settings.denoise,
            model.model_options,
        )
        sampler, sigmas = comfy.samplers.sampler_object(settings.sampler), plan.sigmas
        noise = comfy.sample.prepare_noise(samples, settings.seed, latent.get("batch_index"))
    else:
        start = trajectory.start_index(settings.denoise)
        sampler = comfy.samplers.KSAMPLER(TrajectorySampler(trajectory, start=start, noise_maps=settings.noise_maps))
        sigmas = trajectory.sigmas[start:]
        noise = torch.zeros_like(samples)
    if sigmas.numel() < 2:
        raise ValueError(
            f"steps: {settings.steps} steps with denoise {settings.denoise} leave nothing to sample. Raise one of them."
        )

    def after_step(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
        callback(step, x0[len(samples) :], x[len(samples) :], total)
        if guider.last_masks is not None:
            look(step, x0, total, guider.last_masks)

    out = guider.sample(
        noise,
        samples,
        sampler,
        sigmas,
        latent.get("noise_mask"),
        after_step,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=settings.seed,
    )
    assert guider.last_masks is not None
    return out.float().cpu(), guider.last_masks


def _masks_of(run: StepMasks, samples: torch.Tensor, scale: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The final mask, the mask after each step and the mean mask of one pass, as in `BlendResult`."""
    size = (samples.shape[-2] * scale, samples.shape[-1] * scale)
    found = (run.fitted_masks(size, step) for step in sorted(run.history))
    every = [masks.flatten(0, 1) for masks in found if masks is not None]
    mean = run.mean_masks(size)
    assert mean is not None
    return every[-1], torch.stack([torch.cat(list(one), dim=1) for one in every]), mean.flatten(0, 1)
