"""Hooks on conditioning (scheduled LoRAs), and the kind of model that ComfyUI can apply them to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def has_hooks(conditioning: Sequence[Any] | None) -> bool:
    """Whether an entry has hooks, its own or those of its ControlNet.

    Args:
        conditioning: CONDITIONING, or its entries in ComfyUI's internal form.
    """
    for entry in conditioning or ():
        options = entry if isinstance(entry, dict) else entry[1]
        if "hooks" in options or getattr(options.get("control"), "get_extra_hooks", list)():
            return True
    return False


def without_dynamic_memory(model: Any, *conditionings: Sequence[Any] | None) -> Any:
    """The model, or its counterpart without dynamic VRAM if any of the conditioning has hooks, which need that.

    ComfyUI's guider exchanges the model by the same rule, but only for conditioning that is given to it at once, and
    it loads the counterpart's weights from the file and keeps them with the very object it was given: of a clone made
    for one run, they would be loaded anew in every run.

    Args:
        model: a ``ModelPatcher`` as the node got it, not a clone.
        conditionings: everything that the run will use.
    """
    dynamic = getattr(model, "is_dynamic", None)  # ComfyUI before dynamic VRAM has no such method
    if dynamic is None or not dynamic() or not any(map(has_hooks, conditionings)):
        return model
    return model.get_non_dynamic_delegate()
