"""A guider that samples a source and its edits together in one batch."""

from __future__ import annotations

import copy
import logging
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.hooks
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import torch

from ..attention import Probe, without_compile
from ..conditioning import check_conditioning, check_levels, check_sees_picture
from ..hooks import has_hooks, without_dynamic_memory
from ..latents import check_latent, check_sampled
from ..mask_inputs import picture_masks
from ..packages import require
from ..paste_back import paste_latents
from ..picture_rows import noise_mask_rows, option_rows
from ..unet import LayerKey, all_cross_layers, context_width, latent_scale
from .layers import AUTO, choose_layers, reading_layers
from .noise import share_noise
from .prompt import Conditioning, EditPrompt, batch_prompt
from .settings import BlendInputs
from .step_masks import StepMasks
from .tokens import PartToken, probe_contexts
from .wrappers import BlendWrappers

# Consequences of empty masks, for messages.
NOTHING = "there is nothing to edit"
NOWHERE = "the part cannot be anywhere"


class BlendGuider(comfy.samplers.CFGGuider):
    """Rows [source, edit₁ … edit_N] × B through one guider, with the edits blended into the source (PartEdit).

    Takes a latent of B images and returns B·N edited ones (grouped by edit), after the B sources if ``include_source``
    is set. After sampling, ``last_masks`` holds the masks.

    Args:
        model: a ``ModelPatcher``; only clones of it are changed.
        inputs: prompts, token or mask, settings.
        base: the guider that combines predictions (CFG, dual CFG …); its "positive" conditioning is replaced by the
            prompts, and its other conditioning is used for every row.
        include_source: also return the sources.
        paste_latent: restore the source's latent outside the final mask.

    Raises:
        ValueError: inputs that do not fit the model or each other.
    """

    def __init__(
        self,
        model: Any,
        inputs: BlendInputs,
        base: comfy.samplers.CFGGuider | None = None,
        include_source: bool = False,
        paste_latent: bool = False,
    ) -> None:
        super().__init__(model)
        if isinstance(base, BlendGuider):
            raise ValueError(
                "guider: is itself a Feature Blend Guider, and rows cannot be blended twice. Connect a plain guider "
                "(CFG Guider, Dual CFG Guider), or put all edits into one edit_prompt."
            )
        self.base = base
        if base is not None:
            _check_base(base, model)
        self.inputs = inputs
        self.include_source = include_source
        self.paste_latent = paste_latent
        self.last_masks: StepMasks | None = None
        self.layers = all_cross_layers(model)
        self.reading: dict[LayerKey, tuple[int, ...]] = {}
        width = context_width(model)
        _check_places(inputs)
        if inputs.token is not None and inputs.mask is None:
            inputs.token.check_width(width)
            _check_parts(inputs.prompt, inputs.token)
            self.reading = reading_layers(self.layers, inputs.settings.layers, inputs.token)
        elif inputs.settings.layers.strip() != AUTO:
            choose_layers(self.layers, inputs.settings.layers)  # a wrong name is an error, needed or not
        if inputs.extras is not None:
            check_conditioning("positive", inputs.extras, None)
        for conditioning in (
            inputs.prompt.source,
            *(part.conditioning for edit in inputs.prompt.edits for part in edit.prompts),
        ):
            check_conditioning("edit_prompt", conditioning, width)

    def set_negative(self, negative: Conditioning) -> None:
        """Set the unconditional prompt of all rows; a base guider has its own.

        Raises:
            ValueError: it was encoded for another kind of model.
        """
        if self.base is None:
            check_conditioning("negative", negative, context_width(self.model_patcher))
        self.original_conds["negative"] = comfy.sampler_helpers.convert_cond(negative)

    def sample(
        self,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: Any,
        sigmas: torch.Tensor,
        denoise_mask: torch.Tensor | None = None,
        callback: Callable[..., None] | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> torch.Tensor:
        """As `CFGGuider.sample`; ``noise`` and ``latent_image`` are (B, C, H, W).

        Raises:
            ValueError: inputs that do not fit each other, or a model that gives NaN.
        """
        check_latent("latent_image", self.model_patcher, latent_image)
        _check_noise(noise, latent_image)
        batch, edits = latent_image.shape[0], len(self.inputs.prompt.edits)
        rows = 1 + edits
        sampler = share_noise(sampler, rows, batch)
        keep = slice(0, None) if self.include_source else slice(batch, None)

        def sliced(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
            if callback is not None:
                callback(step, x0[keep], x[keep], total)

        masks = StepMasks(self._fitted_inputs(latent_image), batch, tuple(latent_image.shape[-2:]))
        masks.check_steps(len(sigmas) - 1)
        inner, wrappers = self._prepare(masks, batch, sigmas)
        self.last_masks = masks
        repeated = (rows, 1, 1, 1)
        if denoise_mask is not None:
            denoise_mask = noise_mask_rows(denoise_mask, batch, rows)
        key = f"partedit_{uuid.uuid4().hex}"
        try:
            for kind, wrapper in wrappers.items():
                inner.model_patcher.add_wrapper_with_key(kind, key, wrapper)
            out = inner.sample(
                noise.repeat(repeated),
                latent_image.repeat(repeated),
                sampler,
                sigmas,
                denoise_mask,
                sliced,
                disable_pbar,
                seed,
            )
        finally:
            for kind in wrappers:
                inner.model_patcher.remove_wrappers_with_key(kind, key)
            masks.release()  # ComfyUI may keep this guider, and with it the masks, for as long as it runs
        check_sampled(out, "the result")
        final = masks.fitted_masks((out.shape[-2], out.shape[-1])) if self.paste_latent else None
        if final is not None:
            out = torch.cat([out[:batch], paste_latents(out[batch:], out[:batch], final.flatten(0, 1))])
        return out[keep]

    def _fitted_inputs(self, latent_image: torch.Tensor) -> BlendInputs:
        """The inputs, with masks fitted to the images of a latent.

        Raises:
            ValueError: masks that do not fit them, or an empty region.
        """
        scale = latent_scale(self.model_patcher)
        size = (latent_image.shape[-2] * scale, latent_image.shape[-1] * scale)
        pictures, edits = latent_image.shape[0], len(self.inputs.prompt.edits)
        mask, region = self.inputs.mask, self.inputs.region
        return replace(
            self.inputs,
            mask=None if mask is None else picture_masks(mask, pictures, size, "mask", edits=edits),
            region=None if region is None else picture_masks(region, pictures, size, "region", NOWHERE),
        )

    def _prepare(
        self, masks: StepMasks, batch: int, sigmas: torch.Tensor
    ) -> tuple[comfy.samplers.CFGGuider, dict[str, Any]]:
        """The guider of this run on a clone of the model, and its wrappers."""
        inputs = self.inputs
        joined = batch_prompt(inputs.prompt, batch, inputs.settings.keep_pooled, inputs.extras)
        inner = copy.copy(self.base) if self.base is not None else comfy.samplers.CFGGuider(self.model_patcher)
        conds = self.base.original_conds if self.base is not None else self.original_conds
        others = [entries for name, entries in conds.items() if name != "positive"]
        model = without_dynamic_memory(self.model_patcher, joined.conditioning, *others)
        inner.model_patcher = without_compile(model.clone())
        inner.model_options = inner.model_patcher.model_options
        if self.base is None:
            inner.set_cfg(self.cfg)
        inner.original_conds = {
            name: _repeat_rows(entries, 1 + len(inputs.prompt.edits), batch, name) for name, entries in conds.items()
        }
        inner.inner_set_conds({"positive": joined.conditioning})
        probe = self._probe(constant_weights=not any(map(has_hooks, inner.original_conds.values())))
        sampling = self.model_patcher.get_model_object("model_sampling")
        asked = [sigma for sigma in sigmas[:-1].tolist() if sigma > 0]
        if probe is not None:
            blended = inputs.settings.blended_steps(len(sigmas) - 1)
            check_sees_picture(
                "positive",
                joined.conditioning,
                masks.latent,
                sampling,
                asked[: max(blended, 1)],
                "A part token is read over the whole image at every blended step. Use region to limit where the part "
                "may be, or give a mask instead of the token.",
            )
        check_levels("positive", joined.conditioning, sampling, asked)
        return inner, BlendWrappers(inputs.prompt, joined, self.layers, masks, probe, batch).by_kind()

    def _probe(self, constant_weights: bool) -> Probe | None:
        inputs = self.inputs
        if inputs.mask is not None or inputs.token is None:
            return None
        contexts = probe_contexts(inputs.token, self.reading, inputs.settings.padding, inputs.prompt.source[0][0])
        return Probe(contexts, {} if constant_weights else None)


def _check_base(base: comfy.samplers.CFGGuider, model: Any) -> None:
    """Refuse a guider whose own prompts do not fit the model, before a matrix product fails; and warn if it was made
    with another model, which does not take part."""
    width = context_width(model)
    conds = {name: entries for name, entries in getattr(base, "original_conds", {}).items() if name != "positive"}
    for name, entries in conds.items():
        if entries:
            check_conditioning(f"guider: its {name}", [[one.get("cross_attn"), one] for one in entries], width)
    # With hooks, ComfyUI may have exchanged the guider's model for its counterpart without dynamic VRAM.
    if not any(map(has_hooks, conds.values())) and not model.is_clone(base.model_patcher):
        logging.warning(
            "PartEdit: guider was made with another model than the one connected to model. The edit is sampled with "
            "the one connected to model; connect the same one to both."
        )


def _check_noise(noise: torch.Tensor, latent_image: torch.Tensor) -> None:
    """Raise a ValueError for noise that is not for the images of a latent."""
    if noise.shape != latent_image.shape:
        raise ValueError(
            f"latent_image: has shape {tuple(latent_image.shape)}, but its noise is for {tuple(noise.shape)}. A latent "
            "with batch_index (Latent From Batch) needs one number for each image in it: take it from one node, or "
            "use a noise node that makes noise for this latent (RandomNoise)."
        )


def _check_places(inputs: BlendInputs) -> None:
    """Raise a ValueError if nothing says where to edit, or a mask does not say it for each prompt.

    Said when the guider is made: an error of the sampler after it would point at the wrong node.
    """
    if inputs.mask is not None:
        if any(len(edit.prompts) > 1 for edit in inputs.prompt.edits):
            raise ValueError(
                "mask: a given mask cannot be shared by prompts for different parts. Use a part token with these "
                "parts, or one prompt for the masked region."
            )
    elif inputs.token is None:
        raise ValueError("part_token: not connected. Connect a part token (Load Part Token), or a mask to use instead.")
    elif inputs.settings.threshold in ("adaptive", "otsu"):
        require("skimage")  # the first mask is made in the middle of a run


def _check_parts(prompt: EditPrompt, token: PartToken) -> None:
    """Raise a ValueError for parts that the token does not have, or two prompts of an image for the same part."""
    for edit in prompt.edits:
        found = [(name, token.part_indices((name,))) for part in edit.prompts for name in part.parts]
        for number, (name, index) in enumerate(found):
            other = next((known for known, same in found[:number] if same == index), None)
            if other is not None and len(edit.prompts) > 1:
                raise ValueError(
                    f"part: {other} and {name} are the same part of the token, {token.names[index[0]]}. Prompts that "
                    "share an image need one part each."
                )


def _repeat_rows(entries: list[dict], rows: int, batch: int, kind: str) -> list[dict]:
    """Conditioning made for B images, for (1 + N)·B rows; conditioning for one image applies to all rows as it is."""
    repeated = []
    for entry in entries:
        entry = option_rows(entry, batch, rows, kind)
        for name in ("cross_attn", "pooled_output"):
            tensor = entry.get(name)
            if isinstance(tensor, torch.Tensor) and tensor.shape[0] == batch and batch > 1:
                entry[name] = tensor.repeat(rows, *([1] * (tensor.ndim - 1)))
        repeated.append(entry)
    return repeated
