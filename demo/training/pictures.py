"""Draw the demo checkpoint's world: captioned images of simple objects with exact part masks.

Six objects (cat, dog, rabbit, robot, car, chair) in nine colours and three patterns appear alone or in pairs on
seven backgrounds. Everything is drawn from a seeded generator at twice the size and downscaled, so edges are smooth and
every part is known to the pixel.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from ..world import (
    BACKGROUNDS,
    COLOURS,
    LABELS,
    OBJECTS,
    OUTLINE,
    PARTS,
    PATTERNS,
    SALIENT,
    Look,
    Picture,
    Scene,
    Thing,
)

_SCALE = 2  # drawn this many times larger, then downscaled


class _Canvas:
    """Draws shapes given in a box's unit coordinates into image, label map and owner map at once."""

    def __init__(self, size: int, rng: np.random.Generator):
        self.size = size
        self.image = Image.new("RGB", (size, size))
        self.labels = Image.new("L", (size, size))
        self.owner = Image.new("L", (size, size))
        self.rng = rng
        self.line = max(2, round(size / 100))

    def place(self, thing: Thing, index: int) -> None:
        self.box, self.mirrored, self.thing, self.index = thing.box, thing.mirrored, thing, index
        self.paint = {part: self._paint(look) for part, look in thing.looks.items()}

    def _paint(self, look: Look) -> Image.Image:
        """A full-size sheet of the look: its colour, a little varied, with stripes or spots."""
        base = np.clip(np.array(COLOURS[look.colour], float) + self.rng.normal(0, 5, 3), 0, 255)
        sheet = Image.new("RGB", (self.size, self.size), tuple(int(v) for v in base))
        if look.pattern != "plain":
            bright = base.mean() > 120
            second = tuple(int(v) for v in (base * 0.45 if bright else base * 0.5 + 110))
            draw, step = ImageDraw.Draw(sheet), self.size / 13
            shift = self.rng.uniform(0, step)
            if look.pattern == "striped":
                for k in range(-1, 15):
                    x = shift + k * step
                    draw.rectangle((x, 0, x + step * 0.42, self.size), fill=second)
            else:
                radius = step * 0.27
                for row in range(-1, 16):
                    for col in range(-1, 16):
                        x = shift + col * step + (row % 2) * step / 2
                        y = shift + row * step * 0.87
                        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=second)
        return sheet

    def xy(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        x0, y0, x1, y1 = self.box
        out = []
        for x, y in points:
            x = 1 - x if self.mirrored else x
            out.append(((x0 + x * (x1 - x0)) * self.size, (y0 + y * (y1 - y0)) * self.size))
        return out

    def part(self, part: str, points: list[tuple[float, float]], outline: bool = True) -> None:
        """A filled shape that belongs to ``part``."""
        spots = self.xy(points)
        stencil = Image.new("L", (self.size, self.size))
        ImageDraw.Draw(stencil).polygon(spots, fill=255)
        self.image.paste(self.paint[part], (0, 0), stencil)
        if outline:
            ImageDraw.Draw(self.image).line(spots + spots[:2], fill=OUTLINE, width=self.line, joint="curve")
        label = LABELS.index((self.thing.name, part)) + 1
        ImageDraw.Draw(self.labels).polygon(spots, fill=label, outline=label)
        ImageDraw.Draw(self.owner).polygon(spots, fill=self.index, outline=self.index)

    def detail(self, points: list[tuple[float, float]], colour: tuple[int, int, int]) -> None:
        """A mark of fixed colour (an eye, a window) on whatever part lies below it."""
        ImageDraw.Draw(self.image).polygon(self.xy(points), fill=colour)


def _ellipse(cx: float, cy: float, rx: float, ry: float, n: int = 40) -> list[tuple[float, float]]:
    return [(cx + rx * math.cos(2 * math.pi * k / n), cy + ry * math.sin(2 * math.pi * k / n)) for k in range(n)]


def _box(x0: float, y0: float, x1: float, y1: float, r: float = 0.0) -> list[tuple[float, float]]:
    if r <= 0:
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    out = []
    for cx, cy, start in ((x1 - r, y0 + r, -90), (x1 - r, y1 - r, 0), (x0 + r, y1 - r, 90), (x0 + r, y0 + r, 180)):
        for k in range(7):
            a = math.radians(start + 15 * k)
            out.append((cx + r * math.cos(a), cy + r * math.sin(a)))
    return out


_DARK, _LIGHT, _GLASS, _NOSE = (30, 30, 34), (250, 250, 250), (176, 214, 236), (232, 120, 130)


def _eyes(c: _Canvas, cx: float, cy: float, gap: float, r: float) -> None:
    for x in (cx - gap, cx + gap):
        c.detail(_ellipse(x, cy, r * 1.35, r * 1.35, 20), _LIGHT)
        c.detail(_ellipse(x, cy, r * 0.8, r * 0.8, 16), _DARK)


def _cat(c: _Canvas) -> None:
    tail = [
        (0.70, 0.86),
        (0.88, 0.80),
        (0.92, 0.62),
        (0.86, 0.48),
        (0.95, 0.45),
        (1.0, 0.64),
        (0.96, 0.86),
        (0.72, 0.95),
    ]
    c.part("tail", tail)
    c.part("torso", _ellipse(0.5, 0.72, 0.27, 0.25))
    for x in (0.30, 0.54):
        c.part("legs", _box(x, 0.78, x + 0.16, 1.0, 0.06))
    head = [(0.18, 0.02), (0.38, 0.12), (0.62, 0.12), (0.82, 0.02)]
    head += [
        (0.5 + 0.34 * math.cos(math.radians(a)), 0.30 + 0.23 * math.sin(math.radians(a))) for a in range(-20, 201, 10)
    ]
    c.part("head", head)
    _eyes(c, 0.5, 0.27, 0.14, 0.045)
    c.detail([(0.46, 0.36), (0.54, 0.36), (0.5, 0.41)], _NOSE)


def _dog(c: _Canvas) -> None:
    c.part("tail", [(0.90, 0.50), (0.99, 0.22), (0.92, 0.20), (0.82, 0.46)])
    for x in (0.34, 0.48, 0.70, 0.83):
        c.part("legs", _box(x, 0.66, x + 0.11, 1.0, 0.03))
    c.part("torso", _box(0.30, 0.40, 0.96, 0.76, 0.14))
    head = [
        (0.02, 0.34),
        (0.05, 0.28),
        (0.16, 0.26),
        (0.20, 0.12),
        (0.34, 0.06),
        (0.46, 0.12),
        (0.50, 0.30),
        (0.46, 0.46),
    ]
    c.part("head", head + [(0.34, 0.54), (0.10, 0.50), (0.03, 0.44)])
    c.part("head", [(0.36, 0.10), (0.48, 0.10), (0.55, 0.30), (0.52, 0.46), (0.42, 0.44), (0.38, 0.28)])
    c.detail(_ellipse(0.05, 0.34, 0.035, 0.045, 16), _DARK)
    _eyes(c, 0.26, 0.24, 0.0, 0.045)


def _rabbit(c: _Canvas) -> None:
    c.part("tail", _ellipse(0.82, 0.82, 0.10, 0.09))
    c.part("torso", _ellipse(0.5, 0.76, 0.28, 0.21))
    for x in (0.24, 0.54):
        c.part("legs", _ellipse(x + 0.11, 0.95, 0.15, 0.055))
    for x, lean in ((0.36, -0.06), (0.64, 0.06)):
        c.part("head", [(x + lean + px * 0.075, 0.15 + py * 0.16) for px, py in _ellipse(0, 0, 1, 1)])
    c.part("head", _ellipse(0.5, 0.43, 0.27, 0.19))
    _eyes(c, 0.5, 0.40, 0.12, 0.04)
    c.detail([(0.47, 0.47), (0.53, 0.47), (0.5, 0.51)], _NOSE)


def _robot(c: _Canvas) -> None:
    for x in (0.06, 0.82):
        c.part("arms", _box(x, 0.40, x + 0.12, 0.74, 0.04))
    for x in (0.30, 0.54):
        c.part("legs", _box(x, 0.72, x + 0.16, 1.0, 0.02))
    c.part("torso", _box(0.20, 0.38, 0.80, 0.76, 0.04))
    c.detail(_box(0.36, 0.48, 0.64, 0.64, 0.02), (206, 210, 216))
    c.detail(_ellipse(0.43, 0.56, 0.035, 0.03, 14), (220, 60, 60))
    c.detail(_ellipse(0.57, 0.56, 0.035, 0.03, 14), (60, 180, 90))
    c.part("head", _box(0.47, 0.0, 0.53, 0.07))
    c.part("head", _box(0.24, 0.06, 0.76, 0.37, 0.05))
    _eyes(c, 0.5, 0.18, 0.13, 0.05)
    c.detail(_box(0.36, 0.27, 0.64, 0.31), _DARK)


def _car(c: _Canvas) -> None:
    c.part("body", [(0.38, 0.42), (0.48, 0.08), (0.82, 0.08), (0.92, 0.42), (1.0, 0.46), (1.0, 0.80), (0.38, 0.80)])
    c.part("hood", [(0.0, 0.50), (0.06, 0.40), (0.40, 0.36), (0.40, 0.80), (0.0, 0.80)])
    c.detail([(0.45, 0.40), (0.52, 0.16), (0.62, 0.16), (0.62, 0.40)], _GLASS)
    c.detail([(0.67, 0.40), (0.67, 0.16), (0.78, 0.16), (0.85, 0.40)], _GLASS)
    c.detail(_ellipse(0.03, 0.60, 0.03, 0.06, 14), (255, 244, 190))
    for x in (0.20, 0.78):
        c.part("wheels", _ellipse(x, 0.82, 0.115, 0.18))
        c.detail(_ellipse(x, 0.82, 0.05, 0.08, 16), (190, 190, 196))


def _chair(c: _Canvas) -> None:
    for x in (0.16, 0.74):
        c.part("legs", _box(x, 0.60, x + 0.10, 1.0))
    c.part("back", _box(0.14, 0.0, 0.86, 0.50, 0.05))
    c.part("seat", [(0.14, 0.46), (0.86, 0.46), (1.0, 0.70), (1.0, 0.77), (0.0, 0.77), (0.0, 0.70)])


_DRAW = {"cat": _cat, "dog": _dog, "rabbit": _rabbit, "robot": _robot, "car": _car, "chair": _chair}
_ASPECT = {"cat": 0.82, "dog": 1.12, "rabbit": 0.76, "robot": 0.74, "car": 1.5, "chair": 0.78}  # width / height


def _background(c: _Canvas, name: str) -> None:
    rng, size = c.rng, c.size
    horizon = rng.uniform(0.52, 0.66)
    sky, ground = {
        "snow": ((190, 214, 236), (236, 242, 248)),
        "beach": ((150, 206, 240), (232, 206, 146)),
        "forest": ((148, 190, 150), (84, 116, 58)),
        "desert": ((250, 206, 150), (214, 152, 86)),
        "night": ((24, 30, 70), (44, 52, 66)),
        "room": ((204, 190, 180), (150, 108, 78)),
        "meadow": ((168, 216, 248), (120, 190, 84)),
    }[name]
    jitter = rng.normal(0, 4, 3)
    rows = np.linspace(0, 1, size)[:, None]
    shade = np.where(
        rows < horizon, np.array(sky) * (0.92 + 0.14 * rows / horizon), np.array(ground) * (1.06 - 0.14 * rows)
    )
    sheet = np.repeat(np.clip(shade + jitter, 0, 255)[:, None, :], size, 1).astype(np.uint8)
    c.image = Image.fromarray(sheet)
    draw, y = ImageDraw.Draw(c.image), horizon * size
    if name == "beach":
        draw.rectangle((0, y - 0.13 * size, size, y), fill=(56, 132, 196))
    elif name == "forest":
        for k in range(6):
            x, w = (k + rng.uniform(0, 0.6)) * size / 5.5, size * 0.09
            draw.rectangle((x - w * 0.2, y * 0.5, x + w * 0.2, y), fill=(92, 70, 48))
            draw.polygon([(x - w, y * 0.72), (x, y * rng.uniform(0.05, 0.2)), (x + w, y * 0.72)], fill=(44, 104, 60))
    elif name == "desert":
        x, r = rng.uniform(0.15, 0.85) * size, size * 0.07
        draw.ellipse((x - r, size * 0.08, x + r, size * 0.08 + 2 * r), fill=(255, 240, 170))
    elif name == "night":
        x, r = rng.uniform(0.15, 0.85) * size, size * 0.06
        draw.ellipse((x - r, size * 0.08, x + r, size * 0.08 + 2 * r), fill=(244, 240, 214))
        for _ in range(9):
            sx, sy, sr = rng.uniform(0, size), rng.uniform(0, y * 0.9), size * 0.007
            draw.ellipse((sx - sr, sy - sr, sx + sr, sy + sr), fill=(240, 240, 220))
    elif name == "room":
        draw.rectangle((0, y, size, y + size * 0.02), fill=(236, 230, 222))
        x = rng.uniform(0.08, 0.62) * size
        draw.rectangle(
            (x, size * 0.08, x + size * 0.26, size * 0.34),
            fill=(170, 212, 238),
            outline=(240, 236, 230),
            width=size // 60,
        )
    elif name == "snow":
        for _ in range(14):
            sx, sy, sr = rng.uniform(0, size), rng.uniform(0, y), size * 0.009
            draw.ellipse((sx - sr, sy - sr, sx + sr, sy + sr), fill=(255, 255, 255))
    elif name == "meadow":
        for _ in range(10):
            sx, sy, sr = rng.uniform(0, size), rng.uniform(y + size * 0.04, size), size * 0.011
            draw.ellipse((sx - sr, sy - sr, sx + sr, sy + sr), fill=(252, 250, 210))


def draw_scene(scene: Scene, size: int = 256) -> Picture:
    """Draw ``scene`` as a ``size`` × ``size`` picture with its label and owner maps (same seed, same picture)."""
    canvas = _Canvas(size * _SCALE, np.random.default_rng(scene.seed))
    _background(canvas, scene.background)
    for index, thing in enumerate(scene.things, 1):
        canvas.place(thing, index)
        _DRAW[thing.name](canvas)
    image = np.asarray(canvas.image.resize((size, size), Image.Resampling.BOX))
    labels, owner = (
        np.asarray(m.resize((size, size), Image.Resampling.NEAREST)) for m in (canvas.labels, canvas.owner)
    )
    return Picture(image, labels, owner, scene)


def _place(
    name: str, rng: np.random.Generator, x0: float, x1: float, largest: float
) -> tuple[float, float, float, float]:
    """A box for ``name`` between ``x0`` and ``x1``, standing on the ground."""
    aspect, room = _ASPECT[name], (x1 - x0) * 0.96
    height = min(largest, room / aspect) * rng.uniform(0.86, 1.0)
    width = height * aspect
    left = rng.uniform(x0 + 0.02 * (x1 - x0), max(x0 + 0.02 * (x1 - x0), x1 - width - 0.02 * (x1 - x0)))
    bottom = rng.uniform(max(0.86, height + 0.02), 0.97)
    return left, bottom - height, left + width, bottom


def article(words: str) -> str:
    """``words`` with "a" or "an" before them."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def _thing(
    name: str, rng: np.random.Generator, box: tuple[float, float, float, float], tones: float, loose: float = 0.0
) -> tuple[Thing, str]:
    """A thing with random looks, and its words.

    The second tone of a thing (in a fraction ``tones`` of them) is mostly left out of the caption. A fraction ``loose``
    of these is named by the look of the part, as captions of photographs do ("a blue car" for one with a blue hood), if
    the part is salient.
    """

    def look() -> Look:
        pattern = PATTERNS[int(rng.choice(3, p=(0.7, 0.15, 0.15)))]
        return Look(str(rng.choice(list(COLOURS))), pattern)

    base = look()
    looks = dict.fromkeys(PARTS[name], base)
    words = f"{base.words} {name}"
    if rng.random() < tones:
        part, other = str(rng.choice(PARTS[name])), look()
        looks[part] = other
        tell = rng.random()
        called_by_part = tell >= 1 - loose
        if tell < 0.4 or (called_by_part and part not in SALIENT):
            words = f"{base.words} {name} with {article(other.words) if part[-1] != 's' else other.words} {part}"
        elif called_by_part:
            words = f"{other.words} {name}"
        else:
            words = name
    elif rng.random() < 0.08:
        words = name
    return Thing(name, looks, box, bool(rng.random() < 0.5)), words


def random_scene(seed: int, pairs: float = 0.4, tones: float = 0.35, loose: float = 0.0) -> Scene:
    """A random captioned scene.

    Args:
        seed: decides everything.
        pairs: fraction of scenes with two objects side by side.
        tones: fraction of objects with one part in a different look.
        loose: fraction of those, at most 0.6, that the caption names by the look of the part. If the part is not in
            ``SALIENT``, the caption mentions it in full (nobody calls a red cat with a blue tail "a blue cat").
    """
    rng = np.random.default_rng([20260, seed])
    background = str(rng.choice(list(BACKGROUNDS)))
    place = BACKGROUNDS[background]
    if rng.random() < pairs:
        names = [str(n) for n in rng.choice(OBJECTS, 2, replace=bool(rng.random() < 0.2))]
        split = rng.uniform(0.46, 0.54)
        left, left_words = _thing(names[0], rng, _place(names[0], rng, 0.0, split, 0.66), tones * 0.6, loose)
        right, right_words = _thing(names[1], rng, _place(names[1], rng, split, 1.0, 0.66), tones * 0.6, loose)
        caption = side_by_side(article(left_words), article(right_words), background)
        if rng.random() < 0.12:
            caption = f"{article(left_words)} and {article(right_words)} {place}"
        return Scene((left, right), background, caption, seed)
    name = str(rng.choice(OBJECTS))
    thing, words = _thing(name, rng, _place(name, rng, 0.03, 0.97, 0.84), tones, loose)
    caption = article(words) if rng.random() < 0.08 else f"{article(words)} {place}"
    return Scene((thing,), background, caption, seed)


def plain_scene(name: str, look: Look, background: str, seed: int) -> Scene:
    """One ``name`` in a single look, as evaluation prompts ask for."""
    rng = np.random.default_rng([20261, seed])
    thing = Thing(name, dict.fromkeys(PARTS[name], look), _place(name, rng, 0.03, 0.97, 0.84), bool(rng.random() < 0.5))
    return Scene((thing,), background, f"{article(look.words)} {name} {BACKGROUNDS[background]}", seed)


def side_by_side(left: str, right: str, background: str) -> str:
    """The caption of two things, each given with its article: "a cat", "a red chair"."""
    return f"{left} on the left and {right} on the right, {BACKGROUNDS[background]}"


def plain_pair(names: tuple[str, str], looks: tuple[Look, Look], background: str, seed: int) -> Scene:
    """Two things side by side, each in a single look, captioned like the training scenes."""
    rng = np.random.default_rng([20262, seed])
    split = rng.uniform(0.46, 0.54)
    boxes = _place(names[0], rng, 0.0, split, 0.66), _place(names[1], rng, split, 1.0, 0.66)
    things = tuple(
        Thing(name, dict.fromkeys(PARTS[name], look), box, bool(rng.random() < 0.5))
        for name, look, box in zip(names, looks, boxes)
    )
    left, right = (article(f"{look.words} {name}") for name, look in zip(names, looks))
    return Scene(things, background, side_by_side(left, right, background), seed)


def nearest_colour(image: np.ndarray, region: np.ndarray) -> str:
    """The captions' name for the middle colour (median of each channel) of an image (H, W, 3), 0 … 255, in a region."""
    middle = np.median(image[region].astype(float), axis=0)
    return min(COLOURS, key=lambda name: float(np.square(middle - np.array(COLOURS[name])).sum()))
