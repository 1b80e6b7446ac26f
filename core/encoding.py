"""Prompts through the host's text encoders, and what the host says meanwhile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Repeats(logging.Filter):
    """Holds back this thread's warnings: those that came before, or all."""

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
    """While it lasts, the host's tokenizers give each warning once, or not at all with ``everything``.

    They warn of a missing embedding or an unknown word whenever they read it, once for each encoder.
    """
    repeats = _Repeats(everything)
    root = logging.getLogger()
    root.addFilter(repeats)
    try:
        yield
    finally:
        root.removeFilter(repeats)


def encode(clip: Any, text: str) -> list[Any]:
    """CONDITIONING of a prompt, with ComfyUI's weights, embeddings, long prompts and hook schedules."""
    with warned_once():
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))
