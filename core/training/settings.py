"""Settings and report of token training, and the split into training and held-out images."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..mask_inputs import HOW_TO_FILL, mask_batch
from ..partedit.tokens import AUTO_PADDING, PADDINGS

LOSSES = ("bce", "l2", "bce_dice")
SOFTMAXES = ("full", "two_way", "auto")
RECIPES = ("paper", "pack")
LEARNING_RATE_RULES = ("logit", "embedding")


@dataclass(frozen=True)
class TrainingSettings:
    """How a token is learned; the defaults are the paper's recipe where it states one.

    Attributes:
        part_names: one name per part; all parts share one background row.
        steps: optimiser steps. batch_size: images per step.
        learning_rate: Adam's step. Under ``embedding`` it is used as is (30 in the paper, for SDXL's embeddings);
            under ``logit`` it is scaled by the model's own queries and keys, so that 30 changes the maps' logits by
            the same amount on any model and width.
        lr_step, lr_gamma: StepLR. weight_decay: AdamW's; under ``logit`` the fraction removed by a step at rate 30.
        noise_low, noise_high: range of the diffusion time, 0 (clean) to 1; noise_count: number of levels in it.
        layers: preset name or block names (see `choose_layers`).
        recipe: ``paper``: equation 3, a loss for every noise level and every layer with the mask at that layer's own
            size, summed over both; ``pack``: one loss for the map averaged over levels and layers. The default measured
            slightly better (`bench/results/notes.md`).
        loss: ``bce`` (binary cross-entropy, the paper's), ``l2`` (mean squared error), or ``bce_dice``: cross-entropy
            and the Dice overlap of the mask with the map from its minimum (0) to its maximum (1), which is what a
            threshold meets later.
        padding: what the softmax runs over besides the token's rows (`tokens.padded_rows`); it is recorded in the file,
            and the token is judged and, with padding ``auto``, read in the same way. ``none``: its rows only, as the
            paper trains. ``auto`` follows ``softmax``.
        softmax: ``full``: 77 rows, those after the token's repeating the background (padding ``background``);
            ``two_way``: the token's rows only (``none``); ``auto`` follows the recipe: ``two_way`` for ``paper``,
            ``full`` for ``pack``.
        init: rows to start the parts from, (P, D) or (1, D); None draws them with the spread of the conditioning.
        held_out: fraction of the images held out; evaluate_every: steps between evaluations on them; patience:
            evaluations without a better IoU before stopping, 0 for never.
        seed: of all random numbers.
        rows: images per pass of the model while caching.
        cache_device: where queries are stored; None decides by free memory.
        save_every: steps between saved states, if a state file is given.
    """

    part_names: tuple[str, ...] = ("part",)
    steps: int = 2000
    batch_size: int = 4
    learning_rate: float = 30.0
    learning_rate_rule: str = "logit"
    lr_step: int = 80
    lr_gamma: float = 0.7
    weight_decay: float = 0.01
    noise_low: float = 0.0
    noise_high: float = 0.25
    noise_count: int = 4
    layers: str = "first-8"
    recipe: str = "paper"
    loss: str = "bce"
    softmax: str = "auto"
    init: torch.Tensor | None = None
    held_out: float = 0.2
    evaluate_every: int = 50
    patience: int = 0
    seed: int = 0
    rows: int = 1
    cache_device: str | None = None
    save_every: int = 200
    padding: str = AUTO_PADDING

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("recipe", self.recipe, RECIPES),
            ("loss", self.loss, LOSSES),
            ("softmax", self.softmax, SOFTMAXES),
            ("padding", self.padding, PADDINGS),
            ("learning_rate_rule", self.learning_rate_rule, LEARNING_RATE_RULES),
        ):
            if value not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}.")
        for name in ("steps", "batch_size", "lr_step", "evaluate_every", "rows", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}.")
        if (
            self.padding != AUTO_PADDING
            and self.softmax != "auto"
            and (self.padding == "none") != (self.softmax == "two_way")
        ):
            raise ValueError(
                f"padding: {self.padding!r} contradicts softmax {self.softmax!r}: two_way is the padding none, full "
                "any other. Set one of the two to auto."
            )
        if not self.part_names:
            raise ValueError("part_names: expected at least one name.")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out: expected a fraction from 0 to below 1, got {self.held_out}.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate: expected a number above 0, got {self.learning_rate}.")

    @property
    def trained_padding(self) -> str:
        """``padding`` with ``auto`` resolved."""
        if self.padding != AUTO_PADDING:
            return self.padding
        two_way = self.softmax == "two_way" or (self.softmax == "auto" and self.recipe == "paper")
        return "none" if two_way else "background"

    @property
    def trained_softmax(self) -> str:
        """``softmax`` with ``auto`` resolved: ``full`` or ``two_way``."""
        return "two_way" if self.trained_padding == "none" else "full"


@dataclass
class TrainingReport:
    """What happened, for plots, metadata and benchmarks.

    Attributes:
        losses: mean loss of each step. evaluations: (step, training IoU, held-out IoU or None), means over parts.
        part_iou: IoU of the returned token per part (on held-out images if there are any).
        held_out: indices of the held-out images. maps: their part maps (n, P, h, w), 0..1.
        stopped_by: "all steps", "patience" or "hand".
    """

    losses: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, float, float | None]] = field(default_factory=list)
    part_iou: dict[str, float] = field(default_factory=dict)
    held_out: list[int] = field(default_factory=list)
    maps: torch.Tensor | None = None
    best_step: int = 0
    stopped_at: int = 0
    stopped_by: str = "all steps"
    resumed_from: int = 0
    effective_learning_rate: float = 0.0
    seconds_cache: float = 0.0
    seconds_training: float = 0.0
    cache_bytes: int = 0
    passes: int = 0

    def as_json(self) -> str:
        """The figures, without the curves and maps."""
        figures = {
            "part_iou": self.part_iou,
            "measured_on": "held-out pictures" if self.held_out else "training pictures",
            "held_out_pictures": self.held_out,
            "returned_step": self.best_step,
            "stopped_at": self.stopped_at,
            "stopped_by": self.stopped_by,
            "resumed_from": self.resumed_from,
            "last_loss": self.losses[-1] if self.losses else None,
            "effective_learning_rate": self.effective_learning_rate,
            "seconds_queries": round(self.seconds_cache, 2),
            "seconds_training": round(self.seconds_training, 2),
            "cache_megabytes": round(self.cache_bytes / 1e6, 1),
            "model_passes": self.passes,
        }
        return json.dumps(figures, indent=1)


def split_pictures(
    masks: torch.Tensor, sources: Sequence[int] | None, settings: TrainingSettings
) -> tuple[list[int], list[int], list[int]]:
    """(training views, evaluation views, held-out images); all views of an image are on the same side.

    Args:
        masks: (V, P, H, W) of the views. sources: the image of each view; None: each view is an image.

    Raises:
        ValueError: a part that only held-out images show, or a wrong number of sources.
    """
    count = masks.shape[0]
    origin = list(range(count)) if sources is None else [int(source) for source in sources]
    if len(origin) != count:
        raise ValueError(f"sources: expected {count} entries, one per view, got {len(origin)}.")
    pictures = sorted(set(origin))
    kept = min(round(settings.held_out * len(pictures)), len(pictures) - 1)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    held_out = sorted(pictures[index] for index in order[:kept])
    training = [view for view in range(count) if origin[view] not in held_out]
    firsts = [origin.index(picture) for picture in (held_out or pictures)]
    for name, mask in zip(settings.part_names, masks.unbind(1), strict=True):
        if not (mask[training] > 0.5).any():
            raise ValueError(
                f"masks: only held-out images ({', '.join(map(str, held_out))}, counted from 0) show {name!r}, so "
                "there is nothing to learn it from. Lower held_out, use another seed, or add images."
            )
    return training, firsts, held_out


def batch_of(training: Sequence[int], step: int, size: int, seed: int) -> list[int]:
    """Views of one step: a new shuffle per epoch, determined by the step alone, so that a resumed run continues."""
    size = min(size, len(training))
    chosen = []
    for position in range(step * size, (step + 1) * size):
        epoch, index = divmod(position, len(training))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        chosen.append(training[int(torch.randperm(len(training), generator=generator)[index])])
    return chosen


def checked_masks(masks: torch.Tensor, pictures: int, parts: int) -> torch.Tensor:
    """(N, P, H, W) float32 on the CPU in 0..1; (N, H, W) counts as one part."""
    if masks.ndim == 3:
        masks = masks[:, None]
    if masks.ndim != 4 or masks.shape[0] != pictures or masks.shape[1] != parts:
        raise ValueError(
            f"masks: expected a shape ({pictures}, {parts}, H, W), one mask per image and part, "
            f"got {tuple(masks.shape)}."
        )
    with torch.inference_mode(False):
        masks = mask_batch(masks.flatten(0, 1).clone(), "masks").unflatten(0, (pictures, parts))
    for part in range(parts):
        if not (masks[:, part] > 0.5).any():
            raise ValueError(
                f"masks: part {part + 1} is empty in every image, so there is nothing to learn. {HOW_TO_FILL}."
            )
    return masks
