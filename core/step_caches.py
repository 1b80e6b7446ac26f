"""Caches that skip steps of a sampler (EasyCache, LazyCache) and must not be used outside of sampling."""

from __future__ import annotations

import logging
from typing import Any

# Keys of the wrappers that ComfyUI's own nodes put into a model.
STEP_CACHES = ("easycache", "lazycache")


def without_step_caches(model: Any) -> Any:
    """The model, or a clone of it without ComfyUI's step caches if it has one.

    They reuse the output of the call before, which is sound as long as each call is the next step of the same images.
    An inversion, candidates that share calls, noise maps and cached queries are none of that: they would get what
    belongs to other rows or levels.

    Args:
        model: a ``ModelPatcher``; left as it is.
    """
    found = {key for wrappers in model.wrappers.values() for key in STEP_CACHES if wrappers.get(key)}
    if not found:
        return model
    logging.info("PartEdit: %s is not used here, because the calls are not the steps of a sampler.", ", ".join(found))
    model = model.clone()
    for kind in model.wrappers:
        for key in STEP_CACHES:
            model.remove_wrappers_with_key(kind, key)
    return model
