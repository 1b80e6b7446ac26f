"""The demo world: objects, their parts, colours, patterns and places, and scenes made of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 44, 46),
    "orange": (242, 138, 36),
    "yellow": (246, 218, 62),
    "green": (52, 160, 72),
    "blue": (44, 96, 222),
    "purple": (134, 62, 186),
    "pink": (246, 152, 196),
    "white": (242, 242, 242),
    "black": (46, 46, 52),
}
PATTERNS = ("plain", "striped", "spotted")
BACKGROUNDS: dict[str, str] = {
    "snow": "in the snow",
    "beach": "on the beach",
    "forest": "in a forest",
    "desert": "in the desert",
    "night": "at night",
    "room": "in a room",
    "meadow": "on a meadow",
}
PARTS: dict[str, tuple[str, ...]] = {
    "cat": ("torso", "legs", "tail", "head"),
    "dog": ("torso", "legs", "tail", "head"),
    "rabbit": ("torso", "legs", "tail", "head"),
    "robot": ("torso", "legs", "arms", "head"),
    "car": ("body", "hood", "wheels"),
    "chair": ("back", "seat", "legs"),
}
#: Parts whose colour may name the whole object in a caption.
SALIENT = ("torso", "head", "body", "hood", "back", "seat")
ANIMALS = ("cat", "dog", "rabbit")
OBJECTS = tuple(PARTS)
#: Part label k + 1 of a label map is ``LABELS[k]``; 0 is the background.
LABELS: tuple[tuple[str, str], ...] = tuple((name, part) for name, parts in PARTS.items() for part in parts)
#: Every word a caption may use: the demo tokenizer's vocabulary.
WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        "a an the and with in on at of left right snow beach forest desert night room meadow , . "
        "picture photo drawing animal vehicle furniture".split()
        + list(OBJECTS)
        + [part for parts in PARTS.values() for part in parts]
        + list(COLOURS)
        + list(PATTERNS)
    )
)
OUTLINE = (34, 34, 40)


@dataclass(frozen=True)
class Look:
    """Colour and pattern of one part."""

    colour: str
    pattern: str = "plain"

    @property
    def words(self) -> str:
        return self.colour if self.pattern == "plain" else f"{self.pattern} {self.colour}"


@dataclass(frozen=True)
class Thing:
    """One object of a scene: the look of each part, and its box in the unit square (x0, y0, x1, y1)."""

    name: str
    looks: dict[str, Look]
    box: tuple[float, float, float, float]
    mirrored: bool = False


@dataclass(frozen=True)
class Scene:
    """What is drawn, and its caption, which may leave something out."""

    things: tuple[Thing, ...]
    background: str
    caption: str
    seed: int = 0


@dataclass
class Picture:
    """A drawn scene: ``image`` (H, W, 3) uint8 and ``labels`` (H, W) uint8, see :data:`LABELS`.

    ``owner`` (H, W) uint8 holds the 1-based index of the thing at each pixel.
    """

    image: np.ndarray
    labels: np.ndarray
    owner: np.ndarray
    scene: Scene = field(repr=False)

    def part_mask(self, part: str, names: tuple[str, ...] = OBJECTS) -> np.ndarray:
        """Boolean (H, W) mask of every ``part`` that belongs to an object in ``names``."""
        wanted = [k + 1 for k, (name, label) in enumerate(LABELS) if label == part and name in names]
        return np.isin(self.labels, wanted)
