"""The masks of one run, step by step: from part maps to the mask a layer blends with."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import torch

from ..attention import CallMasks
from ..mask_inputs import check_left, mask_batch, one_per_edit
from .masks import MapSum, check_found, fit_mask, map_size, normalise, resize, threshold, union
from .settings import TIMINGS, BlendInputs
from .step_views import Band, bands_of

# One mask (B, H, W) for each group of parts.
GroupMasks = list[torch.Tensor]


class StepMasks:
    """Masks of one run with B images and N edits.

    A step starts with `begin`, collects the part maps of its layers, and ends with `finish`. Prompts may apply to
    different parts; each distinct set of parts (a group) has its own mask.

    Args:
        inputs: prompts, token or mask, settings.
        batch: B.
        latent: (h, w) of the latent.

    Attributes:
        given: (N, B, h, w) masks that the user gave instead of a token's, or None.
        history: step → (groups, B, H, W) masks after it, on the CPU; a group for each edit when they were given.
        in_use: step → the masks that its layers were blended with, of the same shape (``published`` timing: all layers
            but the last).
        levels: threshold of the last step's maps, for each group and picture.

    Raises:
        ValueError: masks that do not fit, or parts the token does not have.
    """

    def __init__(self, inputs: BlendInputs, batch: int, latent: tuple[int, int]) -> None:
        self.settings, self.token, self.edits = inputs.settings, inputs.token, inputs.prompt.edits
        self.latent, self.batch = latent, batch
        self.size = map_size(latent, self.settings.map_size == "published")
        self.region: torch.Tensor | None = None
        if inputs.region is not None:
            self.region = fit_mask(inputs.region, batch, self.size, "region")
            check_left(mask_batch(inputs.region, "region").expand(batch, -1, -1), self.region[:, 0], "region")
        self.given: torch.Tensor | None = None
        if inputs.mask is not None:
            masks = mask_batch(inputs.mask, "mask")
            fitted = fit_mask(masks, len(masks), latent, "mask")[:, 0]
            check_left(masks, fitted, "mask")
            each = one_per_edit(fitted, batch, len(self.edits), "mask")
            self.given = each.unflatten(0, (len(self.edits), batch))
        self.history: dict[int, torch.Tensor] = {}
        self.in_use: dict[int, torch.Tensor] = {}
        self.levels: list[list[float]] = []
        self.step, self.steps = -1, 0
        self._groups = self._part_groups()
        self._previous: GroupMasks | None = None if self.given is None else list(self.given)
        self._current: GroupMasks | None = None
        self._sum = self._no_maps()
        self._resized: dict[tuple, torch.Tensor] = {}
        # With several GPUs, ComfyUI calls the layers from worker threads.
        self._lock = threading.RLock()

    def check_steps(self, steps: int) -> None:
        """Raise a ValueError if a run of one step, or warn if one of ``steps``, would end without having blended."""
        s, blended, given = self.settings, self.settings.blended_steps(steps), self.given is not None
        if s.timing == "published":
            never = blended < 2
            instead = f"Choose {TIMINGS[0 if given else 1]!r}"
        else:
            never = min(blended, steps) < (1 if given or s.timing == TIMINGS[1] else 2)
            instead = f"Choose {TIMINGS[1]!r}, or give a mask"
        if not never or blended == 0:
            return
        if steps == 1:
            raise ValueError(
                f"timing: with a single step, {s.timing!r} has no mask before the image is done, so the edit would "
                f"not be confined to the part. {instead}."
            )
        logging.warning(
            "PartEdit: edit_steps: %g is one of %d steps, in which timing %r has no mask yet, so the edit is not "
            "confined to the part. Raise edit_steps. Or: %s.",
            s.edit_steps,
            steps,
            s.timing,
            instead,
        )

    # --- parts and their groups ---------------------------------------------------------------------------

    def _part_groups(self) -> list[tuple[int, ...]]:
        """The different sets of parts that prompts apply to; each gets a mask. None for given masks."""
        if self.given is not None:
            return []
        return list(dict.fromkeys(self._indices(part.parts) for edit in self.edits for part in edit.prompts))

    def _indices(self, names: tuple[str, ...]) -> tuple[int, ...]:
        return self.token.part_indices(names) if self.token is not None else (0,)

    def _group(self, names: tuple[str, ...]) -> int:
        return self._groups.index(self._indices(names))

    # --- one step -----------------------------------------------------------------------------------------

    def begin(self, step: int, steps: int) -> None:
        """Start a new evaluation of ``step`` of ``steps``, with no maps collected yet."""
        self.step, self.steps = step, steps
        self._sum, self._current = self._no_maps(), None
        if self.given is None:
            self._resized = {}

    def _no_maps(self) -> MapSum:
        return MapSum(1 if self.token is None else self.token.parts)

    def collect(self, maps: torch.Tensor, parts: tuple[int, ...]) -> None:
        """Take the maps (B, p, h, w) of one layer, summed over heads, and the indices of their parts."""
        with self._lock:
            self._sum.add(maps, parts)

    def finish(self) -> None:
        """End an evaluation; its masks become the previous masks."""
        used = self._at_layer(last=False)
        if used is not None:
            self.in_use[self.step] = self.given if self.given is not None else torch.stack(used).float().cpu()
        if self.given is None:
            current = self.current()
            if current is not None:
                self._previous = current
        if self.given is not None:
            self.history[self.step] = self.given
        elif self._previous is not None:
            self.history[self.step] = torch.stack(self._previous).float().cpu()

    def release(self) -> None:
        """End the run: let go of what lies on the layers' device. The masks of the steps are in host memory."""
        with self._lock:
            self._sum, self._resized = self._no_maps(), {}

    def current(self) -> GroupMasks | None:
        """Masks of this evaluation, computed on first use; None before its maps are collected."""
        with self._lock:
            if self._current is None and self._sum.complete:
                maps = self._sum.mean(self.size)
                if self.settings.map_size == "latent":
                    maps = maps.cpu()  # small: one copy costs less than each number that is asked of the device below
                found, levels = [], []
                for group in self._groups:
                    one = maps[:, list(group)].sum(dim=1)
                    check_found(one)
                    one = normalise(one)
                    if self.region is not None:
                        one = one * self.region[:, 0].to(one)
                        check_found(one, "region")
                        one = normalise(one)
                    mask, k = threshold(one, self.settings.threshold, self.settings.omega, self.settings.fixed)
                    found.append(mask.cpu())  # it is resized for each layer there
                    levels.append(k)
                self.levels, self._current = levels, found
            return self._current

    @property
    def begins_without(self) -> bool:
        """Whether the first step is to be evaluated twice, because it has no mask yet."""
        return self.settings.timing == TIMINGS[1] and self._previous is None

    @property
    def needs_current(self) -> bool:
        """Whether the last layer of this step blends with this step's own mask."""
        blended = self.settings.blended_steps(self.steps)
        return self.given is None and self.settings.timing == "published" and 0 < self.step + 1 < blended

    # --- masks for layers and results ---------------------------------------------------------------------

    def edit_masks(self, step: int | None = None) -> torch.Tensor | None:
        """(N, B, H, W) mask of each edit after a step (None: the last step); None if there is none."""
        if not self.history:
            return None
        return self._edit_masks(self.history[max(self.history) if step is None else step])

    def fitted_masks(self, size: tuple[int, int], step: int | None = None) -> torch.Tensor | None:
        """`edit_masks` resized: (N, B, *size)."""
        masks = self.edit_masks(step)
        return None if masks is None else _fitted(masks, size)

    def mean_masks(self, size: tuple[int, int]) -> torch.Tensor | None:
        """(N, B, *size) mean mask of each edit over the steps that blended with it; None if there is no mask.

        If no step blended with a mask (tₑ = 0, say), the mean is over the masks of all steps.
        """
        masks = list((self.in_use or self.history).values())
        if not masks:
            return None
        return _fitted(torch.stack([self._edit_masks(each) for each in masks]).mean(dim=0), size)

    def edit_bands(self) -> list[list[Band | None]]:
        """For each edit and image, where the last step's mask is soft; of several parts, those of the first."""
        nothing: list[Band | None] = [None] * self.batch
        if self.given is not None or not self.levels:
            return [list(nothing) for _ in self.edits]
        groups = bands_of(self.levels, self.settings.threshold, self.settings.omega)
        return [groups[self._group(edit.prompts[0].parts)] if edit.blended else nothing for edit in self.edits]

    def for_call(self, areas: Sequence[tuple[int, ...]], device: torch.device) -> CallMasks:
        """The masks for one call of the UNet.

        Args:
            areas: for each group of rows (conditional, unconditional …), (height, width, top, left) in latent pixels of
                the region it is about; empty for the whole image. ComfyUI puts regions of the same size into one call.
            device: on which its layers run.
        """
        return _MasksOfCall(self, areas, device)

    def _edit_masks(self, masks: torch.Tensor) -> torch.Tensor:
        """(groups, B, H, W) → (N, B, H, W)."""
        return torch.stack([self._edit_mask(list(masks), number) for number in range(len(self.edits))])

    def _edit_mask(self, masks: GroupMasks, number: int) -> torch.Tensor:
        edit = self.edits[number]
        if not edit.blended:
            return torch.ones_like(masks[0])
        if self.given is not None:
            return masks[number]
        return union([masks[self._group(part.parts)] for part in edit.prompts])

    def _at_layer(self, last: bool) -> GroupMasks | None:
        """The masks that a layer blends with in this step; ``last``: whether it is the last cross-attention layer."""
        blended = self.settings.blended_steps(self.steps)
        if self.settings.timing != "published":
            return self._previous if self.step < blended else None
        if not 0 < self.step + last < blended:
            return None
        return self.current() if last and self.given is None else self._previous

    def _layer_mask(
        self, last: bool, grid: tuple[int, int], areas: tuple[tuple[int, ...], ...], device: torch.device
    ) -> torch.Tensor | None:
        """(N·B, h·w, 1) for a single area, (areas, N·B, h·w, 1) for several."""
        masks = self._at_layer(last)
        if masks is None:
            return None
        key = (id(masks), grid, areas, device)
        with self._lock:
            if key not in self._resized:
                each = torch.stack([self._edit_mask(masks, number) for number in range(len(self.edits))]).flatten(0, 1)
                fitted = [self._to_layer(each, grid, area, device) for area in areas]
                self._resized[key] = fitted[0] if len(areas) == 1 else torch.stack(fitted)
            return self._resized[key]

    def _shares(
        self, number: int, grid: tuple[int, int], area: tuple[int, ...], device: torch.device
    ) -> torch.Tensor | None:
        if self._previous is None:
            return None
        key = ("shares", number, grid, area, device)
        with self._lock:
            if key not in self._resized:
                groups = [self._group(part.parts) for part in self.edits[number].prompts]
                each = torch.stack([self._to_layer(self._previous[g], grid, area, device) for g in groups])
                total = each.sum(dim=0, keepdim=True)
                even = torch.full_like(each, 1 / len(groups))
                self._resized[key] = torch.where(total > 1e-4, each / total.clamp(min=1e-4), even)
            return self._resized[key]

    def _to_layer(
        self, masks: torch.Tensor, grid: tuple[int, int], area: tuple[int, ...], device: torch.device
    ) -> torch.Tensor:
        """(rows, H, W) → (rows, h·w, 1) at a layer's resolution."""
        published = self.settings.map_size == "published" and self.given is None
        masks = masks[:, None]
        if area:
            height, width, top, left = area[-4], area[-3], area[-2], area[-1]
            masks = resize(masks, self.latent, antialias=not published)[..., top : top + height, left : left + width]
        masks = resize(masks, grid, antialias=not published).flatten(2).transpose(1, 2).clamp(0, 1)
        return masks.to(device)


def _fitted(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, B, H, W) → (N, B, *size)."""
    return torch.stack([fit_mask(one.clamp(0, 1), one.shape[0], size, "mask")[:, 0] for one in masks])


class _MasksOfCall(CallMasks):
    def __init__(self, masks: StepMasks, areas: Sequence[tuple[int, ...]], device: torch.device) -> None:
        self._masks, self._areas, self._device = masks, tuple(areas), device
        # Mostly all are about the same: then one mask does for all of them.
        self._distinct = self._areas[:1] if len(set(self._areas)) == 1 else self._areas

    def collect(self, maps: torch.Tensor, parts: tuple[int, ...]) -> None:
        self._masks.collect(maps, parts)

    def blend(self, grid: tuple[int, int], last: bool) -> torch.Tensor | None:
        return self._masks._layer_mask(last, grid, self._distinct, self._device)

    def shares(self, edit: int, grid: tuple[int, int], chunk: int) -> torch.Tensor | None:
        return self._masks._shares(edit, grid, self._areas[chunk], self._device)
