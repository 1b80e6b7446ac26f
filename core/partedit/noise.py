"""The same random numbers for every row: an edit may differ from its source by its prompt only."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_patcher
import comfy.samplers
import torch
from torch.overrides import TorchFunctionMode

from ..inversion.engine import MODEL_FUNCTIONS
from ..inversion.replay import TrajectorySampler

# What draws numbers for a given size, and what draws them for the size of its first argument.
_BY_SIZE = {torch.randn, torch.rand}
_LIKE = {torch.randn_like, torch.rand_like}
_IN_PLACE = {torch.Tensor.normal_, torch.Tensor.uniform_}
# Side of the latents of the trial run, and its number of steps.
_TRIAL_SIDE, _TRIAL_STEPS = 8, 4
_ROUNDING = 1e-4
# Samplers that have been named because they could not be tried out.
_untried: set[str] = set()


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Leaves the random state of the CPU and of ``device`` as it was."""
    indexed = device.type if device.type in ("cuda", "xpu") else ""
    with torch.random.fork_rng([device] if indexed else [], device_type=indexed or "cuda"):
        state = torch.mps.get_rng_state() if device.type == "mps" else None  # has no devices, which fork_rng asks for
        try:
            yield
        finally:
            if state is not None:
                torch.mps.set_rng_state(state)


class SharedNoise(TorchFunctionMode):
    """While active, noise for (1 + N)·B rows is drawn for B pictures and repeated, whoever draws it and however.

    The first B rows get exactly what a sampler would draw for B rows alone, so the source's noise is that of an
    ordinary run with the same seed.

    Args:
        rows: 1 + N, source and edits.
        batch: B.
    """

    def __init__(self, rows: int, batch: int) -> None:
        super().__init__()
        self._rows, self._batch = rows, batch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _LIKE and self._is_whole(args[0].shape):
            return self._repeat(func(args[0][: self._batch], *args[1:], **kwargs))
        if func in _IN_PLACE and self._is_whole(args[0].shape):
            drawn = func(torch.empty_like(args[0][: self._batch]), *args[1:], **kwargs)
            return args[0].copy_(self._repeat(drawn))
        if func in _BY_SIZE:
            named = kwargs.pop("size", None)
            size = named if named is not None else args[0] if args and not isinstance(args[0], int) else args
            if self._is_whole(size):
                return self._repeat(func((self._batch, *size[1:]), **kwargs))
            return func(*args, **kwargs) if named is None else func(size=named, **kwargs)
        return func(*args, **kwargs)

    def _is_whole(self, size: Any) -> bool:
        return len(size) > 1 and size[0] == self._rows * self._batch

    def _repeat(self, drawn: torch.Tensor) -> torch.Tensor:
        return drawn.repeat(self._rows, *([1] * (drawn.ndim - 1)))


class _ModelBeside:
    """The guider as a sampler sees it, evaluated while nothing is shared: noise inside the model is its own affair."""

    def __init__(self, guider: Any, mode: SharedNoise) -> None:
        self._guider, self._mode = guider, mode

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guider, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._mode.__exit__(None, None, None)
        try:
            return self._guider(*args, **kwargs)
        finally:
            self._mode.__enter__()


class _StandIn:
    """The guider with a model that costs nothing and treats all rows alike: the mean of clean unit noise."""

    def __init__(self, guider: Any) -> None:
        self._guider = guider

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guider, name)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, model_options: dict | None = None, **_: Any) -> Any:
        sigma = torch.as_tensor(sigma, device=x.device, dtype=x.dtype).reshape(-1, *([1] * (x.ndim - 1)))
        denoised = x / (1 + sigma**2)
        seen = {
            "cond_scale": 1.0,
            "model": self._guider.inner_model,
            "sigma": sigma,
            "input": x,
            "cond": [],
            "uncond": [],
        }
        for function in (model_options or {}).get("sampler_post_cfg_function", ()):
            each = {"denoised": denoised, "cond_denoised": denoised, "uncond_denoised": denoised}
            denoised = function({**seen, **each, "model_options": model_options})
        return denoised


class SharingSampler(comfy.samplers.Sampler):
    """A sampler whose noise is the same for a picture's source and its edits.

    Args:
        sampler: a ComfyUI SAMPLER of any kind; left as it is.
        rows: 1 + N, source and edits.
        batch: B.
    """

    def __init__(self, sampler: Any, rows: int, batch: int) -> None:
        self._sampler, self._rows, self._batch = sampler, rows, batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def sample(
        self,
        model_wrap: Any,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: torch.Tensor,
        latent_image: torch.Tensor | None = None,
        denoise_mask: torch.Tensor | None = None,
        disable_pbar: bool = False,
    ) -> torch.Tensor:
        """As the host's ``Sampler.sample``.

        Raises:
            ValueError: a trial run shows that equal rows do not stay equal, or that the latent changes its size.
        """
        self._try_out(model_wrap, sigmas, extra_args, noise)
        mode = SharedNoise(self._rows, self._batch)
        with mode:
            beside = _ModelBeside(model_wrap, mode)
            return self._sampler.sample(
                beside, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar
            )

    def _try_out(self, model_wrap: Any, sigmas: torch.Tensor, extra_args: dict[str, Any], noise: torch.Tensor) -> None:
        side = (..., slice(0, _TRIAL_SIDE), slice(0, _TRIAL_SIDE))
        small = noise[side].clone()
        start = torch.randn(small[: self._batch].shape, generator=torch.Generator().manual_seed(0)).to(small)
        small = start.repeat(self._rows, *([1] * (small.ndim - 1)))
        options = comfy.model_patcher.create_model_options_clone(extra_args.get("model_options", {}))
        # Functions of other nodes may count their calls or keep what they see; those of the sampler itself come later.
        for name in MODEL_FUNCTIONS:
            options.pop(name, None)
        try:
            with _random_state_kept(noise.device), SharedNoise(self._rows, self._batch):
                out = self._sampler.sample(
                    _StandIn(model_wrap),
                    sigmas[: _TRIAL_STEPS + 1],
                    {**extra_args, "model_options": options},
                    None,
                    small,
                    torch.zeros_like(small),
                    None,
                    True,
                )
        except Exception as error:  # a sampler may ask the model for what only a real run has
            if self._name not in _untried:
                _untried.add(self._name)
                logging.warning(
                    "PartEdit: sampler %r could not be tried out (%r), so nothing tells whether it gives source and "
                    "edit the same noise. If the edit differs from its source outside the part, use one of ComfyUI's "
                    "own samplers.",
                    self._name,
                    error,
                )
            return
        if out.shape != small.shape:
            raise ValueError(
                f"sampler: {self._name!r} changes the size of the latent from {tuple(small.shape[-2:])} to "
                f"{tuple(out.shape[-2:])}, but masks belong to one size. Use one that keeps it; upscale later."
            )
        groups = out.float().reshape(self._rows, self._batch, -1)
        difference = (groups - groups[:1]).norm() / groups[:1].norm().clamp(min=1e-6)
        if float(difference) > _ROUNDING:
            raise ValueError(
                f"sampler: {self._name!r} treats rows that are equal differently (by {float(difference):.0%} in a "
                "trial run), for example with noise of its own for each row, so source and edit would drift apart. Use "
                "another sampler; all of ComfyUI's own share their noise."
            )

    @property
    def _name(self) -> str:
        function = getattr(self._sampler, "sampler_function", None)
        return getattr(function, "__name__", None) or type(self._sampler).__name__


def share_noise(sampler: Any, rows: int, batch: int) -> Any:
    """A sampler that draws its noise for B pictures once and gives it to the source and to every edit.

    The source then gets exactly the noise of an ordinary run with the same seed.

    Args:
        sampler: a ComfyUI SAMPLER of any kind; left as it is.
        rows: 1 + N, source and edits.
        batch: B.
    """
    if isinstance(getattr(sampler, "sampler_function", None), TrajectorySampler):
        return sampler  # it draws nothing, and recorded noise maps part an edit from its pinned source on purpose
    return SharingSampler(sampler, rows, batch)
