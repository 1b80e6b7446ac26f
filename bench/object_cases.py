"""The sixty two-object edits of ``bench.object_edits``, and when an object counts as edited."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from demo.training.pictures import article, draw_scene, plain_pair
from demo.world import ANIMALS, BACKGROUNDS, COLOURS, OBJECTS, PARTS, Look, Picture, Scene
from tools.evaluate.judge import GRID, INPUT, Verdict

EDITS = 60
# What happens to the left and to the right object, in turn: every mixture is there equally often.
KINDS_OF_CHANGE = (("colour", "kind"), ("kind", "colour"), ("colour", "colour"), ("kind", "kind"))
# No training script, judge or scorer has seen pictures of these seeds.
FIRST_SEED = 30_000_000
# An edited object fills at least this fraction of its region; a smear of the right kind is not an object.
SHARE = 1 / 3


@dataclass(frozen=True)
class Change:
    """One object: its words before and after, and the kind and colour it should have."""

    what: str
    before: str
    after: str
    name: str
    colour: str


@dataclass(frozen=True)
class ObjectEdit:
    """One picture and what becomes of its left and its right object."""

    number: int
    scene: Scene
    changes: tuple[Change, Change]

    @property
    def source(self) -> str:
        """The caption of the picture."""
        return self.scene.caption

    def drawn_after(self) -> Picture:
        """The generator's own picture of the edited scene: the new objects in the old boxes."""
        things = tuple(
            replace(thing, name=change.name, looks=dict.fromkeys(PARTS[change.name], Look(change.colour)))
            for thing, change in zip(self.scene.things, self.changes)
        )
        return draw_scene(replace(self.scene, things=things))


def edit_case(number: int) -> ObjectEdit:
    """The seeded edit ``number``. A colour changes on any object, a kind from one animal to another."""
    rng = np.random.default_rng([20265, number])
    what = KINDS_OF_CHANGE[number % len(KINDS_OF_CHANGE)]
    names: list[str] = []
    for kind in what:
        choice = ANIMALS if kind == "kind" else OBJECTS
        names.append(str(rng.choice([name for name in choice if name not in names])))
    first, second = (str(c) for c in rng.choice(list(COLOURS), 2, replace=False))
    background = str(rng.choice(list(BACKGROUNDS)))
    scene = plain_pair((names[0], names[1]), (Look(first), Look(second)), background, FIRST_SEED + number)
    changes = []
    for kind, name, colour in zip(what, names, (first, second)):
        new_name, new_colour = name, colour
        if kind == "colour":
            new_colour = str(rng.choice([c for c in COLOURS if c not in (first, second)]))
        else:
            new_name = str(rng.choice([n for n in ANIMALS if n != name]))
        before, after = article(f"{colour} {name}"), article(f"{new_colour} {new_name}")
        changes.append(Change(kind, before, after, new_name, new_colour))
    return ObjectEdit(number, scene, (changes[0], changes[1]))


def object_mask(picture: Picture, position: int) -> np.ndarray:
    """(H, W) boolean: the exact pixels of the left (0) or right (1) object."""
    return picture.owner == position + 1


def is_edited(verdict: Verdict, mask: np.ndarray, change: Change) -> bool:
    """Whether the judge reads the wanted object where the old one was.

    The region is the old object's exact mask (256 × 256), sampled on the judge's raster. The object is edited when, in
    the region, the wanted kind has more pixels than any other, fills a third of it, and shows mostly the wanted colour.
    """
    step = INPUT // GRID
    region = mask[step // 2 :: step, step // 2 :: step]
    if verdict.thing(region) != change.name:
        return False
    share = float(verdict.where(change.name)[region].mean())
    return share >= SHARE and verdict.look_of(change.name, region=region)[0] == change.colour
