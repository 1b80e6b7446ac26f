"""Encoding prompts with ComfyUI's text encoders, without repeated warnings."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Repeats(logging.Filter):
    """Drops this thread's warnings: repeated ones, or all."""

    def __init__(self, everything: bool) -> None:
        super().__init__()
        self.everything, self.thread, self.seen = everything, threading.get_ident(), set[str]()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self.thread or record.levelno != logging.WARNING:
            return True
        message = record.getMessage()
        new = message not in self.seen
        self.seen.add(message)
        return new and not self.everything


@contextmanager
def warned_once(everything: bool = False) -> Iterator[None]:
    """Inside this context, ComfyUI's tokenizers log each warning once, or with ``everything`` not at all.

    They warn about a missing embedding or an unknown word on every call, once per encoder.
    """
    repeats = _Repeats(everything)
    root = logging.getLogger()
    root.addFilter(repeats)
    try:
        yield
    finally:
        root.removeFilter(repeats)


def encode(clip: Any, text: str, guidance: float = 0.0) -> list[Any]:
    """CONDITIONING of a prompt, with ComfyUI's weights, embeddings, long prompts and hook schedules.

    Args:
        guidance: the scale that guidance-distilled models (Flux dev) read from the conditioning, as FluxGuidance sets
            it; 0 leaves it to the model.
    """
    with warned_once():
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    if not guidance:
        return conditioning
    return [[embedding, {**options, "guidance": guidance}] for embedding, options in conditioning]
