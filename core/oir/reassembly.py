"""Reassembly: each object from its own inversion step, spliced into one image (Yang et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch

from ..conditioning import check_active
from ..inversion.ddim import ddim_denoise, ddim_invert
from ..inversion.engine import Conditioning, Denoiser, effective_negative, run_loop
from ..inversion.schedule import model_sampling_of
from ..inversion.trajectory import Trajectory
from ..latents import check_sampled, process_latent_in, process_latent_out
from ..paste_back import PasteBack, check_originals, paste_latents, paste_pixels
from ..unet import latent_scale
from .candidates import check_overrides
from .checks import check_inputs
from .masks import OVERLAPS, feather, ownership, resize_mask
from .types import Pair, StepSearch

# The paper's 20 %: 10 of 50 steps for both.
DEFAULT_FRACTION = 0.2


@dataclass(frozen=True)
class ReassemblySettings:
    """How to splice the objects.

    Attributes:
        cfg: guidance scale of the per-pair and the final denoising; 7.5 as published.
        reassembly: level of the splice, in inversion steps counted from the image: below 1 a fraction of the
            trajectory's steps, 1 and above a number of steps.
        reinversion: how far the spliced latent is inverted again before the final denoising, in the same units.
        overlap: which pair wins where masks overlap: ``first``, ``last``, or ``blend``.
        paste_back: where the image is restored outside the masks at the end; pixels by the code that decodes the
            result (`composite_pixels`).
        feather: width of the soft edge of the restored latent, in latent pixels.
    """

    cfg: float = 7.5
    reassembly: float = DEFAULT_FRACTION
    reinversion: float = DEFAULT_FRACTION
    overlap: str = "first"
    paste_back: PasteBack = PasteBack()
    feather: float = 1.0


@dataclass(frozen=True)
class Reassembly:
    """Result: the edited latent as in a LATENT, the spliced one (model space), both of the image's shape; the cost."""

    latent: torch.Tensor
    spliced: torch.Tensor
    unet_rows: int
    reassembly: int
    reinversion: int


def whole_steps(value: float, steps: int, name: str) -> int:
    """A number of steps from a fraction below 1, or from a whole number.

    Raises:
        ValueError: negative, a fraction above 1, or more than ``steps``.
    """
    if 0.0 <= value < 1.0:
        return round(value * steps)
    if value != int(value) or not 1 <= value <= steps:
        raise ValueError(
            f"{name}: expected a fraction below 1 (of {steps} steps) or a whole number from 1 to {steps}, got {value}."
        )
    return int(value)


def pair_masks(pairs: Sequence[Pair], height: int, width: int, scale: int = 1, cell: int | None = None) -> torch.Tensor:
    """The pairs' masks at a resolution, (K, height, width).

    Args:
        scale, cell: image pixels per mask pixel, and per latent pixel; see `resize_mask`.

    Raises:
        ValueError: a mask has another aspect ratio than the image, or vanishes at this size.
    """
    return torch.stack([resize_mask(p.mask, height, width, f"mask of {p.label}", scale, cell) for p in pairs])


def reassemble(
    model: Any,
    trajectory: Trajectory,
    search: StepSearch,
    target: Conditioning,
    settings: ReassemblySettings,
) -> Reassembly:
    """Edit all objects in an image.

    Each pair is denoised from its own z_n with its guided prompt down to the reassembly level. There, the objects are
    spliced into the inverted background; the result is inverted a little further with the source prompt (which blends
    the seams), and denoised with the target prompt. The source prompt is the unconditional branch throughout; at cfg 1
    there is none.

    A pair whose step equals the reassembly level enters as the inverted image and is only edited by the final pass.
    Below that level, it is denoised to the image first and then inverted up to the level with its guided prompt.

    Args:
        model: a ``ModelPatcher``, the one the trajectory was made with.
        search: pairs and their chosen steps; the first pair comes first in ``overlap``.
        target: ComfyUI CONDITIONING of the target prompt.

    Raises:
        ValueError: an invalid input, before anything is sampled.
    """
    pairs = [entry.pair for entry in search.pairs]
    starts, level, again = _checked(model, trajectory, search, target, settings)
    steps = trajectory.steps
    height, width = trajectory.size
    masks = pair_masks(pairs, height, width, latent_scale(model))
    splice_at, back_at = trajectory.index(level), trajectory.index(level + again)
    pair_steps = [
        splice_at - start if start <= splice_at else (steps - start) + (steps - splice_at) for start in starts
    ]
    passes = _Passes(model, trajectory, settings.cfg, sum(pair_steps) + again + steps - back_at)

    weights, background = ownership(masks, settings.overlap)
    spliced = background * trajectory.latents[splice_at]
    for pair, start, weight in zip(pairs, starts, weights, strict=True):
        if start <= splice_at:
            own = passes.denoise(pair.conditioning, trajectory.latents[start], start, splice_at)
        else:
            own = passes.denoise(pair.conditioning, trajectory.latents[start], start, steps)
            own = passes.invert(pair.conditioning, own, steps, splice_at)
        spliced = spliced + weight * own

    assert trajectory.conditioning is not None
    latent = passes.invert(trajectory.conditioning, spliced, splice_at, back_at)
    latent = trajectory.to_image_latent(passes.denoise(target, latent, back_at, steps))
    if settings.paste_back.latent:
        edited = feather(masks.amax(0), settings.feather)
        latent = paste_latents(latent, process_latent_in(model, trajectory.latent_image), edited[None])
    return Reassembly(process_latent_out(model, latent), spliced, passes.rows, level, again)


def _checked(
    model: Any, trajectory: Trajectory, search: StepSearch, target: Conditioning, settings: ReassemblySettings
) -> tuple[list[int], int, int]:
    """Check the inputs of `reassemble`; returns each pair's index in the trajectory, and reassembly and reinversion in
    steps."""
    check_inputs(model, trajectory, [entry.pair for entry in search.pairs], target, cfg=settings.cfg)
    if settings.overlap not in OVERLAPS:
        raise ValueError(f"overlap: {settings.overlap!r} is not one of {', '.join(OVERLAPS)}.")
    steps, sigmas = trajectory.steps, trajectory.sigmas
    if search.steps != steps:
        raise ValueError(
            f"search: is of a trajectory with {search.steps} steps, but the connected one has {steps}. Connect the "
            "trajectory that was searched."
        )
    level = whole_steps(settings.reassembly, steps, "reassembly")
    again = whole_steps(settings.reinversion, steps, "reinversion")
    if level + again > steps:
        raise ValueError(
            f"reassembly, reinversion: {level} and {again} steps together exceed the {steps} steps of the trajectory. "
            "Lower one of them."
        )
    levels = sigmas[trajectory.index(level + again) : -1].tolist()
    check_active("target", target, model_sampling_of(model), levels, 1, trajectory.size)
    check_overrides(search.chosen, steps)  # a search only chooses steps that there are
    return [trajectory.index(n) for n in search.chosen], level, again


class _Passes:
    """Runs parts of a trajectory's schedule with other prompts, one image at a time, and counts ``rows``."""

    def __init__(self, model: Any, trajectory: Trajectory, cfg: float, steps: int) -> None:
        self.model, self.trajectory, self.cfg, self.rows = model, trajectory, cfg, 0
        self.progress = comfy.utils.ProgressBar(steps)

    def denoise(self, positive: Conditioning, latent: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """With guidance, from level ``start`` to ``stop``, indices into the trajectory."""
        trajectory = self.trajectory

        def loop(denoise: Denoiser) -> torch.Tensor:
            x = latent.to(denoise.device)
            return ddim_denoise(
                denoise, x, trajectory.sigmas, start, stop, method=trajectory.method, on_step=self._tick
            ).cpu()

        negative = effective_negative(self.model, self.cfg, trajectory.conditioning)
        return latent if start == stop else self._run(loop, positive, negative, self.cfg)

    def invert(self, positive: Conditioning, latent: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Without guidance, from level ``start`` back to ``stop``."""
        trajectory = self.trajectory

        def loop(denoise: Denoiser) -> torch.Tensor:
            return ddim_invert(
                denoise,
                latent.to(denoise.device),
                trajectory.sigmas,
                start,
                stop,
                trajectory.method,
                on_step=self._tick,
                fixed_point_iterations=trajectory.fixed_point_iterations,
                scaling=trajectory.scaling,
            ).cpu()

        return latent if start == stop else self._run(loop, positive, None, 1.0)

    def _run(
        self,
        loop: Callable[[Denoiser], torch.Tensor],
        positive: Conditioning,
        negative: Conditioning | None,
        cfg: float,
    ) -> torch.Tensor:
        result, used = run_loop(
            self.model,
            loop,
            positive=positive,
            negative=negative,
            cfg=cfg,
            latent_image=self.trajectory.latent_image,
            rows=1,
            sigmas=self.trajectory.sigmas,
        )
        self.rows += used.rows
        check_sampled(result, "what was spliced or denoised")
        return result

    def _tick(self, index: int, x: torch.Tensor) -> None:
        self.progress.update(1)


def composite_pixels(
    edited: torch.Tensor, source: torch.Tensor, pairs: Sequence[Pair], radius: float, cell: int | None = None
) -> torch.Tensor:
    """The source picture with the edit pasted in inside the masks.

    Args:
        edited: (1, H, W, C) in 0 … 1.
        source: (1, H, W, C), the original picture.
        radius: width of the soft edge in pixels.
        cell: image pixels per latent pixel, 8 by default.

    Raises:
        ValueError: the pictures differ in size, or ``source`` is a batch.
    """
    size = (edited.shape[1], edited.shape[2])
    check_originals(source, 1, size)
    return paste_pixels(edited, source, feather(pair_masks(pairs, *size, cell=cell).amax(0), radius)[None])
