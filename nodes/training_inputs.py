"""The inputs of TrainPartToken that are settings of the training itself."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.partedit.layers import PRESETS
from ..core.training.settings import LEARNING_RATE_RULES, LOSSES, SOFTMAXES, TrainingSettings


def recipe_inputs() -> list[Any]:
    """The inputs that are settings of the training itself, named as in `TrainingSettings`."""
    standard = TrainingSettings()
    return [
        io.Boolean.Input(
            "flip", default=True, optional=True, tooltip="Also train on mirrored copies. Off for left and right parts."
        ),
        io.Int.Input("crops", default=0, min=0, max=8, optional=True, tooltip="Random crops of each picture to add."),
        io.String.Input(
            "layers",
            default=standard.layers,
            optional=True,
            tooltip=f"Layers to train on: {', '.join(PRESETS)}, or block names such as 'output.2, output.3'.",
        ),
        io.Float.Input(
            "noise_high",
            default=standard.noise_high,
            min=0.01,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="The model sees the pictures under noise up to here, 0 to 1; 0.25 in the paper.",
        ),
        io.Float.Input(
            "noise_low",
            default=standard.noise_low,
            min=0.0,
            max=0.99,
            step=0.01,
            optional=True,
            tooltip="... and from here on. Big parts gain from a middle stretch, 0.25 to 0.6.",
        ),
        io.Int.Input(
            "noise_count", default=standard.noise_count, min=1, max=50, optional=True, tooltip="Levels in that stretch."
        ),
        io.Combo.Input(
            "loss",
            options=list(LOSSES),
            default=standard.loss,
            optional=True,
            tooltip="bce: binary cross-entropy. l2: the published one. bce_dice: bce and overlap, for small parts.",
        ),
        io.Combo.Input(
            "softmax",
            options=list(SOFTMAXES),
            default=standard.softmax,
            optional=True,
            tooltip="full: attention over the 77 rows that the edit sees. two_way: over background and part only.",
        ),
        io.Float.Input(
            "learning_rate",
            default=standard.learning_rate,
            min=0.0001,
            max=1000.0,
            step=0.1,
            optional=True,
            tooltip="30 in the paper. See learning_rate_rule.",
        ),
        io.Combo.Input(
            "learning_rate_rule",
            options=list(LEARNING_RATE_RULES),
            default=standard.learning_rate_rule,
            optional=True,
            tooltip="logit: scaled by this model's queries and keys. embedding: as it is, the paper's way on SDXL.",
        ),
        io.Int.Input(
            "batch_size", default=standard.batch_size, min=1, max=64, optional=True, tooltip="Pictures a step."
        ),
        io.Float.Input(
            "held_out",
            default=standard.held_out,
            min=0.0,
            max=0.9,
            step=0.05,
            optional=True,
            tooltip="Share of the pictures kept apart to judge the token; the best step on them is returned.",
        ),
        io.Int.Input(
            "patience",
            default=standard.patience,
            min=0,
            max=1000,
            optional=True,
            tooltip="Stop after so many looks (one in 50 steps) without a better IoU on held-out pictures. 0: never.",
        ),
        io.String.Input(
            "resume_name",
            default="",
            optional=True,
            tooltip="A name under which unfinished training is kept, so that it goes on after a stop. Empty: not kept.",
        ),
    ]
