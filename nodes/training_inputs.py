"""The inputs of TrainPartToken that set the training itself."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.partedit.layers import FIRST_8_DOUBT, PRESETS
from ..core.partedit.tokens import PADDINGS
from ..core.training.settings import LEARNING_RATE_RULES, LOSSES, RECIPES, SOFTMAXES, TrainingSettings

STANDARD = TrainingSettings()


def recipe_inputs() -> list[Any]:
    """Inputs named after the fields of `TrainingSettings`, plus augmentation and resuming."""
    return [
        io.Boolean.Input(
            "flip",
            default=True,
            optional=True,
            tooltip="Also train on mirrored copies. Turn off for left and right parts.",
        ),
        io.Int.Input(
            "crops",
            display_name="crops per image",
            default=0,
            min=0,
            max=8,
            optional=True,
            tooltip="Number of random crops to add per image.",
        ),
        io.String.Input(
            "layers",
            default=STANDARD.layers,
            optional=True,
            tooltip=f"Layers to train on: {', '.join(PRESETS)}, or block names such as 'output.2, output.3'. The token "
            f"is then read on them. {FIRST_8_DOUBT}",
        ),
        io.Float.Input(
            "noise_high",
            display_name="noise high",
            default=STANDARD.noise_high,
            min=0.01,
            max=1.0,
            step=0.01,
            display_mode=io.NumberDisplay.slider,
            optional=True,
            tooltip="Upper end of the noise range for training, 0 to 1. The paper uses 0.25.",
        ),
        io.Float.Input(
            "noise_low",
            display_name="noise low",
            default=STANDARD.noise_low,
            min=0.0,
            max=0.99,
            step=0.01,
            display_mode=io.NumberDisplay.slider,
            optional=True,
            tooltip="Lower end of the noise range. Large parts do better with a middle range, 0.25 to 0.6.",
        ),
        io.Int.Input(
            "noise_count",
            display_name="noise count",
            default=STANDARD.noise_count,
            min=1,
            max=50,
            optional=True,
            tooltip="Number of noise levels in that range.",
        ),
        io.Combo.Input(
            "loss",
            options=list(LOSSES),
            default=STANDARD.loss,
            optional=True,
            tooltip="bce: binary cross-entropy, as in the paper. l2: mean squared error. bce_dice: bce plus overlap "
            "(Dice), for small parts.",
        ),
        io.Combo.Input(
            "softmax",
            options=list(SOFTMAXES),
            default=STANDARD.softmax,
            optional=True,
            tooltip="full: attention over all 77 rows, as in the edit. two_way: over background and part only, as in "
            "the paper. auto: two_way for the recipe paper, full for pack.",
        ),
        io.Float.Input(
            "learning_rate",
            display_name="learning rate",
            default=STANDARD.learning_rate,
            min=0.0001,
            max=1000.0,
            step=0.1,
            optional=True,
            tooltip="The paper uses 30. See learning rate rule.",
        ),
        io.Combo.Input(
            "learning_rate_rule",
            display_name="learning rate rule",
            options=list(LEARNING_RATE_RULES),
            default=STANDARD.learning_rate_rule,
            optional=True,
            tooltip="logit: scales the rate to this model's queries and keys. embedding: uses it as is, like the "
            "paper.",
        ),
        io.Int.Input(
            "batch_size",
            display_name="batch size",
            default=STANDARD.batch_size,
            min=1,
            max=64,
            optional=True,
            tooltip="Images per step.",
        ),
        io.Float.Input(
            "held_out",
            display_name="held-out share",
            default=STANDARD.held_out,
            min=0.0,
            max=0.9,
            step=0.05,
            display_mode=io.NumberDisplay.slider,
            optional=True,
            tooltip="Fraction of the images held out to evaluate the token. The best step on them is returned.",
        ),
        io.Int.Input(
            "patience",
            default=STANDARD.patience,
            min=0,
            max=1000,
            optional=True,
            tooltip="Stop after this many evaluations (every 50 steps) without a better held-out IoU. 0: never.",
        ),
        io.String.Input(
            "resume_name",
            display_name="resume name",
            default="",
            optional=True,
            tooltip="Name to save unfinished training under, so that it can resume after a stop. Empty: not saved.",
        ),
        # Last, with the value that older workflows mean: they have none for it.
        io.Combo.Input(
            "recipe",
            options=list(RECIPES),
            default=STANDARD.recipe,
            optional=True,
            tooltip="What is compared with the masks. paper: the map of every layer and noise level, each on its own, "
            "summed (equation 3). pack: their mean map.",
        ),
        io.Combo.Input(
            "padding",
            options=list(PADDINGS),
            default=STANDARD.padding,
            optional=True,
            tooltip="What fills the token's context of 77 rows while training; saved with the token. auto: as softmax "
            "says (background, or none for two_way). context, start_of_text, end_of_text: rows of positive.",
        ),
    ]
