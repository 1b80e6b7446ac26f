"""Train the demo's small CLIP on drawn images and their captions: the CLIP_SCORER of LoadDemoModel.

    python -m demo.training.scorer OUT.safetensors --minutes 8

A ``transformers.CLIPModel`` on 128² images in patches of 16. Whole scenes are contrasted with the other captions of
their batch, as CLIP is trained. Single objects, seen through their mask only, are contrasted with every other look and
kind there is, because few captions of a batch differ only in the kind. ``--redrawn`` adds objects as the image model
draws them (see ``demo.training.redraw``).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file

from ..scorer import PATCH, SIZE, build_clip, build_tokenizer
from ..world import COLOURS, OBJECTS, PATTERNS, Look, Picture, Thing
from .common import MovingAverage, prepare_cpu, save, to_tensor
from .pictures import article, draw_scene, random_scene

GRID = SIZE // PATCH
#: What one object can be called; an object view's answer is one of these.
PHRASES = [f"{article(Look(c, p).words)} {name}" for name in OBJECTS for c in COLOURS for p in PATTERNS]
FIRST, HELD_OUT = 7_000_000, 7_900_000
REDRAWN_HELD_OUT = 100


def cover(mask: np.ndarray) -> np.ndarray:
    """(GRID, GRID) bool: patches of which a square mask covers more than a tenth."""
    cell = mask.shape[0] // GRID
    return mask.reshape(GRID, cell, GRID, cell).mean((1, 3)) > 0.1


def phrase_of(thing: Thing) -> str:
    """The phrase for a thing by its most common look, one of PHRASES."""
    looks = list(thing.looks.values())
    return f"{article(max(looks, key=looks.count).words)} {thing.name}"


def object_views(picture: Picture, things: Sequence[Thing]) -> list[tuple[np.ndarray, int]]:
    """(patch mask, index into PHRASES) of the object at each place in a drawn image."""
    return [(cover(picture.owner == n), PHRASES.index(phrase_of(thing))) for n, thing in enumerate(things, 1)]


def views(seed: int) -> tuple[np.ndarray, str, list[tuple[np.ndarray, int]]]:
    """One scene at SIZE with its caption, and (patch mask, index into PHRASES) of each object."""
    scene = random_scene(seed, tones=0.3)
    picture = draw_scene(scene)
    small = picture.image.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3)).astype(np.uint8)
    return small, scene.caption, object_views(picture, scene.things)


def see(model: Any, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Unit vectors (N, D) of images (N, 3, SIZE, SIZE), of which only some patches (N, GRID²) are seen.

    Hidden patches are left out instead of masked: same result, cheaper.
    """
    hidden = model.vision_model.pre_layrnorm(model.vision_model.embeddings(x))
    keep = torch.cat((torch.ones(len(x), 1, dtype=torch.bool), keep), 1)
    order = keep.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : int(keep.sum(1).max())]
    hidden = hidden.gather(1, order[..., None].expand(-1, -1, hidden.shape[-1]))
    keep = keep.gather(1, order)
    bias = torch.zeros(keep.shape).masked_fill(~keep, -torch.inf)[:, None, None].expand(-1, 1, keep.shape[1], -1)
    for layer in model.vision_model.encoder.layers:
        out = layer(hidden, attention_mask=bias)
        hidden = out[0] if isinstance(out, tuple) else out
    return F.normalize(model.visual_projection(model.vision_model.post_layernorm(hidden[:, 0])), dim=-1)


def read(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Unit vectors (N, D) of token ids (N, L)."""
    return F.normalize(model.text_projection(model.text_model(input_ids=ids).pooler_output), dim=-1)


def tokenized(texts: list[str]) -> torch.Tensor:
    """(N, L) token ids."""
    return build_tokenizer()(texts)["input_ids"]


class Bank:
    """Scenes and their object views.

    Attributes:
        images: (S, SIZE, SIZE, 3) uint8. captions: (S, L) token ids.
        scene, cover, phrase: of each object view its scene, its patches (GRID²) and its index into PHRASES.
    """

    def __init__(self, images: np.ndarray, captions: list[str], objects: list[list[tuple[np.ndarray, int]]]) -> None:
        self.images, self.captions = images, tokenized(captions)
        flat = [(k, seen, phrase) for k, each in enumerate(objects) for seen, phrase in each]
        self.scene = np.array([f[0] for f in flat])
        self.cover = torch.from_numpy(np.stack([f[1] for f in flat])).flatten(1)
        self.phrase = torch.tensor([f[2] for f in flat])

    @classmethod
    def drawn(cls, seeds: range) -> Bank:
        """Scenes of the generator."""
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            drawn = list(pool.map(views, seeds, chunksize=50))
        return cls(np.stack([d[0] for d in drawn]), [d[1] for d in drawn], [d[2] for d in drawn])

    @classmethod
    def redrawn(cls, file: Path, where: slice) -> Bank:
        """Some of the scenes that ``demo.training.redraw`` made."""
        with safe_open(str(file), "pt") as content:
            captions = content.metadata()["captions"].split("\n")
            images, covers, phrases = (content.get_tensor(k).numpy() for k in ("images", "covers", "phrases"))
        objects = [list(zip(c, map(int, p))) for c, p in zip(covers, phrases)]
        return cls(images[where], captions[where], objects[where])


@torch.no_grad()
def accuracy(model: Any, bank: Bank) -> dict[str, float]:
    """Share of object views whose best phrase has the right kind, colour and pattern."""
    model.eval()
    texts = read(model, tokenized(PHRASES))
    best = (see(model, to_tensor(bank.images[bank.scene]), bank.cover) @ texts.T).argmax(1)
    true, each = bank.phrase, len(COLOURS) * len(PATTERNS)
    right = {
        "kind": best // each == true // each,
        "colour": best % each // len(PATTERNS) == true % each // len(PATTERNS),
        "pattern": best % len(PATTERNS) == true % len(PATTERNS),
    }
    return {name: float(value.float().mean()) for name, value in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--scenes", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=96, help="object views per step, and a quarter as many scenes")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--redrawn", type=Path, help="file of demo.training.redraw; half of the batches come from it")
    parser.add_argument("--resume", type=Path, help="weights of an earlier run to continue from")
    args = parser.parse_args()
    prepare_cpu()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    banks = [Bank.drawn(range(FIRST, FIRST + args.scenes))]
    held = {"": Bank.drawn(range(HELD_OUT, HELD_OUT + 300))}
    if args.redrawn:
        banks.append(Bank.redrawn(args.redrawn, slice(None, -REDRAWN_HELD_OUT)))
        held["redrawn "] = Bank.redrawn(args.redrawn, slice(-REDRAWN_HELD_OUT, None))
    phrases, model = tokenized(PHRASES), build_clip()
    with torch.no_grad():
        # drawn at 0.02, positions drown in the patches' colours, and shapes are positions
        model.vision_model.embeddings.position_embedding.weight.normal_(0, 0.5)
    if args.resume:
        model.load_state_dict({k: v.float() for k, v in load_file(str(args.resume)).items()}, strict=False)
    whole = torch.ones(args.batch // 4, GRID * GRID, dtype=torch.bool)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.02, betas=(0.9, 0.98))
    average, begin, step = MovingAverage(model, 0.998), time.time(), 0
    while (share := (time.time() - begin) / (60 * args.minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = args.rate * min(1.0, (step + 1) / 200) * min(1.0, 1.5 * (1 - share)) + 1e-6
        bank = banks[int(rng.integers(len(banks)))]
        picks = rng.integers(0, len(bank.scene), args.batch)
        scenes = rng.integers(0, len(bank.images), args.batch // 4)
        x, keep = to_tensor(bank.images[bank.scene[picks]]), bank.cover[picks]
        if rng.random() < 0.5:  # an object is the same seen in a mirror; captions tell left from right
            x, keep = x.flip(-1), keep.unflatten(1, (GRID, GRID)).flip(-1).flatten(1)
        with torch.autocast("cpu", torch.bfloat16):
            seen, scene = see(model, x, keep).float(), see(model, to_tensor(bank.images[scenes]), whole).float()
        scale = model.logit_scale.exp().clamp(max=50)
        loss = F.cross_entropy(scale * seen @ read(model, phrases).T, bank.phrase[picks])
        ids = bank.captions[scenes]
        logits = scale * read(model, ids) @ scene.T
        # equal captions are no mistakes: share the target among them
        same = (ids[:, None] == ids[None]).all(-1).float()
        same = same / same.sum(1, keepdim=True)
        loss = loss - (same * (logits.log_softmax(1) + logits.log_softmax(0))).sum(1).mean() / 4
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update(model)
        step += 1
        if step % 100 == 0:
            print(f"{time.time() - begin:5.0f}s step {step} loss {loss.item():.4f}", flush=True)
    model.load_state_dict(average.values)
    score = {name + key: value for name, bank in held.items() for key, value in accuracy(model, bank).items()}
    print("held out:", score, flush=True)
    about = {"steps": str(step), **{k.replace(" ", "_"): f"{v:.3f}" for k, v in score.items()}}
    save({k: v for k, v in average.values.items() if not k.endswith("position_ids")}, args.out, about)


if __name__ == "__main__":
    main()
