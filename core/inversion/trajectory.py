"""The result of an inversion: one latent for every noise level between the image and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .scaling import STANDARD, Scaling

# Of models with noise or v prediction.
DDIM_METHODS = ("ddim_next_timestep", "ddim_current_timestep", "ddim_fixed_point")
# Of any model.
STOCHASTIC_METHODS = ("edit_friendly_ddpm", "ledits_pp")
# Of flow models. Euler's method has the same three conventions as DDIM.
RF_SOLVER = "rf_solver"
FLOW_METHODS = ("euler_next_timestep", "euler_current_timestep", "euler_fixed_point", RF_SOLVER)
METHODS = DDIM_METHODS + STOCHASTIC_METHODS + FLOW_METHODS


@dataclass(frozen=True)
class Trajectory:
    """Latents of an image at every level of a schedule of S steps, noisiest first.

    ``latents[i]`` is at ``sigmas[i]`` in the space of ComfyUI's samplers, after the model's ``process_latent_in``.

    With noise or v prediction, x = z / sqrt(alpha-bar) and sigma = sqrt((1 - alpha-bar) / alpha-bar). The last level is
    alpha-bar_0 of the training schedule (sigma 0.0292 for Stable Diffusion), not 0, as in DDIM with
    ``set_alpha_to_one = False``. On a flow model, x = (1 - sigma) z + sigma · noise, and the last level is the lowest
    of the model's own table: at 0, x - D = sigma · v is 0 and the velocity v is lost. :meth:`to_image_latent` takes a
    latent of the last level back to the image's scale.

    Attributes:
        latents: (S+1, B, C, H, W) float32 on the CPU; (S+1, B, C, 1, H, W) for models whose latents have a time axis.
        sigmas: (S+1,) float32, strictly descending, all above 0.
        method: one of ``METHODS``.
        latent_image: (B, C, H, W) or (B, C, 1, H, W) float32, the clean latent as in a LATENT (before
            ``process_latent_in``).
        noise_maps: (S, B, C, H, W) float32 or None, with the time axis if the latents have it. What step i adds after
            its deterministic part, in latent units: the noise map z of the papers times the step's standard deviation.
            In this form it is defined, and replays exactly, for steps of any variance. None for deterministic methods,
            and for a stochastic method whose maps were not recorded: replaying then derives them from the source row
            (:mod:`.replay`).
        conditioning: ComfyUI CONDITIONING of the source prompt, or None.
        source_prompt: the prompt's text if known, else "".
        cfg: guidance scale of the inversion (1: conditional only).
        seed: seed of the noise (stochastic methods).
        fixed_point_iterations: extra evaluations per step (fixed-point methods).
        scaling: how the levels of the model it was made with are made of image and noise.
    """

    latents: torch.Tensor
    sigmas: torch.Tensor
    method: str
    latent_image: torch.Tensor
    noise_maps: torch.Tensor | None = None
    conditioning: list[Any] | None = None
    source_prompt: str = ""
    cfg: float = 1.0
    seed: int = 0
    fixed_point_iterations: int = 0
    scaling: Scaling = STANDARD

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"Trajectory: method {self.method!r} is not one of {', '.join(METHODS)}.")
        if self.latents.ndim not in (5, 6) or self.sigmas.ndim != 1 or self.latents.shape[0] != self.sigmas.shape[0]:
            raise ValueError(
                "Trajectory: latents must be (S+1, B, C, H, W) with one sigma each; "
                f"got latents {tuple(self.latents.shape)} and sigmas {tuple(self.sigmas.shape)}."
            )
        if self.latents.shape[0] < 2 or not bool((self.sigmas[1:] < self.sigmas[:-1]).all()) or self.sigmas[-1] <= 0:
            raise ValueError(
                "Trajectory: sigmas must hold at least two levels, strictly descending and above 0; "
                f"got {self.sigmas.tolist()}."
            )
        if self.latent_image.shape != self.latents.shape[1:]:
            raise ValueError(
                f"Trajectory: latent_image {tuple(self.latent_image.shape)} does not fit the latents "
                f"{tuple(self.latents.shape)}."
            )
        if self.noise_maps is not None and self.is_deterministic:
            raise ValueError(f"Trajectory: method {self.method!r} is deterministic and has no noise maps.")
        expected = (self.steps, *self.latents.shape[1:])
        if self.noise_maps is not None and self.noise_maps.shape != expected:
            raise ValueError(f"Trajectory: noise_maps {tuple(self.noise_maps.shape)}, expected {expected}.")

    @property
    def steps(self) -> int:
        """S, the number of steps between the noisiest level and the image."""
        return self.latents.shape[0] - 1

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the latents."""
        return self.latents.shape[-2], self.latents.shape[-1]

    @property
    def is_deterministic(self) -> bool:
        """Whether the latents lie on one path of the model's ODE (no noise maps)."""
        return self.method not in STOCHASTIC_METHODS

    def index(self, inversion_steps: int) -> int:
        """Position of z_n, the latent after n inversion steps: 0 is the image, S the noisiest level.

        Raises:
            ValueError: n is not in 0 … S.
        """
        if not 0 <= inversion_steps <= self.steps:
            raise ValueError(
                f"inversion step {inversion_steps} is outside this trajectory, which has 0 (the image) to {self.steps}."
            )
        return self.steps - inversion_steps

    def at(self, inversion_steps: int) -> torch.Tensor:
        """z_n, (B, C, H, W), the latent after n inversion steps."""
        return self.latents[self.index(inversion_steps)]

    def to_image_latent(self, x: torch.Tensor) -> torch.Tensor:
        """Rescale a latent of the last level to the clean image (still in model space)."""
        return x / self.scaling.image(float(self.sigmas[-1]))

    def start_index(self, strength: float) -> int:
        """First level for editing with ``strength``: 1.0 starts from the noisiest, 0.5 half-way in steps."""
        if not 0.0 < strength <= 1.0:
            raise ValueError(f"strength: expected a number above 0 and at most 1, got {strength}.")
        return self.steps - max(1, round(self.steps * strength))
