"""The judge of the demo's world: which object, part, colour and pattern is at each pixel of an image.

    python -m tools.evaluate.judge --train tools/evaluate/judge.safetensors

A small convolutional network trained on drawn images only; it never sees the image model. Its weights are in the
repository, with its accuracy on held-out images, below which it may not judge. Edits of generated pictures, whose exact
masks nobody knows, are scored from its label maps.
"""

from __future__ import annotations

import argparse
import functools
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from demo.training.common import prepare_cpu, save, to_tensor
from demo.training.pictures import COLOURS, LABELS, OBJECTS, PATTERNS, draw_scene, random_scene

WEIGHTS = Path(__file__).resolve().parent / "judge.safetensors"
COLOUR_NAMES = tuple(COLOURS)
INPUT, GRID = 256, 64  # images are scaled to INPUT; labels are on a GRID x GRID raster
# What a judge must name right on held-out images. Figures of a worse one would be its own mistakes.
LEAST = {"object": 0.97, "colour": 0.97, "part_iou": 0.8}


def _down(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, 2, 1), _Block(c_out))


class _Block(nn.Module):
    """Pre-activation residual block: norm, SiLU, 3 × 3 convolution, twice."""

    def __init__(self, channels: int):
        super().__init__()
        layers = (nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, 1, 1))
        more = (nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, 1, 1))
        self.body = nn.Sequential(*layers, *more)
        nn.init.zeros_(self.body[-1].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class _Up(nn.Module):
    """Nearest enlargement, joined with the finer level."""

    def __init__(self, c_in: int, c_skip: int):
        super().__init__()
        self.join, self.block = nn.Conv2d(c_in + c_skip, c_skip, 1), _Block(c_skip)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.block(self.join(torch.cat((F.interpolate(x, scale_factor=2), skip), 1)))


class Judge(nn.Module):
    """(N, 3, 256, 256) pictures in −1 … 1 to per-pixel logits on a 64 × 64 raster.

    Returns part logits (N, 1 + parts, 64, 64), colour logits (N, 9, 64, 64) and pattern logits (N, 3, 64, 64).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 24, 3, 1, 1), nn.SiLU())
        self.d1, self.d2, self.d3, self.d4 = _down(24, 48), _down(48, 64), _down(64, 96), _down(96, 96)
        self.u3, self.u2, self.u1 = _Up(96, 96), _Up(96, 64), _Up(64, 48)
        self.head = nn.Sequential(
            nn.Conv2d(72, 32, 3, 1, 1), nn.SiLU(), nn.Conv2d(32, 1 + len(LABELS) + len(COLOURS) + len(PATTERNS), 1)
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        a = self.stem(x)
        b = self.d1(a)
        c = self.d2(b)
        d = self.d3(c)
        y = self.u3(self.d4(d), d)
        y = F.interpolate(self.u1(self.u2(y, c), b), scale_factor=2)
        return self.head(torch.cat((y, a), 1)).split((1 + len(LABELS), len(COLOURS), len(PATTERNS)), 1)


class Verdict:
    """Label maps of one picture, read by :meth:`thing`, :meth:`part_mask` and :meth:`attribute`.

    Attributes:
        labels: (64, 64) int, 0 background, k + 1 for ``LABELS[k]``.
        colours, patterns: (64, 64) int, indices into the colour and pattern names.
    """

    def __init__(self, labels: np.ndarray, colours: np.ndarray, patterns: np.ndarray):
        self.labels, self.colours, self.patterns = labels, colours, patterns

    def where(self, name: str, part: str | None = None) -> np.ndarray:
        """Boolean (64, 64): the pixels of an object, or of one of its parts."""
        wanted = [k + 1 for k, (n, p) in enumerate(LABELS) if n == name and part in (None, p)]
        return np.isin(self.labels, wanted)

    def thing(self, region: np.ndarray | None = None) -> str | None:
        """The object with the most pixels (in ``region``), or None where there is only background."""
        counts = {n: int((self.where(n) & (region if region is not None else True)).sum()) for n in OBJECTS}
        best = max(counts, key=lambda n: counts[n])
        return best if counts[best] > 20 else None

    def part_mask(self, name: str, part: str, size: int = INPUT) -> np.ndarray:
        """Boolean (size, size) mask of one part of one object."""
        mask = torch.from_numpy(self.where(name, part)).float()[None, None]
        return (F.interpolate(mask, size=(size, size), mode="bilinear")[0, 0] > 0.5).numpy()

    def attribute(self, where: np.ndarray) -> tuple[str, str]:
        """Majority colour and pattern inside a (64, 64) boolean region."""
        if not where.any():
            return "none", "none"
        colour = np.bincount(self.colours[where], minlength=len(COLOURS)).argmax()
        pattern = np.bincount(self.patterns[where], minlength=len(PATTERNS)).argmax()
        return COLOUR_NAMES[colour], PATTERNS[pattern]

    def look_of(self, name: str, part: str | None = None, region: np.ndarray | None = None) -> tuple[str, str]:
        """Majority colour and pattern of an object or one of its parts (in ``region``)."""
        where = self.where(name, part)
        return self.attribute(where & region if region is not None else where)


@torch.no_grad()
def judge(model: Judge, images: np.ndarray | torch.Tensor) -> list[Verdict]:
    """Judge pictures: (N, H, W, 3), uint8, or float in 0 … 1."""
    x = torch.as_tensor(np.array(images))
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    x = F.interpolate(x.permute(0, 3, 1, 2) * 2 - 1, size=(INPUT, INPUT), mode="bilinear", antialias=True)
    out = []
    for k in range(0, len(x), 16):
        maps = [m.argmax(1).numpy() for m in model(x[k : k + 16])]
        out += [Verdict(*m) for m in zip(*maps)]
    return out


class JudgeError(RuntimeError):
    """The judge's weights cannot be used; the message says why and how to get others."""


def load_judge(path: Path = WEIGHTS) -> Judge:
    """The trained judge.

    Raises:
        JudgeError: its weights are missing or broken, or it was not good enough on held-out images.
    """
    again = "Train it again: python -m tools.evaluate.judge --train tools/evaluate/judge.safetensors"
    if not path.is_file():
        raise JudgeError(
            f"{path} is missing. {again}, or get it back: git checkout -- tools/evaluate/judge.safetensors"
        )
    model = Judge()
    try:
        with safe_open(str(path), "pt") as file:
            said = file.metadata() or {}
        model.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()})
    except (SafetensorError, RuntimeError) as error:
        raise JudgeError(f"{path} does not hold this judge: {error}. {again}") from error
    check_accuracy({key: float(said.get(key, "nan")) for key in LEAST}, str(path))
    return model.eval()


@functools.cache
def the_judge() -> Judge:
    """`load_judge` of its own weights, once."""
    return load_judge()


def check_accuracy(found: dict[str, float], name: str) -> None:
    """
    Raises:
        JudgeError: a judge is worse on held-out images than `LEAST`, or nobody measured it.
    """
    for key, least in LEAST.items():
        if not found[key] >= least:
            raise JudgeError(f"{name}: {key} on held-out images is {found[key]:.3f}, expected {least:g} or more.")


def _sample(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One training image with its label, colour and pattern rasters (255: unknown)."""
    scene = random_scene(seed, tones=0.6)
    picture = draw_scene(scene)
    step = INPUT // GRID
    labels: np.ndarray = picture.labels[step // 2 :: step, step // 2 :: step].astype(np.uint8)
    owner = picture.owner[step // 2 :: step, step // 2 :: step]
    colour, pattern = np.full_like(labels, 255), np.full_like(labels, 255)
    for index, thing in enumerate(scene.things, 1):
        for part, look in thing.looks.items():
            where = (owner == index) & (labels == LABELS.index((thing.name, part)) + 1)
            colour[where], pattern[where] = COLOUR_NAMES.index(look.colour), PATTERNS.index(look.pattern)
    return picture.image, labels, colour, pattern


def accuracy(model: Judge, seeds: range) -> dict[str, float]:
    """Share of held-out things whose object and whose main colour the judge names right, and the mean IoU of parts."""
    right_thing = right_colour = total = 0
    overlap = []
    for seed in seeds:
        scene = random_scene(seed, tones=0.0)
        picture = draw_scene(scene)
        (verdict,) = judge(model, picture.image[None])
        step = INPUT // GRID
        owner = picture.owner[step // 2 :: step, step // 2 :: step]
        for index, thing in enumerate(scene.things, 1):
            total += 1
            found = verdict.thing(owner == index)
            right_thing += found == thing.name
            look = next(iter(thing.looks.values()))
            right_colour += found is not None and verdict.look_of(found, region=owner == index)[0] == look.colour
        labels = picture.labels[step // 2 :: step, step // 2 :: step]
        for label in np.unique(labels[labels > 0]):
            true, seen = labels == label, verdict.labels == label
            overlap.append((true & seen).sum() / (true | seen).sum())
    return {
        "object": right_thing / total,
        "colour": right_colour / total,
        "part_iou": float(np.mean(overlap)),
        "things": total,
    }


def train(path: Path, steps: int, pictures: int, batch: int = 16, workers: int | None = None) -> None:
    """Train a judge, measure it on held-out images, and keep it.

    Raises:
        JudgeError: it did not become good enough; nothing is written.
    """
    torch.manual_seed(0)
    # bfloat16 is emulated on many CPUs, 40 times slower; with channels last, convolutions take the fast path
    model = Judge().to(memory_format=torch.channels_last)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        samples = list(pool.map(_sample, range(5_000_000, 5_000_000 + pictures), chunksize=50))
    bank = [np.stack(m) for m in zip(*samples)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    # four pixels in five are background, which is the easiest class
    balance = torch.ones(1 + len(LABELS))
    balance[0] = 0.3
    weights = (balance, None, None)
    rng, begin = np.random.default_rng(0), time.time()
    for step in range(1, steps + 1):
        picks, flip = rng.integers(0, pictures, batch), bool(rng.random() < 0.5)
        x, *targets = (torch.from_numpy(m[picks]) for m in bank)
        x = to_tensor(x.numpy()).contiguous(memory_format=torch.channels_last)
        if flip:
            x, targets = x.flip(-1), [t.flip(-1) for t in targets]
        # what a decoder makes of a picture is a little soft and noisy: so are the training pictures
        x = x + torch.randn_like(x) * 0.05 * torch.rand(batch, 1, 1, 1)
        if rng.random() < 0.5:
            x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)
        loss = sum(
            F.cross_entropy(y, t.long(), weight=w, ignore_index=255) for y, t, w in zip(model(x), targets, weights)
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"{time.time() - begin:5.0f}s step {step} loss {loss.item():.4f}", flush=True)
    model.eval()
    score = accuracy(model, range(6_000_000, 6_000_400))
    print("held out:", score)
    check_accuracy(score, str(path))
    save(model.state_dict(), path, {k: f"{v:.4f}" for k, v in score.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--workers", type=int, help="processes that draw the pictures; default: one per core")
    args = parser.parse_args()
    prepare_cpu()
    train(args.train, args.steps, args.pictures, workers=args.workers)


if __name__ == "__main__":
    main()
