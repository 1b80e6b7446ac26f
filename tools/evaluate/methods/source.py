"""The source of a generated case, made once for all methods."""

from __future__ import annotations

from ..cases import Case
from .base import Wanted, with_guidance
from .loaded import Loaded, empty_latent
from .settings import Settings

MASK_NOISE, MASK_DRAWS = 0.5, 4


def source_rows(settings: Settings) -> int:
    """The rows of a generated source."""
    return settings.steps * with_guidance(settings.cfg)


def build_source(loaded: Loaded, case: Case, settings: Settings) -> Wanted:
    """A generated source picture, and the part's mask in it by its token, the same for all methods.

    The mask is Part Attention Mask's over four noise draws, binarised by Otsu.
    """
    graph = loaded.graph
    positive, negative = loaded.text(case.source), loaded.text(settings.negative)
    made = loaded.sampled(empty_latent(loaded, case), case, settings, positive, negative)
    pictures = {"edited": loaded.shown(loaded.decoded(made))}
    if case.mask_by_token:
        soft = graph.add(
            "PartAttentionMask",
            model=loaded.model,
            part_token=graph.add("LoadPartToken", part_token=case.token)[0],
            positive=loaded.text(""),
            latent_image=made,
            noise_level=MASK_NOISE,
            seed=case.seed,
            samples=MASK_DRAWS,
        )
        pictures["mask"] = loaded.shown_mask(graph.add("AdaptiveOtsuThreshold", mask=soft[0], method="otsu")[0])
    return Wanted(pictures)
