"""One run of the method: its settings, its masks step by step, and what every call of the UNet has to do."""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from ..attention import BlendCall, EditStep, Probe, blended_options, replace_options
from ..unet import CrossLayer, LayerKey
from .masks import THRESHOLDS, MapSum, check_omega, fit_mask, map_size, normalise, resize, threshold, union
from .prompt import BatchPrompt, EditPrompt, edit_steps
from .tokens import PADDINGS, PartToken

TIMINGS = ("clean", "clean, first step twice", "published")
MAP_SIZES = ("latent", "published")


@dataclass(frozen=True)
class BlendSettings:
    """Settings of feature blending (PartEdit, Sec. 4.3 and 4.4).

    Attributes:
        edit_steps: tₑ, how long edits are blended: up to 1.0 a share of the steps, above that a number of steps.
        threshold, omega, fixed: how maps become masks, see `masks.threshold`.
        layers: where the maps are read, see `layers.choose_layers`.
        timing: ``clean``: every layer of step i uses the mask of step i − 1, for 0 < i < tₑ (a given mask: from
            step 0). ``clean, first step twice`` evaluates the first step twice, so that it has a mask too.
            ``published``: as ``clean``, but the last cross-attention layer already uses the mask of step i, for
            0 < i + 1 < tₑ; this is how the published code counts.
        padding: what fills the token's context, see `PartToken.context`.
        map_size: size of the map that is thresholded: ``latent`` or ``published`` (1024 on the longer side).
        keep_pooled: edits get the source's pooled embedding.
    """

    edit_steps: float = 1.0
    threshold: str = "adaptive"
    omega: float = 1.5
    fixed: float = 0.5
    layers: str = "published"
    timing: str = "clean"
    padding: str = "background"
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
            raise ValueError(f"edit_steps: {self.edit_steps} is negative. Give a share (0 to 1) or a number of steps.")
        check_omega(self.threshold, self.omega)

    def blended_steps(self, steps: int) -> int:
        """tₑ in steps of this run."""
        return round(self.edit_steps * steps) if self.edit_steps <= 1.0 else round(self.edit_steps)


class ConditionalFirst(Exception):
    """A call without the source's prompt came before the one whose maps it needs (low-memory splitting)."""


class BlendRun:
    """State of one run. Used once; everything it holds belongs to that run."""

    def __init__(
        self,
        settings: BlendSettings,
        prompt: EditPrompt,
        joined: BatchPrompt,
        layers: Sequence[CrossLayer],
        read_layers: Sequence[LayerKey],
        batch: int,
        latent: tuple[int, int],
        token: PartToken | None = None,
        mask: torch.Tensor | None = None,
        region: torch.Tensor | None = None,
        constant_weights: bool = True,
    ) -> None:
        self.settings, self.prompt, self.joined = settings, prompt, joined
        self.layers = tuple(layer.key for layer in layers)
        self.batch, self.latent = batch, latent
        self.size = map_size(latent, settings.map_size == "published")
        self.region = None if region is None else fit_mask(region, batch, self.size, "region")
        self.given = None if mask is None else fit_mask(mask, batch, latent, "mask")[:, 0]
        self.token = token
        self.history: dict[int, torch.Tensor] = {}
        self.levels: list[list[float]] = []
        self.step, self.steps = -1, 0
        self._previous: list[torch.Tensor] | None = None
        self._current: list[torch.Tensor] | None = None
        self._sum = MapSum()
        self._probed: set[Any] = set()
        self._positive: set[Any] = set()
        self._areas: dict[Any, tuple[int, ...]] = {}
        self._edits: tuple[EditStep, ...] = ()
        self._resized: dict[tuple, torch.Tensor] = {}
        self._split = False
        self._lock = threading.RLock()
        self._groups = self._part_groups()
        self._probe_parts: dict[str, Any] | None = None
        if self.given is not None:
            self._previous = [self.given for _ in self._groups]
        elif token is not None:
            end_of_text = prompt.source[0][0][0, -1]
            rows, log_counts = token.context(settings.padding, end_of_text)
            self._probe_parts = {
                "rows": rows,
                "log_counts": log_counts,
                "part_columns": token.part_rows,
                "layers": frozenset(read_layers),
                "cache": {} if constant_weights else None,
            }
        else:
            raise ValueError(
                "part_token: nothing connected. Connect a part token (LoadPartToken), or a mask to use instead."
            )

    def _part_groups(self) -> list[tuple[int, ...]]:
        """The different sets of parts that prompts apply to; each gets a mask."""
        groups: list[tuple[int, ...]] = []
        for edit in self.prompt.edits:
            if self.given is not None and len(edit.prompts) > 1:
                raise ValueError(
                    "mask: one given mask cannot be shared by prompts with parts of their own. Use a part token with "
                    "these parts, or one prompt for the masked region."
                )
            for part in edit.prompts:
                group = (0,) if self.given is not None else self._indices(part.parts)
                if group not in groups:
                    groups.append(group)
        return groups

    def _indices(self, names: tuple[str, ...]) -> tuple[int, ...]:
        return self.token.part_indices(names) if self.token is not None else (0,)

    def _group(self, names: tuple[str, ...]) -> int:
        return 0 if self.given is not None else self._groups.index(self._indices(names))

    def check_steps(self, steps: int) -> None:
        """Raise a ValueError when a run of so many steps would be over before there is a mask."""
        s = self.settings
        if steps == 1 and self.given is None and s.timing == TIMINGS[0] and s.blended_steps(steps) > 0:
            raise ValueError(
                f"timing: with a single step and {TIMINGS[0]!r} there is no mask before the picture is done, so "
                f"nothing would be held to the part. Choose {TIMINGS[1]!r}, or give a mask."
            )

    # --- evaluations ------------------------------------------------------------------------------------

    def wrappers(self) -> dict[str, Any]:
        """The wrappers to add to the run's own clone of the model."""
        return {
            WrappersMP.PREDICT_NOISE: self._predict_noise,
            WrappersMP.CALC_COND_BATCH: self._calc_cond_batch,
            WrappersMP.DIFFUSION_MODEL: self._diffusion_model,
        }

    def _predict_noise(self, executor: Any, x: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        model_options = args[0] if args else kwargs.get("model_options", {})
        sigmas = model_options.get("transformer_options", {}).get("sample_sigmas")
        first = self.step < 0
        self._begin(executor.class_obj.conds, float(timestep.flatten()[0]), sigmas)
        if first and self.settings.timing == "clean, first step twice" and self._previous is None:
            executor(x, timestep, *args, **kwargs)
            self._finish()
            self._begin(executor.class_obj.conds, float(timestep.flatten()[0]), sigmas)
        out = executor(x, timestep, *args, **kwargs)
        self._finish()
        return out

    def _begin(self, conds: dict[str, list[dict]], sigma: float, sigmas: torch.Tensor | None) -> None:
        if self.step < 0:
            self._find_positive(conds)
        levels = [] if sigmas is None else [float(s) for s in sigmas]
        self.steps = max(1, len(levels) - 1)
        # Solvers may evaluate between levels; such an evaluation belongs to the step that it is part of.
        self.step = max([i for i, level in enumerate(levels[: self.steps]) if level >= sigma * (1 - 1e-5)], default=0)
        self._sum, self._current, self._probed = MapSum(), None, set()
        self._edits = edit_steps(self.prompt, self.joined, self.step, self.steps)
        self._resized = {key: value for key, value in self._resized.items() if self.given is not None}

    def _find_positive(self, conds: dict[str, list[dict]]) -> None:
        self._positive = {c["uuid"] for c in conds.get("positive", [])}
        for name, entries in conds.items():
            for number, cond in enumerate(entries):
                self._areas[cond["uuid"]] = tuple(cond.get("area") or ())
                if name != "positive" and cond["uuid"] in self._positive:
                    # The host copies an entry with an area to its opposite, id included; tell the copies apart.
                    entries[number] = cond = {**cond, "uuid": uuid.uuid4()}
                    self._areas[cond["uuid"]] = tuple(cond.get("area") or ())

    def _finish(self) -> None:
        if self.given is None:
            current = self._current_masks()
            if current is not None:
                self._previous = current
        if self._previous is not None:
            self.history[self.step] = torch.stack(self._previous).float().cpu()

    def edit_masks(self, step: int | None = None) -> torch.Tensor | None:
        """(N, B, H, W) mask of every edit after a step (the last one for None); None when there is none."""
        if not self.history:
            return None
        masks = list(self.history[max(self.history) if step is None else step])
        return torch.stack([self._edit_mask(masks, number) for number in range(len(self.prompt.edits))])

    def _collect(self, layer: LayerKey, maps: torch.Tensor) -> None:
        with self._lock:
            self._sum.add(maps)

    def _current_masks(self) -> list[torch.Tensor] | None:
        """Masks (B, H, W) of this evaluation, one for each group of parts; None before its maps are complete."""
        with self._lock:
            if self._current is None and self._sum.layers:
                maps = self._sum.mean(self.size)
                found, levels = [], []
                for group in self._groups:
                    one = normalise(maps[:, list(group)].sum(dim=1))
                    if self.region is not None:
                        one = normalise(one * self.region[:, 0].to(one))
                    mask, k = threshold(one, self.settings.threshold, self.settings.omega, self.settings.fixed)
                    found.append(mask)
                    levels.append(k)
                self.levels, self._current = levels, found
            return self._current

    def _edit_mask(self, masks: list[torch.Tensor], number: int) -> torch.Tensor:
        edit = self.prompt.edits[number]
        if not edit.blended:
            return torch.ones_like(masks[0])
        return union([masks[self._group(part.parts)] for part in edit.prompts])

    # --- one call ---------------------------------------------------------------------------------------

    def _calc_cond_batch(self, executor: Any, model: Any, conds: list, *args: Any, **kwargs: Any) -> list:
        if not self._split:
            try:
                return executor(model, conds, *args, **kwargs)
            except ConditionalFirst:
                self._split = True
        positive = [bool(c) and any(entry["uuid"] in self._positive for entry in c) for c in conds]
        first = executor(model, [c if p else None for c, p in zip(conds, positive)], *args, **kwargs)
        rest = executor(model, [None if p else c for c, p in zip(conds, positive)], *args, **kwargs)
        return [a if p else b for a, b, p in zip(first, rest, positive)]

    def _diffusion_model(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        unet = executor.class_obj

        def install(options: dict[str, Any]) -> dict[str, Any]:
            return blended_options(options, unet, self.layers, self._call(options, args[0]))

        args, kwargs = replace_options(args, kwargs, install)
        return executor(*args, **kwargs)

    def _call(self, options: dict[str, Any], x: torch.Tensor) -> BlendCall:
        uuids = options.get("uuids", [])
        positive = [n for n, one in enumerate(uuids) if one in self._positive]
        area = self._areas.get(uuids[0], ()) if uuids else ()
        probe = None
        fresh = [n for n in positive if uuids[n] not in self._probed]
        # Regions of a prompt see a part of the picture only, and a perturbed second pass (PAG) must not count twice.
        if self._probe_parts is not None and fresh and not area and len(fresh) == len(positive):
            probe = Probe(collect=self._collect, **self._probe_parts)
            self._probed.update(uuids[n] for n in fresh)
        if probe is None and not positive and self._needs_current() and self._current_masks() is None:
            raise ConditionalFirst
        height, width = self.latent
        return BlendCall(
            batch=self.batch,
            edits=self._edits,
            chunks=len(uuids),
            positive=positive,
            probe=probe,
            mask_for=lambda layer, is_cross, h, w: self._mask_for(layer, is_cross, (h, w), area, x.device),
            weights_for=lambda number, h, w: self._weights_for(number, (h, w), area, x.device),
            self_limit=-(-height // 4) * -(-width // 4),
        )

    def _needs_current(self) -> bool:
        """Whether the last layer of this step blends with this step's own mask."""
        blended = self.settings.blended_steps(self.steps)
        return self.given is None and self.settings.timing == "published" and 0 < self.step + 1 < blended

    def _masks_at(self, layer: LayerKey, is_cross: bool) -> list[torch.Tensor] | None:
        blended = self.settings.blended_steps(self.steps)
        if self.settings.timing != "published":
            return self._previous if self.step < blended else None
        last = is_cross and layer == self.layers[-1]
        if not 0 < self.step + last < blended:
            return None
        return self._current_masks() if last and self.given is None else self._previous

    def _mask_for(
        self, layer: LayerKey, is_cross: bool, grid: tuple[int, int], area: tuple[int, ...], device: torch.device
    ) -> torch.Tensor | None:
        masks = self._masks_at(layer, is_cross)
        if masks is None:
            return None
        key = (id(masks), grid, area, device)
        with self._lock:
            if key not in self._resized:
                each = [self._edit_mask(masks, number) for number in range(len(self.prompt.edits))]
                self._resized[key] = self._to_layer(torch.stack(each).flatten(0, 1), grid, area, device)
            return self._resized[key]

    def _weights_for(
        self, number: int, grid: tuple[int, int], area: tuple[int, ...], device: torch.device
    ) -> torch.Tensor | None:
        if self._previous is None:
            return None
        groups = [self._group(part.parts) for part in self.prompt.edits[number].prompts]
        each = torch.stack([self._to_layer(self._previous[g], grid, area, device) for g in groups])
        total = each.sum(dim=0, keepdim=True)
        return torch.where(total > 1e-4, each / total.clamp(min=1e-4), torch.full_like(each, 1 / len(groups)))

    def _to_layer(
        self, masks: torch.Tensor, grid: tuple[int, int], area: tuple[int, ...], device: torch.device
    ) -> torch.Tensor:
        """(rows, H, W) → (rows, h·w, 1) at a layer's resolution."""
        published = self.settings.map_size == "published" and self.given is None
        masks = masks[:, None].to(device)
        if area:
            height, width, top, left = area[-4], area[-3], area[-2], area[-1]
            masks = resize(masks, self.latent, antialias=not published)[..., top : top + height, left : left + width]
        return resize(masks, grid, antialias=not published).flatten(2).transpose(1, 2).clamp(0, 1)
