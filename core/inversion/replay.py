"""Replaying a trajectory: the image comes back on its own row, edits follow it with the same noise maps.

For samplers and guiders:

* :func:`deterministic_part` and :func:`noise_std` are the update formulas, for one step and plain tensors;
* :class:`Replay` steps rows along a trajectory and remembers what a second-order step needs;
* :class:`TrajectorySampler` is a sampler function for ``comfy.samplers.KSAMPLER`` built on it: its rows are
  [source, edits …], the source row being set to the trajectory at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .trajectory import Trajectory


def noise_std(sigmas: torch.Tensor, i: int) -> float:
    """Standard deviation of the noise that a stochastic step i adds, in x units: sigma' sqrt(1 - (sigma'/sigma)^2)."""
    sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
    return sigma_next * math.sqrt(max(0.0, 1.0 - (sigma_next / sigma) ** 2))


def deterministic_part(
    method: str,
    sigmas: torch.Tensor,
    i: int,
    x: torch.Tensor,
    denoised: torch.Tensor,
    previous: torch.Tensor | None = None,
) -> torch.Tensor:
    """Latents of level i+1 before any noise map is added.

    ``ddim_*``: DDIM with eta = 0. ``edit_friendly_ddpm``: DDPM's posterior mean, which is DDIM with eta = 1
    (Huberman-Spiegelglas et al. 2024). ``ledits_pp``: SDE-DPM-Solver++ of second order, multistep, midpoint (Lu et al.
    2022; Brack et al. 2024); its first and last steps are of first order and then equal the posterior mean.

    Args:
        x, denoised: (R, C, H, W), rows at level i and the model's guided estimate of the clean latent.
        previous: ``denoised`` of step i-1 for the same rows, or None at the first step.
    """
    sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
    ratio = sigma_next / sigma
    if method.startswith("ddim"):
        return denoised + ratio * (x - denoised)
    target = denoised
    if method == "ledits_pp" and previous is not None and 0 < i < len(sigmas) - 2:
        h = math.log(sigma / sigma_next)
        h_previous = math.log(float(sigmas[i - 1]) / sigma)
        target = denoised + 0.5 * (h / h_previous) * (denoised - previous)
    return target + ratio**2 * (x - target)


class Replay:
    """Rows that move along a trajectory together.

    Args:
        trajectory: what to follow.
        start: level to start from (:meth:`Trajectory.start_index`).
        row_source: for every row, which image of the trajectory's batch it belongs to. All 0 by default.
        pinned: rows that are the image itself: set to the trajectory at every level, whatever the model says.
    """

    def __init__(
        self,
        trajectory: Trajectory,
        rows: int,
        *,
        start: int = 0,
        row_source: Sequence[int] | None = None,
        pinned: Sequence[int] = (0,),
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0 <= start < trajectory.steps:
            raise ValueError(f"start level {start} is outside this trajectory, which has 0 to {trajectory.steps - 1}.")
        batch = trajectory.latents.shape[1]
        sources = [0] * rows if row_source is None else list(row_source)
        if len(sources) != rows or not all(0 <= s < batch for s in sources):
            raise ValueError(f"row_source {sources} must name one of {batch} images for each of {rows} rows.")
        if not all(0 <= p < rows for p in pinned):
            raise ValueError(f"pinned rows {list(pinned)} are outside 0 to {rows - 1}.")
        self.trajectory = trajectory
        self.start = start
        self.device = torch.device(device)
        self._sources = torch.tensor(sources)
        self._pinned = torch.tensor(list(pinned), dtype=torch.long)
        self._previous: torch.Tensor | None = None

    @property
    def sigmas(self) -> torch.Tensor:
        """The levels that are still to be walked, (S+1-start,)."""
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
        result = deterministic_part(trajectory.method, trajectory.sigmas, i, x, denoised, self._previous)
        if trajectory.noise_maps is not None:
            maps = trajectory.noise_maps[i][self._sources].to(result)
            if i > 0 and self._previous is None and trajectory.method == "ledits_pp":
                maps = self._first_order_maps(i, result, maps)
            result = result + maps
        self._previous = denoised
        if len(self._pinned):
            pinned = self._pinned.to(result.device)
            result[pinned] = self.source(i + 1).to(result)[pinned]
        return result

    def _first_order_maps(self, i: int, result: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Noise maps for a second-order method that starts late: its first step has no history, so the stored map
        would not fit; what the image's own pinned row needs to stay on the trajectory does."""
        maps = maps.clone()
        target = self.source(i + 1).to(result)
        for pinned in self._pinned.tolist():
            same = (self._sources == self._sources[pinned]).to(maps.device)
            maps[same] = target[pinned] - result[pinned]
        return maps

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        """Rows of the last level as clean latents in model space."""
        return self.trajectory.to_image_latent(x)


class TrajectorySampler:
    """Sampler function for ``comfy.samplers.KSAMPLER``: ``KSAMPLER(TrajectorySampler(trajectory))``.

    The noise that the guider passes is ignored: rows start from the trajectory. A latent noise mask keeps the outside
    of the edit rows on the trajectory. Call it with ``sigmas = trajectory.sigmas[start:]``; the result is clean.
    """

    def __init__(
        self,
        trajectory: Trajectory,
        *,
        start: int = 0,
        row_source: Sequence[int] | None = None,
        pinned: Sequence[int] = (0,),
    ) -> None:
        self.trajectory = trajectory
        self.start = start
        self.row_source = row_source
        self.pinned = pinned

    def __call__(
        self,
        model: Any,
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
    ) -> torch.Tensor:
        """Rows (R, C, H, W) of clean latents in model space.

        Raises:
            ValueError: ``sigmas`` are not the trajectory's levels from ``start`` on, or the size differs.
        """
        rows = x.shape[0]
        replay = Replay(
            self.trajectory, rows, start=self.start, row_source=self.row_source, pinned=self.pinned, device=x.device
        )
        expected = replay.sigmas
        if sigmas.shape != expected.shape or not torch.allclose(sigmas.cpu().float(), expected, rtol=1e-4):
            raise ValueError(
                f"sigmas: a trajectory is replayed at its own {len(expected)} levels, from {float(expected[0]):.4f} to "
                f"{float(expected[-1]):.4f}; got {[round(float(s), 4) for s in sigmas]}."
            )
        if x.shape[1:] != self.trajectory.latents.shape[2:]:
            raise ValueError(
                f"latent: the trajectory holds latents of {tuple(self.trajectory.latents.shape[2:])}, "
                f"sampling is asked for {tuple(x.shape[1:])}. Use the latent that was inverted."
            )
        args = dict(extra_args or {})
        mask = args.get("denoise_mask")
        # the host's masking would put fresh noise around the mask; the trajectory has the image's own
        args["denoise_mask"] = None
        levels = self.trajectory.sigmas.to(x)
        x = replay.initial().to(x)
        for i in range(self.start, self.trajectory.steps):
            denoised = model(x, levels[i].expand(rows), **args)
            if callback is not None:
                step = {"i": i - self.start, "sigma": levels[i], "sigma_hat": levels[i]}
                callback({**step, "x": x, "denoised": denoised})
            x = replay.step(i, x, denoised)
            if mask is not None:
                x = mask * x + (1.0 - mask) * replay.source(i + 1).to(x)
        return replay.finish(x)
