"""What the schemas of several nodes share."""

from __future__ import annotations

from typing import TypeVar

from comfy_api.latest import io

AnyInput = TypeVar("AnyInput", bound=io.Input)


def advanced(entry: AnyInput) -> AnyInput:
    """Fold an input away under "advanced"; older ComfyUI versions, which cannot, show it."""
    entry.extra_dict = {**entry.extra_dict, "advanced": True}
    return entry
