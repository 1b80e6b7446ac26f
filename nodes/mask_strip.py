"""What Feature Blend Sampler shows of its run: each step's mask while it samples, and afterwards all of them."""

from __future__ import annotations

from typing import Any

import torch

from ..core.partedit.feature_blend import BlendResult
from ..core.partedit.prompt import EditPrompt
from ..core.partedit.step_views import VIEWS, StepPictures, StepView
from ..core.pictures import jpeg
from .live import Page, watching

# Longest side of the pictures under the masks, in pixels.
SIDE = 768


class MaskStrip:
    """Shows a run of source and edits; without a page that listens it does nothing.

    Args:
        model: a ``ModelPatcher``.
        prompt: source and edits, for the labels.
    """

    def __init__(self, model: Any, prompt: EditPrompt) -> None:
        self._page: Page | None = watching()
        self._prompt = prompt
        self._pictures = StepPictures(model) if self._page is not None else None

    @property
    def watch(self) -> Any:
        """To be called after each step, or None."""
        return None if self._page is None else self._step

    def _step(self, view: StepView) -> None:
        assert self._page is not None and self._pictures is not None
        self._pictures.add(view)
        if self._page.free():
            passes = {"step": view.step, "steps": view.steps, "first": view.first, "edits": view.edits}
            shown = self._pictures.snapshot(view)
            self._page.send("step", lambda: {**passes, **shown.encoded()})

    def output(
        self, result: BlendResult, vae: Any, edited: torch.Tensor | None, originals: torch.Tensor | None
    ) -> dict[str, Any] | None:
        """The ``ui`` output of the node; None if nobody looks.

        Args:
            vae: decodes the sources; None: pictures are drawn in preview colours.
            edited, originals: pictures that are already decoded (n, H, W, 3).
        """
        if self._page is None or self._pictures is None or (strip := self._pictures.strip()) is None:
            return None
        self._page.finish()
        batch = result.source.shape[0]
        places = range(min(VIEWS, result.edited.shape[0]))
        sources = result.source[: min(batch, VIEWS)]
        if vae is None:
            edited = self._pictures.latent_pictures(result.edited[: len(places)])
            originals = self._pictures.latent_pictures(sources)
        elif originals is None:
            originals = vae.decode(sources)
        label = [edit.text for edit in self._prompt.edits]
        mask = self._page.save(strip.pop("mask"), "png")
        if mask is None:
            return None
        shown = {
            **strip,
            "mask": mask,
            "views": [
                {
                    "label": label[place // batch],
                    "image": place % batch + 1,
                    "edit": self._saved(edited, place),
                    "source": self._saved(originals, place % batch),
                }
                for place in places
            ],
            "images": batch,
            "left_out": result.edited.shape[0] - len(places),
            "prompt": self._prompt.source_text,
        }
        return {"partedit_strip": [shown]}

    def _saved(self, pictures: torch.Tensor | None, number: int) -> dict[str, str] | None:
        assert self._page is not None
        if pictures is None:
            return None
        return self._page.save(jpeg(pictures[number % pictures.shape[0]], SIDE), "jpg")
