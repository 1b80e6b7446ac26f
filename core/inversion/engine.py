"""Run a custom sampling loop inside ComfyUI's guider, so that everything attached to a model takes effect.

Loading and offloading, LoRA and its hooks, ControlNet, regional conditioning, wrappers, low-memory splitting and
multi-GPU clones are all part of ``CFGGuider.sample``. A loop that called the UNet directly would miss them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch

from ..conditioning import Conditioning
from ..guidance import GUIDANCE_FUNCTIONS, with_single_image_functions
from ..hooks import without_dynamic_memory
from ..picture_rows import option_rows
from ..step_caches import without_step_caches

T = TypeVar("T")
# Keys of ``model_options`` under which other nodes put functions that run at every step.
MODEL_FUNCTIONS = ("model_function_wrapper", *GUIDANCE_FUNCTIONS, "sampler_calc_cond_batch_function")
# Wrappers that run at every step; torch.compile's only calls the model.
STEP_WRAPPERS = (
    comfy.patcher_extension.WrappersMP.PREDICT_NOISE,
    comfy.patcher_extension.WrappersMP.CALC_COND_BATCH,
    comfy.patcher_extension.WrappersMP.APPLY_MODEL,
    comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL,
)
ROW_COUNTER = "oir_row_counter"
HARMLESS_WRAPPERS = (ROW_COUNTER, "torch.compile")


class RowCounter:
    """Counts what actually went through the UNet (an APPLY_MODEL wrapper; called by several GPUs at once).

    Attributes:
        rows: rows of all calls. calls: of the UNet; a batch that ComfyUI splits to save memory counts several.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.calls = 0
        self._lock = threading.Lock()

    def __call__(self, executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self.rows += x.shape[0]
            self.calls += 1
        return executor(x, *args, **kwargs)


class Denoiser:
    """The guided model inside a running loop: noisy rows → denoised rows.

    Attributes:
        device: on which rows must be.
        mixed_sigmas: whether rows of one call may have different sigmas. False if something in the conditioning
            depends on the sampling progress (timestep ranges, ControlNet ranges, hook keyframes), or if other nodes
            have put functions into the model (IPAdapter, Deep Shrink), which read the progress from the first row only.
    """

    def __init__(self, guider: Any, extra_args: dict[str, Any], device: torch.device) -> None:
        self._guider = guider
        self._extra_args = {k: extra_args[k] for k in ("model_options", "seed") if k in extra_args}
        self.device = device
        self._conds = [c for conds in guider.conds.values() for c in conds or []]
        self._highest = 0.0
        options = with_single_image_functions(self._extra_args.get("model_options", {}))
        self._extra_args["model_options"] = options
        self.mixed_sigmas = not (_has_functions(options) or any(_follows_progress(c) for c in self._conds))

    def __call__(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Denoised rows (R, C, H, W) of ``x`` (R, C, H, W) at ``sigma``, one number or (R,)."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(x.shape[0]).contiguous()
        highest = float(sigma.max())
        if highest > self._highest:
            self._rewind_hooks(highest)
        self._highest = highest
        return self._guider(x, sigma, **self._extra_args)

    def _rewind_hooks(self, sigma: float) -> None:
        """Bring hook keyframes to where sampling would have them at ``sigma``: they only move forward, unlike us."""
        hooks = {id(hook): hook for cond in self._conds for hook in getattr(cond.get("hooks"), "hooks", ())}
        options = self._extra_args.get("model_options", {})
        inner = options.get("transformer_options", {})
        schedule = inner.get("sample_sigmas", torch.empty(0))
        moved = False
        for hook in hooks.values():
            keyframes, before = hook.hook_keyframe, hook.hook_keyframe.strength
            hook.reset()
            # Each level before this one is a step of sampling; keyframes may be guaranteed some of them.
            for level in schedule[schedule > sigma].sort(descending=True).values:
                keyframes.prepare_current_keyframe(level, inner)
            moved |= keyframes.strength != before
        if moved:
            # ComfyUI patches the weights anew only when a keyframe moves forward.
            patchers = [self._guider.inner_model.current_patcher, *options.get("multigpu_clones", {}).values()]
            for patcher in {id(patcher): patcher for patcher in patchers}.values():
                patcher.clear_cached_hook_weights()


def _follows_progress(cond: dict[str, Any]) -> bool:
    if "timestep_start" in cond or "timestep_end" in cond:
        return True
    control = cond.get("control")
    while control is not None:
        if tuple(getattr(control, "timestep_percent_range", (0.0, 1.0))) != (0.0, 1.0):
            return True
        control = getattr(control, "previous_controlnet", None)
    hooks = cond.get("hooks")
    return any(len(getattr(hook.hook_keyframe, "keyframes", ())) > 0 for hook in getattr(hooks, "hooks", ()))


def _has_functions(model_options: dict[str, Any]) -> bool:
    inner = model_options.get("transformer_options", {})
    places = [model_options.get(name) for name in MODEL_FUNCTIONS]
    places += [*inner.get("patches", {}).values(), *inner.get("patches_replace", {}).values()]
    for kind in STEP_WRAPPERS:
        wrappers = inner.get("wrappers", {}).get(kind, {})
        places += [found for key, found in wrappers.items() if key not in HARMLESS_WRAPPERS]
    return any(places)


def effective_negative(model: Any, cfg: float, negative: Conditioning | None) -> Conditioning | None:
    """The negative conditioning if it is evaluated, else None.

    At cfg 1 it is not, unless a node on the model needs it even then (Self-Attention Guidance, Normalized Attention
    Guidance).
    """
    return negative if cfg != 1.0 or _forces_negative(model) else None


def _forces_negative(model: Any) -> bool:
    return bool(model.model_options.get("disable_cfg1_optimization", False))


class _LoopSampler(comfy.samplers.Sampler):
    """A ComfyUI sampler that runs a given loop."""

    def __init__(self, loop: Callable[[Denoiser], Any]) -> None:
        self._loop = loop
        self.result: Any = None

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
        self.result = self._loop(Denoiser(model_wrap, extra_args, noise.device))
        return torch.zeros_like(noise[:1])


def run_loop(
    model: Any,
    loop: Callable[[Denoiser], T],
    *,
    positive: Conditioning,
    negative: Conditioning | None,
    cfg: float,
    latent_image: torch.Tensor,
    rows: int,
    sigmas: torch.Tensor,
    seed: int = 0,
) -> tuple[T, RowCounter]:
    """Call ``loop`` with the model loaded and guided by the given conditioning.

    Args:
        model: a ``ModelPatcher``; left unchanged, even if the loop is interrupted.
        loop: takes a :class:`Denoiser`, returns anything.
        positive, negative: ComfyUI CONDITIONING; ``negative`` may be None if ``cfg`` is 1. The positive one then
            stands in for it, should a node on the model need it even so.
        cfg: classifier-free guidance scale; 1 evaluates the positive conditioning only.
        latent_image: (B, C, H, W), the clean latent, as in a LATENT. Inpainting models read it.
        rows: the largest batch the loop will use, for ComfyUI's memory estimate. Row r must belong to image r mod B.
        sigmas: the whole schedule, descending; patches read their progress from it.
        seed: passed to the sampler.

    Returns:
        The loop's result and the count of what went through the UNet.
    """
    model = without_step_caches(without_dynamic_memory(model, positive, negative))
    guider = comfy.samplers.CFGGuider(model)
    conds = {"positive": positive}
    if negative is None and _forces_negative(model):
        negative = positive
    if negative is not None:
        conds["negative"] = negative
    # Rows are the pictures in turn, over and over: what belongs to a picture goes to each of its rows.
    pictures = latent_image.shape[0]
    copies = -(-rows // pictures)
    conds = {
        name: [[text, option_rows(options, pictures, copies, name)] for text, options in entries]
        for name, entries in conds.items()
    }
    guider.inner_set_conds(conds)
    guider.set_cfg(cfg)

    counter = RowCounter()
    guider.model_options = comfy.model_patcher.create_model_options_clone(model.model_options)
    comfy.patcher_extension.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.APPLY_MODEL, ROW_COUNTER, counter, guider.model_options, True
    )
    sampler = _LoopSampler(loop)
    like = latent_image.float().repeat(copies, *[1] * (latent_image.ndim - 1))
    with torch.no_grad():
        guider.sample(torch.zeros_like(like), like.contiguous(), sampler, sigmas, disable_pbar=True, seed=seed)
    return sampler.result, counter
