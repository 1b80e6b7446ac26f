"""The wrappers of a run: around each noise prediction, each batch of conditioning and each call of the UNet."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from ..attention import BlendCall, EditStep, Probe, blended_options, call_untraced, replace_options
from ..conditioning import partial_area
from ..guidance import with_single_image_functions, without_guidance
from ..unet import CrossLayer
from .prompt import BatchPrompt, EditPrompt, edit_steps
from .step_masks import StepMasks

# How much equal rows may differ by rounding, in single and in half precision.
ROUNDING, HALF_ROUNDING = 1e-3, 2e-2


def step_at(sigma: float, levels: Sequence[float], last: int = 0) -> int:
    """The step that an evaluation at ``sigma`` belongs to; solvers may evaluate between the levels of a run.

    Args:
        levels: of the run, one more than steps.
        last: the step of the evaluation before. Where levels rise (FlipSigmas, restarts), a level occurs more than
            once, and only its place in the run tells the step.
    """
    steps = max(1, len(levels) - 1)
    if all(after <= before for before, after in zip(levels, levels[1:])):
        return max([i for i, level in enumerate(levels[:steps]) if level >= sigma * (1 - 1e-5)], default=0)
    while last + 1 < steps:
        here, following = levels[last], levels[last + 1]
        reached = sigma <= following * (1 + 1e-5) if following < here else sigma >= following * (1 - 1e-5)
        if not reached:
            break
        last += 1
    return last


class ConditionalFirst(Exception):
    """A call without the source's prompt came before the call whose maps it needs (low-memory splitting)."""


class BlendWrappers:
    """The wrappers of one run: they track its rows and steps and install blending in every call of the UNet.

    Args:
        prompt: source and N edits.
        joined: the conditioning of all rows.
        layers: all cross-attention layers of the UNet.
        masks: of this run.
        probe: reads the part maps; None if the mask is given.
        batch: B.
    """

    def __init__(
        self,
        prompt: EditPrompt,
        joined: BatchPrompt,
        layers: Sequence[CrossLayer],
        masks: StepMasks,
        probe: Probe | None,
        batch: int,
    ) -> None:
        self.prompt, self.joined, self.masks, self.batch = prompt, joined, masks, batch
        self._layers = tuple(layer.key for layer in layers)
        self._probe = probe
        self._probed: set[Any] = set()
        self._positive: set[Any] | None = None
        self._areas: dict[Any, tuple[int, ...]] = {}
        self._edits: tuple[EditStep, ...] = ()
        self._sigmas: torch.Tensor | None = None
        self._levels: list[float] = []
        self._step = 0
        self._split = False
        self._calls, self._told = 0, False
        # With one image, no row can get another image's data.
        self._rows_checked = batch == 1

    def by_kind(self) -> dict[str, Any]:
        """The wrappers to add to the run's own clone of the model."""
        return {
            WrappersMP.PREDICT_NOISE: self._predict_noise,
            WrappersMP.CALC_COND_BATCH: self._calc_cond_batch,
            WrappersMP.DIFFUSION_MODEL: call_untraced(self._diffusion_model),
        }

    # --- one evaluation -----------------------------------------------------------------------------------

    def _predict_noise(self, executor: Any, x: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        model_options = args[0] if args else kwargs.get("model_options", {})

        def evaluate(options: dict[str, Any]) -> Any:
            if args:
                return executor(x, timestep, options, *args[1:], **kwargs)
            return executor(x, timestep, **{**kwargs, "model_options": options})

        sigmas = model_options.get("transformer_options", {}).get("sample_sigmas")
        sigma = float(timestep.flatten()[0])
        first = self._positive is None
        self._begin(executor.class_obj.conds, sigma, sigmas)
        if first and self.masks.begins_without:
            evaluate(without_guidance(model_options))
            self._check_calls()
            self.masks.finish()
            self._begin(executor.class_obj.conds, sigma, sigmas)
        self._calls = 0
        out = evaluate(with_single_image_functions(model_options))
        self._check_calls()
        self.masks.finish()
        return out

    def _check_calls(self) -> None:
        """Caching nodes may skip the UNet; then nothing is read and nothing is blended.

        Raises:
            ValueError: there is no mask yet, so the run would continue without blending.
        """
        if self._calls:
            return
        if not self.masks.history:
            raise ValueError(
                "model: its UNet was not called in the first step, so nothing could be read or blended. An earlier "
                "node bypasses it (block caching such as DeepCache). Connect the model from before that node."
            )
        if not self._told:
            self._told = True
            logging.warning(
                "PartEdit: step %d ran without the UNet (a caching node bypassed it), so it was not blended anew.",
                self.masks.step + 1,
            )

    def _begin(self, conds: dict[str, list[dict]], sigma: float, sigmas: torch.Tensor | None) -> None:
        if self._positive is None:
            self._positive = self._find_positive(conds)
        levels = self._levels_of(sigmas)
        steps = max(1, len(levels) - 1)
        self._step = step_at(sigma, levels, self._step)
        self.masks.begin(self._step, steps)
        self._probed = set()
        self._edits = edit_steps(self.prompt, self.joined, self._step, steps)

    def _levels_of(self, sigmas: torch.Tensor | None) -> list[float]:
        """The run's noise levels as numbers, fetched from the device once and not at every step."""
        if sigmas is not self._sigmas:
            self._sigmas, self._levels = sigmas, [] if sigmas is None else sigmas.tolist()
        return self._levels

    def _find_positive(self, conds: dict[str, list[dict]]) -> set[Any]:
        """Ids of the entries with the prompts; also records the area of each entry."""
        entries = conds.get("positive", [])
        positive = {c["uuid"] for c in entries}
        if self._reads_first:
            entries.sort(key=lambda c: bool(partial_area(c, self.masks.latent)))
        for name, entries in conds.items():
            for number, cond in enumerate(entries):
                if name != "positive" and cond["uuid"] in positive:
                    # ComfyUI copies an entry with an area to the opposite list, including its id; distinguish the
                    # copies.
                    entries[number] = cond = {**cond, "uuid": uuid.uuid4()}
                self._areas[cond["uuid"]] = partial_area(cond, self.masks.latent)
        return positive

    # --- one call -----------------------------------------------------------------------------------------

    def _calc_cond_batch(self, executor: Any, model: Any, conds: list, *args: Any, **kwargs: Any) -> list:
        if not self._split:
            try:
                return executor(model, conds, *args, **kwargs)
            except ConditionalFirst:
                self._split = True
        positive = [bool(c) and any(self._carries_prompts(entry["uuid"]) for entry in c) for c in conds]
        first = executor(model, [c if p else None for c, p in zip(conds, positive)], *args, **kwargs)
        rest = executor(model, [None if p else c for c, p in zip(conds, positive)], *args, **kwargs)
        return [a if p else b for a, b, p in zip(first, rest, positive)]

    @property
    def _reads_first(self) -> bool:
        """Whether the last layer of every call blends with the maps of its own step: the first call has to read them,
        before regional entries, and the same whether or not the others follow in calls of their own."""
        return self._probe is not None and self.masks.settings.timing == "published"

    def _carries_prompts(self, entry: Any) -> bool:
        return self._positive is not None and entry in self._positive

    def _diffusion_model(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        self._calls += 1
        unet = executor.class_obj

        def install(options: dict[str, Any]) -> dict[str, Any]:
            return blended_options(options, unet, self._layers, self._call(options, args[0]))

        if not self._rows_checked:
            self._check_rows(executor, args, kwargs)
        args, kwargs = replace_options(args, kwargs, install)
        return executor(*args, **kwargs)

    def _check_rows(self, executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Once per run: check that other nodes' patches treat an image's source and edit rows in the same way.

        A patch with data for each image (IPAdapter Batch and the like) may distribute it over the (1 + N)·B rows in
        another order. So the edit rows are given the sources' inputs; all outputs must then be equal.

        Raises:
            ValueError: they are not equal.
        """
        found: dict[str, Any] = {}

        def take(options: dict[str, Any]) -> dict[str, Any]:
            found.update(options)
            return {}

        args, kwargs = replace_options(args, kwargs, take)
        if not (found.get("patches") or found.get("patches_replace")):
            return
        self._rows_checked = True
        members, rows = 1 + len(self.prompt.edits), args[0].shape[0]

        def grouped(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.reshape(-1, members, self.batch, *tensor.shape[1:])

        def mirrored(value: Any) -> Any:
            """The sources' rows for all. Containers are copied: the UNet takes ControlNet's residuals out of theirs."""
            if isinstance(value, dict):
                return {key: mirrored(one) for key, one in value.items()}
            if type(value) in (list, tuple):
                return type(value)(map(mirrored, value))
            if not isinstance(value, torch.Tensor) or value.ndim == 0 or value.shape[0] != rows:
                return value
            groups = grouped(value)
            return groups[:, :1].expand_as(groups).reshape(value.shape)

        same, named = replace_options(tuple(map(mirrored, args)), mirrored(kwargs), lambda _: found)
        out = grouped(executor(*same, **named).float())
        difference = (out - out[:, :1]).norm() / out[:, :1].norm().clamp(min=1e-6)
        if float(difference) > (ROUNDING if args[0].dtype == torch.float32 else HALF_ROUNDING):
            raise ValueError(
                "model: an earlier node (IPAdapter with several images, for example) gives edits the data of other "
                f"images: at latent_image's batch size {self.batch}, rows that must be equal differ by "
                f"{float(difference):.1%}. Edit one image at a time (batch size 1), or give that node one image."
            )

    def _check_whole(self, x: torch.Tensor, areas: Sequence[tuple[int, ...]]) -> None:
        """Refuse a call whose rows or size are not those of the run.

        Raises:
            ValueError: another node splits the latent into tiles, or changes the rows.
        """
        rows = len(areas) * (1 + len(self.prompt.edits)) * self.batch
        sizes = [tuple(area[:2] or self.masks.latent) for area in areas]
        size = next((one for one in sizes if one != tuple(x.shape[-2:])), tuple(x.shape[-2:]))
        if x.shape[0] != rows or tuple(x.shape[-2:]) != size:
            raise ValueError(
                f"model: its UNet gets {x.shape[0]} rows of {x.shape[-2]} x {x.shape[-1]}, but source and edits are "
                f"{rows} rows of {size[0]} x {size[1]}. An earlier node splits the image into tiles (tiled diffusion) "
                "or changes the batch. Connect the model from before that node."
            )

    def _call(self, options: dict[str, Any], x: torch.Tensor) -> BlendCall:
        uuids = options.get("uuids", [])
        # ComfyUI batches entries by the size of their areas only: each has a place of its own.
        areas = [self._areas.get(one, ()) for one in uuids]
        self._check_whole(x, areas)
        positive = [n for n, one in enumerate(uuids) if self._carries_prompts(one)]
        probe = None
        fresh = [n for n in positive if uuids[n] not in self._probed]
        # Regional prompts only see part of the image, and a perturbed second pass (PAG) must not count twice.
        if self._probe is not None and fresh and not any(areas[n] for n in positive) and len(fresh) == len(positive):
            probe = self._probe
            self._probed.update(uuids[n] for n in fresh)
            if self._reads_first:
                # Later entries are already blended with these maps. ComfyUI puts the last entry into the first call,
                # at the head, however many it has memory for.
                fresh = fresh[:1]
                self._probed.update(self._positive or ())
        if probe is None and not positive and self.masks.needs_current and self.masks.current() is None:
            raise ConditionalFirst
        height, width = self.masks.latent
        return BlendCall(
            batch=self.batch,
            edits=self._edits,
            chunks=len(uuids),
            positive=positive,
            probe=probe,
            probed=() if probe is None else fresh,
            masks=self.masks.for_call(areas, x.device),
            self_limit=-(-height // 4) * -(-width // 4),
        )
