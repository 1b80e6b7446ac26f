"""Functions with which other nodes turn the predictions for a prompt and a negative into the guided one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# Their keys in ``model_options``: one function, and two lists of functions.
GUIDANCE_FUNCTIONS = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function")
# What torch says of `if tensor == 0` for a tensor of several values.
_SEVERAL_VALUES = "Boolean value of Tensor with more than one value"

Function = Callable[[dict[str, Any]], Any]


def without_guidance(model_options: dict[str, Any]) -> dict[str, Any]:
    """The options without these functions, for an evaluation of which only what the UNet saw is wanted.

    Functions may count their calls (the momentum of APG), or call the UNet once more (PAG, SAG).
    """
    return {name: one for name, one in model_options.items() if name not in GUIDANCE_FUNCTIONS}


def unguided(clone: Any) -> Any:
    """The same clone of a ``ModelPatcher``, without these functions: for runs that read the UNet and sample nothing.

    A second call of the UNet, on an attention or an image that was changed on purpose (PAG, SAG), would be read, too.
    """
    clone.model_options = without_guidance(clone.model_options)
    return clone


def with_single_image_functions(model_options: dict[str, Any]) -> dict[str, Any]:
    """The options with functions that also work for several rows where they were written for one.

    ``if args["sigma"] == 0`` works for a single image and fails for two (ComfyUI's TemporalScoreRescaling and
    RenormCFG); a source and its edit are two. Such a function is called for each row alone.
    """
    changed = dict(model_options)
    for name in GUIDANCE_FUNCTIONS:
        found = model_options.get(name)
        if found is not None:
            changed[name] = [_for_rows(one) for one in found] if isinstance(found, (list, tuple)) else _for_rows(found)
    return changed


def _for_rows(function: Function) -> Function:
    def guided(args: dict[str, Any]) -> Any:
        try:
            return function(args)
        except RuntimeError as error:
            rows = args["input"].shape[0]
            if rows == 1 or _SEVERAL_VALUES not in str(error):
                raise
        each = [function({name: _row(one, row, rows) for name, one in args.items()}) for row in range(rows)]
        if isinstance(each[0], torch.Tensor):
            return torch.cat(each)
        return [torch.cat(predictions) for predictions in zip(*each, strict=True)]

    return guided


def _row(value: Any, row: int, rows: int) -> Any:
    if isinstance(value, torch.Tensor):
        return value[row : row + 1] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, (list, tuple)) and all(isinstance(one, torch.Tensor) for one in value):
        return [_row(one, row, rows) for one in value]
    return value
