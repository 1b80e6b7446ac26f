"""How a model's samples are made of image and noise, for each kind of sampling class that ComfyUI has.

ComfyUI samples every model along sigma, and its networks return a clean estimate D. In all kinds below, the probability
flow is dx/dsigma = (x - D) / sigma, so that a deterministic step is the same formula for all. They differ in what a
level is made of:

============= ===================================== =================== ==============================
kind          classes of ``comfy.model_sampling``   x at a level        what the network is given
============= ===================================== =================== ==============================
noise         EPS, V_PREDICTION, EDM, X0            z + sigma · e       x / sqrt(sigma² + sigma_data²)
flow          CONST: SD3, Flux, Z-Image, Qwen-Image (1 - sigma) z +     x
                                                    sigma · s · e
cosmos flow   COSMOS_RFLOW                          z + sigma · e       x / (1 + sigma)
============= ===================================== =================== ==============================

with e standard normal and s the model's noise scale (1 for all but a few).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

NOISE, FLOW, COSMOS_FLOW = KINDS = ("noise", "flow", "cosmos flow")


@dataclass(frozen=True)
class Scaling:
    """The kind of a model's sampling class and its numbers.

    Attributes:
        kind: one of ``KINDS``.
        sigma_data: of the kind ``noise``; 1 for Stable Diffusion.
        noise_scale: s, of the kind ``flow``.
    """

    kind: str = NOISE
    sigma_data: float = 1.0
    noise_scale: float = 1.0

    @property
    def is_flow(self) -> bool:
        """Whether the network predicts a velocity between image and noise."""
        return self.kind != NOISE

    def image(self, sigma: float) -> float:
        """x / z where a level counts as free of noise: the last one, which is the image.

        Flow: what ``noise_scaling`` makes of the image and no noise, and ``inverse_noise_scaling`` undoes. Noise: DDIM
        takes the image for the variance-preserving latent of that level, 1 / sqrt(alpha-bar).
        """
        if self.kind == NOISE:
            return image_scale(sigma, self.sigma_data)
        return 1.0 - sigma if self.kind == FLOW else 1.0

    def noise(self, sigma: float) -> float:
        """Standard deviation of the noise of a level."""
        return sigma * self.noise_scale

    def seen(self, sigma: float) -> float:
        """x divided by what the network is given at this sigma."""
        if self.kind == NOISE:
            return image_scale(sigma, self.sigma_data)
        return 1.0 if self.kind == FLOW else 1.0 + sigma

    def exploded(self, sigma: float) -> tuple[float, float]:
        """A level in variance-exploding form, x / a = z + b · e: (a, b); b is infinite for a flow's pure noise."""
        if self.kind != FLOW:
            return 1.0, sigma
        return 1.0 - sigma, math.inf if sigma >= 1.0 else self.noise(sigma) / (1.0 - sigma)


# Stable Diffusion's, and all with noise or v prediction but EDM's.
STANDARD = Scaling()


def image_scale(sigma: float, sigma_data: float = 1.0) -> float:
    """x / z at a level: 1 / sqrt(alpha-bar) for a variance-preserving model."""
    return math.sqrt(sigma**2 + sigma_data**2) / sigma_data


def scaling_of(sampling: Any) -> Scaling | None:
    """The scaling of a model's sampling object; None for a class without a path between image and noise.

    The classes are looked up by name: older ComfyUI versions lack some.
    """
    import comfy.model_sampling as host

    def is_a(*names: str) -> bool:
        return isinstance(sampling, tuple(getattr(host, name) for name in names if hasattr(host, name)))

    if is_a("IMG_TO_IMG", "IMG_TO_IMG_FLOW"):  # one step from one image to another, though derived from those below
        return None
    if is_a("EPS"):
        return Scaling(NOISE, sigma_data=float(getattr(sampling, "sigma_data", 1.0)))
    if is_a("CONST"):
        return Scaling(FLOW, noise_scale=float(getattr(sampling, "noise_scale", 1.0)))
    return Scaling(COSMOS_FLOW) if is_a("COSMOS_RFLOW") else None
