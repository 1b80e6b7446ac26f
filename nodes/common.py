"""What several node files share: small helpers for schemas and inputs."""

from __future__ import annotations

from typing import Any, TypeVar

from comfy_api.latest import io

AnyInput = TypeVar("AnyInput", bound=io.Input)


def advanced(entry: AnyInput) -> AnyInput:
    """Fold an input away under "advanced"; older ComfyUI versions, which cannot, show it."""
    entry.extra_dict = {**entry.extra_dict, "advanced": True}
    return entry


def picture_mask(mask: Any) -> Any:
    """A MASK input that may come with a channel axis, as (B, H, W)."""
    return mask[:, 0] if mask is not None and mask.ndim == 4 else mask
