"""What the schemas of several nodes share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from comfy_api.latest import io

AnyInput = TypeVar("AnyInput", bound=io.Input)


def advanced(entry: AnyInput) -> AnyInput:
    """Fold an input away under "advanced"; older ComfyUI versions, which cannot, show it."""
    return with_extra(entry, advanced=True)


def with_extra(entry: AnyInput, **extra: Any) -> AnyInput:
    """Add to what the editor is told of an input. Older ComfyUI versions take it for few kinds when they are made."""
    entry.extra_dict = {**entry.extra_dict, **extra}
    return entry


def guidance_input(prompt: str) -> io.Float.Input:
    """Guidance of models that take it from the conditioning; see `encode`."""
    return advanced(
        io.Float.Input(
            "guidance",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.1,
            optional=True,
            tooltip=f"For models that take their guidance with the prompt (Flux dev), as the node FluxGuidance: for "
            f"{prompt}. 0: the model's own, 3.5 for Flux. Other models do not use it.",
        )
    )


def shows_results(schema: io.Schema) -> io.Schema:
    """Mark a node that shows something in the editor, so that ComfyUI shows it again if a run takes it from its cache.

    Without the mark, what a node showed is gone after the page is reloaded. Older ComfyUI versions do not know it.
    """
    schema.has_intermediate_output = True
    return schema


def aliases(*names: str) -> dict[str, Sequence[str]]:
    """Further names to find a node by, as an argument of its schema; nothing for older ComfyUI versions."""
    known: Any = io.Schema
    return {"search_aliases": list(names)} if "search_aliases" in {f.name for f in dataclasses.fields(known)} else {}
