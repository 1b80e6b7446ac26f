"""Settings and inputs of a run of feature blending."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .layers import AUTO
from .masks import THRESHOLDS, check_omega
from .prompt import Conditioning, EditPrompt
from .tokens import AUTO_PADDING, PADDINGS, PartToken

TIMINGS = ("clean", "clean, first step twice", "published")
MAP_SIZES = ("latent", "published")


@dataclass(frozen=True)
class BlendSettings:
    """Settings of feature blending (PartEdit, Sec. 4.3 and 4.4).

    Attributes:
        edit_steps: tₑ, how long edits are blended: up to 1.0 a fraction of the steps, above that a number of steps.
        threshold, omega, fixed: how maps become masks, see `masks.threshold`.
        layers: the layers maps are read from, see `layers.reading_layers`.
        timing: ``clean``: every layer of step i uses the mask of step i − 1, for 0 < i < tₑ (a given mask: from
            step 0). ``clean, first step twice`` evaluates the first step twice, so that it has a mask too.
            ``published``: as ``clean``, but the last cross-attention layer already uses the mask of step i, for
            0 < i + 1 < tₑ, as in the published code.
        padding: what fills the token's context, see `PartToken.context`; ``auto``: as the token was trained.
        map_size: size at which maps are thresholded: ``latent`` or ``published`` (1024 on the longer side).
        keep_pooled: edits get the source's pooled embedding.
    """

    edit_steps: float = 1.0
    threshold: str = "adaptive"
    omega: float = 1.5
    fixed: float = 0.5
    layers: str = AUTO
    timing: str = "clean"
    padding: str = AUTO_PADDING
    map_size: str = "latent"
    keep_pooled: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("timing", self.timing, TIMINGS),
            ("padding", self.padding, PADDINGS),
            ("map_size", self.map_size, MAP_SIZES),
            ("threshold", self.threshold, THRESHOLDS),
        ):
            if value not in known:
                raise ValueError(f"{name}: {value!r} is not one of {', '.join(known)}.")
        for name in ("edit_steps", "omega", "fixed"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}: expected a number, got {getattr(self, name)}.")
        if self.edit_steps < 0:
            raise ValueError(
                f"edit_steps: {self.edit_steps} is negative. Give a fraction (0 to 1) or a number of steps."
            )
        check_omega(self.threshold, self.omega)

    def blended_steps(self, steps: int) -> int:
        """tₑ in steps of a run of ``steps``."""
        return round(self.edit_steps * steps) if self.edit_steps <= 1.0 else round(self.edit_steps)


@dataclass(frozen=True)
class BlendInputs:
    """What a run works on, besides the model.

    Attributes:
        prompt: source and edits.
        token: finds the parts; may be None with ``mask``.
        mask: ComfyUI MASK to use instead of the token's: one, one for each of B pictures, or one for each edited
            picture (N·B, edit by edit).
        region: ComfyUI MASK multiplied into the token's map: one, or one for each picture.
        extras: CONDITIONING whose settings other than text apply to every row.
        settings: of the blending.
    """

    prompt: EditPrompt
    token: PartToken | None = None
    mask: torch.Tensor | None = None
    region: torch.Tensor | None = None
    extras: Conditioning | None = None
    settings: BlendSettings = BlendSettings()
