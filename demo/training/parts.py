"""The demo's part tokens: their parts, training settings and training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..world import ANIMALS, Picture
from .pictures import draw_scene, random_scene

#: The noise levels at which an edit is decided; an object's colours mostly at the noisy ones.
LEVELS: dict[str, Any] = {"noise_low": 0.3, "noise_high": 0.95, "noise_count": 6}
#: The decoder's finest attention level. Small parts cover a few cells there, and hardly one in coarser maps.
LAYERS = "output.2, output.3"
#: With cross-entropy alone, the map of the car's hood spills over the body, which has the same colour.
LOSS = "bce_dice"
#: The shipped tokens are read over the 77 rows that this recipe trains over.
RECIPE = "pack"
STEPS = 600
FIRST = 4_000_000  # seed of the first training image
HELD_OUT = 9_000_000  # and of the first one that no training script uses


@dataclass(frozen=True)
class DemoPart:
    """A token's file name, its part, and the objects that have that part."""

    file: str
    part: str
    names: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{'animal' if self.names == ANIMALS else self.names[0]} {self.part}"


DEMO_PARTS = (
    DemoPart("demo_animal_head", "head", ANIMALS),
    DemoPart("demo_robot_head", "head", ("robot",)),
    DemoPart("demo_robot_torso", "torso", ("robot",)),
    DemoPart("demo_car_hood", "hood", ("car",)),
    DemoPart("demo_chair_seat", "seat", ("chair",)),
)


def single_scenes(names: tuple[str, ...], first: int, count: int) -> list[Picture]:
    """``count`` images with one object from ``names``, from seed ``first`` on."""
    found: list[Picture] = []
    seed = first
    while len(found) < count:
        scene = random_scene(seed, pairs=0.0)
        if scene.things[0].name in names:
            found.append(draw_scene(scene))
        seed += 1
    return found


def part_masks(pictures: list[Picture], part: DemoPart) -> torch.Tensor:
    """(N, 1, H, W) float32 exact masks."""
    return torch.from_numpy(np.stack([p.part_mask(part.part, part.names) for p in pictures])).float()[:, None]


def token_settings(part: DemoPart, steps: int = STEPS) -> Any:
    """The TrainingSettings of a demo token. No image is held out; benchmarks evaluate on other images."""
    from partedit_oir.core.training.settings import TrainingSettings

    return TrainingSettings(
        part_names=(part.label,), steps=steps, layers=LAYERS, recipe=RECIPE, loss=LOSS, held_out=0.0, **LEVELS
    )


def training_views(pictures: list[Picture], part: DemoPart) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """What a demo token is trained on: images (2N, H, W, 3) in 0 … 1, masks (2N, 1, H, W), and each view's image.

    The images, then their mirrored copies, as in TrainPartToken.
    """
    from partedit_oir.core.training.augment import augmented_views

    images = torch.from_numpy(np.stack([p.image for p in pictures])).float() / 255
    return augmented_views(images, part_masks(pictures, part), flip=True, crops=0, seed=0)
