"""Replaying a trajectory: the source row reconstructs the image, edits follow it with the same noise maps.

For samplers and guiders:

* :func:`deterministic_part` is the update formula for one step, on plain tensors;
* :class:`Replay` steps rows along a trajectory and keeps what a second-order step needs;
* :class:`TrajectorySampler` is a sampler function for ``comfy.samplers.KSAMPLER`` built on it: its rows are
  [source, edits …], the source row being set to the trajectory at every step.

What a step adds after its deterministic part Φ is one of ``NOISE_MAPS``:

* ``from the source row``: r = x_{i+1} − Φ(x_i, D), where x are the image's own latents and D is the model's prediction
  for its row in this run. So an edit that changes nothing stays on the trajectory, whatever the guidance and whatever
  is attached to the model. For the stochastic methods, r is the noise map of this run (Huberman-Spiegelglas et al.
  2024, eq. 6, with the guidance of the edit); for DDIM and the methods of flow models it is the drift that PnP
  Inversion corrects (Ju et al. 2024), here for every row.
* ``as recorded``: the trajectory's noise maps, computed with the model, prompt and guidance of the inversion, as in the
  papers; none for deterministic methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from .scaling import FLOW, STANDARD, Scaling
from .trajectory import STOCHASTIC_METHODS, Trajectory

FROM_SOURCE, AS_RECORDED = NOISE_MAPS = ("from the source row", "as recorded")


def check_noise_maps(trajectory: Trajectory, noise_maps: str) -> None:
    """Raise a ValueError unless the trajectory can be replayed with this choice of ``NOISE_MAPS``."""
    if noise_maps not in NOISE_MAPS:
        raise ValueError(f"noise_maps: {noise_maps!r} is not one of {', '.join(NOISE_MAPS)}.")
    if noise_maps == AS_RECORDED and trajectory.noise_maps is None and not trajectory.is_deterministic:
        raise ValueError(
            f"noise_maps: is {AS_RECORDED!r}, but this {trajectory.method} trajectory has no recorded noise maps. "
            f"Choose {FROM_SOURCE!r}, or turn on record_noise_maps in Invert Latent."
        )


def deterministic_part(
    method: str,
    sigmas: torch.Tensor,
    i: int,
    x: torch.Tensor,
    denoised: torch.Tensor,
    previous: torch.Tensor | None = None,
    scaling: Scaling = STANDARD,
) -> torch.Tensor:
    """Latents of level i+1 before any noise map is added.

    Deterministic methods: Euler's step, which is DDIM with eta = 0. ``edit_friendly_ddpm``: DDPM's posterior mean,
    which is DDIM with eta = 1 (Huberman-Spiegelglas et al. 2024). ``ledits_pp``: SDE-DPM-Solver++ of second order,
    multistep, midpoint (Lu et al. 2022; Brack et al. 2024); its first and last steps are of first order and then equal
    the posterior mean.

    A flow has the marginals of a variance-exploding process whose latents are x / (1 - sigma), with noise
    sigma / (1 - sigma); the stochastic methods take their step there (Gao et al. 2024, "Diffusion Meets Flow
    Matching"). From pure noise, sigma 1, nothing of x is kept.

    Args:
        x, denoised: (R, C, H, W), rows at level i and the model's guided estimate of the clean latent.
        previous: ``denoised`` of step i-1 for the same rows, or None at the first step.
        scaling: of the model.
    """
    if method not in STOCHASTIC_METHODS:
        return denoised + (float(sigmas[i + 1]) / float(sigmas[i])) * (x - denoised)
    (size, noise), (size_next, noise_next) = (scaling.exploded(float(sigmas[j])) for j in (i, i + 1))
    ratio = noise_next / noise
    target = denoised
    if method == "ledits_pp" and previous is not None and 0 < i < len(sigmas) - 2:
        h = math.log(noise / noise_next)
        h_previous = math.log(scaling.exploded(float(sigmas[i - 1]))[1] / noise)
        target = denoised + 0.5 * (h / h_previous) * (denoised - previous)
    if scaling.kind != FLOW:
        return target + ratio**2 * (x - target)
    kept = 0.0 if math.isinf(noise) else ratio**2 * size_next / size
    return size_next * (1.0 - ratio**2) * target + kept * x


class Replay:
    """Rows that move along a trajectory together: [B sources, B rows of edit 1, B rows of edit 2 …].

    Row r belongs to image r mod B of the trajectory's batch. The first row of each image is the image itself: it is
    set to the trajectory at every level, whatever the model predicts.

    Args:
        trajectory: to follow.
        start: level to start from (:meth:`Trajectory.start_index`).
        noise_maps: one of ``NOISE_MAPS``.

    Raises:
        ValueError: levels or noise maps this trajectory does not have.
    """

    def __init__(
        self,
        trajectory: Trajectory,
        rows: int,
        *,
        start: int = 0,
        noise_maps: str = FROM_SOURCE,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0 <= start < trajectory.steps:
            raise ValueError(f"start level {start} is outside this trajectory, which has 0 to {trajectory.steps - 1}.")
        check_noise_maps(trajectory, noise_maps)
        self.trajectory = trajectory
        self.start = start
        self.noise_maps = noise_maps
        self.device = torch.device(device)
        self._batch = trajectory.latents.shape[1]
        # Of every row, its image, and at the same time the row that is the image.
        self._sources = torch.arange(rows) % self._batch
        self._previous: torch.Tensor | None = None

    @property
    def sigmas(self) -> torch.Tensor:
        """The remaining levels, (S+1-start,)."""
        return self.trajectory.sigmas[self.start :]

    def source(self, i: int) -> torch.Tensor:
        """Every row's own image at level i, (R, C, H, W)."""
        return self.trajectory.latents[i][self._sources].to(self.device)

    def initial(self) -> torch.Tensor:
        """Rows at the start level: each edit starts from its image's own latent."""
        self._previous = None
        return self.source(self.start)

    def step(self, i: int, x: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
        """Rows of level i+1 from rows ``x`` of level i and the guided estimate ``denoised``, both (R, C, H, W)."""
        trajectory = self.trajectory
        result = deterministic_part(
            trajectory.method, trajectory.sigmas, i, x, denoised, self._previous, trajectory.scaling
        )
        target = self.source(i + 1).to(result)
        if self.noise_maps == FROM_SOURCE:
            # Rows of one image share their target, so this is Φ(row) + r. Written this way, a row that equals its
            # source hits the target to the last bit, and half precision has nothing to magnify.
            result = target + (result - result[self._sources.to(result.device)])
        elif trajectory.noise_maps is not None:
            maps = trajectory.noise_maps[i][self._sources].to(result)
            if i > 0 and self._previous is None and trajectory.method == "ledits_pp":
                # A second-order method that starts late has no history in its first step, so the recorded map would
                # not fit: take what the image's own row needs to stay on the trajectory.
                maps = (target - result)[self._sources.to(result.device)]
            result = result + maps
        self._previous = denoised
        result[: self._batch] = target[: self._batch]
        return result

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        """Rows of the last level as clean latents in model space."""
        return self.trajectory.to_image_latent(x)


class TrajectorySampler:
    """Sampler function for ``comfy.samplers.KSAMPLER``: ``KSAMPLER(TrajectorySampler(trajectory))``.

    The noise passed by the guider is ignored: rows start from the trajectory. With a latent noise mask, edit rows stay
    on the trajectory outside the mask, at each level by what a node on the model makes of it (DifferentialDiffusion).
    Call it with ``sigmas = trajectory.sigmas[start:]``; what KSAMPLER returns is clean.
    The arguments are those of :class:`Replay`.

    Raises:
        ValueError: the trajectory has no noise maps of the chosen kind.
    """

    def __init__(
        self,
        trajectory: Trajectory,
        *,
        start: int = 0,
        noise_maps: str = FROM_SOURCE,
    ) -> None:
        check_noise_maps(trajectory, noise_maps)
        self.trajectory = trajectory
        self.start = start
        self.noise_maps = noise_maps

    def __call__(
        self,
        model: Any,
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
    ) -> torch.Tensor:
        """Rows (R, C, H, W) of the last level, which KSAMPLER returns as clean latents in model space.

        Raises:
            ValueError: ``sigmas`` are not the trajectory's levels from ``start`` on, or the size differs.
        """
        rows = x.shape[0]
        replay = Replay(
            self.trajectory,
            rows,
            start=self.start,
            noise_maps=self.noise_maps,
            device=x.device,
        )
        expected = replay.sigmas
        if sigmas.shape != expected.shape or not torch.allclose(sigmas.cpu().float(), expected, rtol=1e-4):
            raise ValueError(
                f"sigmas: a trajectory is replayed at its own {len(expected)} levels, from {float(expected[0]):.4f} to "
                f"{float(expected[-1]):.4f}; got {[round(float(s), 4) for s in sigmas]}."
            )
        if x.shape[1:] != self.trajectory.latents.shape[2:]:
            raise ValueError(
                f"latent_image: the trajectory has latents of {tuple(self.trajectory.latents.shape[2:])}, but sampling "
                f"got {tuple(x.shape[1:])}. Use the latent that was inverted."
            )
        args = dict(extra_args or {})
        mask = args.get("denoise_mask")
        # ComfyUI's masking would put fresh noise outside the mask; the trajectory has the image's own
        args["denoise_mask"] = None
        function = args.get("model_options", {}).get("denoise_mask_function")

        def changed(mask: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            if function is None:
                return mask
            return function(sigma, mask, extra_options={"model": model.inner_model, "sigmas": sigmas})

        levels = self.trajectory.sigmas.to(x)
        x = replay.initial().to(x)
        for i in range(self.start, self.trajectory.steps):
            denoised = model(x, levels[i].expand(rows), **args)
            if callback is not None:
                step = {"i": i - self.start, "sigma": levels[i], "sigma_hat": levels[i]}
                callback({**step, "x": x, "denoised": denoised})
            x = replay.step(i, x, denoised)
            if mask is not None:
                # The mask of the level that was reached; ComfyUI masks the last level by that of the one before.
                now = changed(mask, levels[min(i + 1, self.trajectory.steps - 1)].expand(rows))
                x = now * x + (1.0 - now) * replay.source(i + 1).to(x)
        # KSAMPLER takes a flow's last level back to the image itself (``inverse_noise_scaling``)
        return x if self.trajectory.scaling.kind == FLOW else replay.finish(x)
