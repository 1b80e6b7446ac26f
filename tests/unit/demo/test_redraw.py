"""Scenes that the image model redraws for the scorer's training: words, boxes and labels agree."""

from __future__ import annotations

import numpy as np
import torch

from demo.training.common import save
from demo.training.pictures import draw_scene
from demo.training.redraw import redrawn_pair
from demo.training.scorer import GRID, PHRASES, REDRAWN_HELD_OUT, Bank, cover
from demo.world import ANIMALS, PARTS


def look_of(thing):
    return next(iter(thing.looks.values()))


def test_words_change_with_the_objects_and_boxes_stay():
    changed = 0
    for seed in range(60):
        before, after = redrawn_pair(seed, True)
        for old, new in zip(before.things, after.things):
            phrase = f"{look_of(new).words} {new.name}"
            assert phrase in after.caption and old.box == new.box
            assert old.name == new.name or (old.name in ANIMALS and new.name in ANIMALS)
            assert set(new.looks) == set(PARTS[new.name])
            changed += (old.name, look_of(old)) != (new.name, look_of(new))
    assert 60 < changed < 120
    same, also = redrawn_pair(5, False)
    assert same == also


def test_cover_counts_patches_that_the_object_touches():
    mask = np.zeros((256, 256), bool)
    mask[32:64, 0:16] = True  # half of one patch
    mask[64:67, 64:96] = True  # less than a tenth of another
    found = cover(mask)
    assert found.shape == (GRID, GRID) and found.sum() == 1 and found[1, 0]


def test_a_bank_reads_what_was_saved(tmp_path):
    count = REDRAWN_HELD_OUT + 2
    pairs = [redrawn_pair(seed, True) for seed in range(count)]
    drawn = [draw_scene(before, 128) for before, _ in pairs[:1]]
    covers = np.stack([np.stack([cover(drawn[0].owner == place) for place in (1, 2)])] * count)
    phrases = torch.arange(2 * count).view(count, 2) % len(PHRASES)
    images = torch.from_numpy(drawn[0].image.copy())[None].repeat(count, 1, 1, 1)
    file = tmp_path / "redrawn.safetensors"
    tensors = {"images": images, "covers": torch.from_numpy(covers), "phrases": phrases}
    save(tensors, file, {"captions": "\n".join(after.caption for _, after in pairs)})
    train, held = Bank.redrawn(file, slice(None, -REDRAWN_HELD_OUT)), Bank.redrawn(file, slice(-REDRAWN_HELD_OUT, None))
    assert len(train.images) == 2 and len(held.images) == REDRAWN_HELD_OUT
    assert train.phrase.tolist() == [0, 1, 2, 3] and train.scene.tolist() == [0, 0, 1, 1]
    assert train.cover.shape == (4, GRID * GRID) and len(held.captions) == REDRAWN_HELD_OUT
