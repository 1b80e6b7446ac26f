"""What an input has to be before its node begins: checked from the node's own schema.

The editor lets any output into an input whose type it takes, also by way of nodes that pass anything on, and a linked
number is not held to its range. Without this, such values end as an AttributeError deep in the model.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from comfy_api.latest import io

from ..core.conditioning import check_conditioning
from ..core.image_inputs import checked_images
from ..core.inversion.schedule import check_sigmas
from ..core.inversion.trajectory import Trajectory
from ..core.mask_inputs import mask_batch
from ..core.oir.types import Pair, StepSearch
from ..core.packages import explained
from ..core.partedit.prompt import EditPrompt
from ..core.partedit.tokens import PartToken

# What an object of the host can do, at least one of it, and where to get one.
ABILITIES = {
    "MODEL": (("get_model_object", "clone"), "Load Checkpoint or Load Demo Model"),
    "CLIP": (("tokenize", "encode_from_tokens_scheduled"), "Load Checkpoint, or Load CLIP if it has no text encoder"),
    "VAE": (("encode", "decode"), "Load Checkpoint, or Load VAE if it has none"),
    "GUIDER": (("sample", "set_conds"), "CFG Guider or another guider"),
    "CLIP_VISION": (("encode_image",), "Load CLIP Vision"),
    "CLIP_SCORER": (("score",), "Load CLIP Scorer, CLIP Scorer from Models or Load Demo Model"),
    "OIR_SAM_MODEL": ((), "Load SAM Model"),
    "OIR_GROUNDING_MODEL": ((), "Load Grounding Model"),
}
OWN_TYPES = {
    "PART_TOKEN": (PartToken, "Load Part Token or Train Part Token"),
    "EDIT_PROMPT": (EditPrompt, "PartEdit Prompt"),
    "TRAJECTORY": (Trajectory, "Invert Latent"),
    "STEP_SEARCH": (StepSearch, "Inversion Step Search"),
}
# Where to get what ComfyUI's own nodes give.
COMMON = {
    "IMAGE": "Load Image",
    "MASK": "Load Image (as Mask) or a segmentation node",
    "LATENT": "VAE Encode or Empty Latent Image",
    "CONDITIONING": "CLIP Text Encode (Prompt)",
    "EDITING_PAIR": "Editing Pair",
}


def checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """For a node's ``execute``: every input is what the schema says, or a ValueError names it.

    Images arrive as `checked_images` gives them: (B, H, W, 3) float32 on the CPU.
    """
    signature = inspect.signature(execute)
    # Made at the first call: a schema lists model folders anew each time, and only types and limits are asked of it.
    schemas: list[io.Schema] = []

    @functools.wraps(execute)
    def with_checks(cls: type[io.ComfyNode], *args: Any, **kwargs: Any) -> io.NodeOutput:
        if not schemas:
            schemas.append(cls.define_schema())
        refuse_unknown(schemas[0], kwargs)
        given: dict[str, Any] = {}
        for name, value in signature.bind(cls, *args, **kwargs).arguments.items():
            further = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            given.update(value if further else {name: value})
        try:
            return execute(**{**given, **check_inputs(schemas[0], given, cls.validate_inputs)})
        except ModuleNotFoundError as error:
            better = explained(error)
            if better is None:
                raise
            raise better from error

    return with_checks


def refuse_unknown(schema: io.Schema, given: Iterable[str]) -> None:
    """Refuse inputs that a node does not have; ComfyUI hands on whatever a prompt links to it.

    Raises:
        ValueError: there is one.
    """
    known = [entry.id for entry in schema.inputs]
    for name in given:
        if name not in known:
            raise ValueError(
                f"{name}: {schema.display_name or schema.node_id} has no input of this name. It has: "
                f"{', '.join(known) or 'none'}. Remove the link; the workflow may be from another version of the pack."
            )


def check_inputs(
    schema: io.Schema, given: dict[str, Any], validate: Callable[..., Any] | None = None
) -> dict[str, torch.Tensor]:
    """Hold the values of a node's inputs to its schema.

    Args:
        validate: the node's ``validate_inputs``. As in ComfyUI, it decides on the range of a number that it names, of
            which a slider shows the useful part only, and on the names in a list of files.

    Returns:
        The images among them, in the one form that nodes work with.

    Raises:
        ValueError: a value that the node cannot work with; the message names input, value and remedy.
    """
    inputs = [entry for entry in schema.inputs if entry.id in given]
    images: dict[str, torch.Tensor] = {}
    for entry in inputs:
        if given[entry.id] is None:
            continue
        if entry.get_io_type() == "IMAGE":
            images[entry.id] = checked_images(given[entry.id], entry.id)
        elif entry.get_io_type() in (*NUMBERS, "COMBO") and entry.id in _named_by(validate):
            if entry.get_io_type() == "COMBO":
                _text(entry, given[entry.id])
            else:
                _number(entry, given[entry.id], ranged=False)
            answer = validate(**{entry.id: given[entry.id]}) if validate is not None else True
            if answer is not True:
                raise ValueError(answer)
        else:
            _check(entry, given[entry.id])
    for entry in inputs:
        kind = entry.get_io_type()
        if given[entry.id] is None and not entry.optional and kind in (*ABILITIES, *OWN_TYPES, *COMMON, *_CHECKS):
            typed = ", or give it a value" if kind in VALUES else ""
            raise ValueError(f"{entry.id}: is empty. Connect {_source(kind)}{typed}.")
    return images


def _named_by(validate: Callable[..., Any] | None) -> set[str]:
    """The inputs that a ``validate_inputs`` names; the host's own takes any and names none."""
    return set() if validate is None else set(inspect.signature(validate).parameters) - {"kwargs", "args"}


def _source(kind: str) -> str:
    if kind in ABILITIES:
        return ABILITIES[kind][1]
    return OWN_TYPES[kind][1] if kind in OWN_TYPES else COMMON.get(kind, f"an output of type {kind}")


def _check(entry: io.Input, value: Any) -> None:
    name, kind = entry.id, entry.get_io_type()
    if kind in ABILITIES:
        abilities = ABILITIES[kind][0]
        foreign = isinstance(value, (str, int, float, dict, list, torch.Tensor))
        if foreign or (abilities and not any(hasattr(value, ability) for ability in abilities)):
            raise ValueError(f"{name}: expected a {kind}, got {_shown(value)}. Connect {_source(kind)}.")
    elif kind in OWN_TYPES:
        if not isinstance(value, OWN_TYPES[kind][0]):
            raise ValueError(f"{name}: expected a {kind}, got {_shown(value)}. Connect {_source(kind)}.")
    elif kind in _CHECKS:
        _CHECKS[kind](entry, value)


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return repr(value)[:60] if isinstance(value, (str, int, float, bool)) else type(value).__name__


def _latent(entry: io.Input, value: Any) -> None:
    if not isinstance(value, dict) or not isinstance(value.get("samples"), torch.Tensor):
        raise ValueError(
            f"{entry.id}: expected a LATENT (with samples), got {_shown(value)}. Connect {COMMON['LATENT']}."
        )


def _pairs(entry: io.Input, value: Any) -> None:
    if not isinstance(value, (tuple, list)) or not all(isinstance(one, Pair) for one in value):
        raise ValueError(f"{entry.id}: expected an EDITING_PAIR, got {_shown(value)}. Connect Editing Pair.")
    if not value and not entry.optional:
        raise ValueError(f"{entry.id}: holds no pair. Connect Editing Pair.")


NUMBERS = ("INT", "FLOAT")
VALUES = (*NUMBERS, "STRING", "BOOLEAN", "COMBO")
INFINITE = (float("-inf"), float("inf"))


def _number(entry: Any, value: Any, ranged: bool = True) -> None:
    whole = entry.get_io_type() == "INT"
    right = isinstance(value, int) if whole else isinstance(value, (int, float))
    if not right or isinstance(value, bool) or not INFINITE[0] < value < INFINITE[1]:
        raise ValueError(f"{entry.id}: expected a {'whole ' if whole else ''}number, got {_shown(value)}.")
    if not ranged:
        return
    low, high = entry.min, entry.max
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{entry.id}: {value} is outside {low} to {high}. Give a number in that range.")


def _text(entry: io.Input, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{entry.id}: expected text, got {_shown(value)}.")


def _choice(entry: Any, value: Any) -> None:
    """ComfyUI holds a widget to its list, but not what another node (Custom Combo, say) sends into its place."""
    _text(entry, value)
    if value not in entry.options:
        raise ValueError(f"{entry.id}: {value!r} is not one of {', '.join(map(str, entry.options))}.")


def _switch(entry: io.Input, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{entry.id}: expected on or off (true or false), got {_shown(value)}.")


_CHECKS: dict[str, Callable[[Any, Any], Any]] = {
    "LATENT": _latent,
    "MASK": lambda entry, value: mask_batch(value, entry.id),
    "CONDITIONING": lambda entry, value: check_conditioning(entry.id, value, None),
    "EDITING_PAIR": _pairs,
    "SIGMAS": lambda entry, value: check_sigmas(entry.id, value),
    "INT": _number,
    "FLOAT": _number,
    "STRING": _text,
    "BOOLEAN": _switch,
    "COMBO": _choice,
}
