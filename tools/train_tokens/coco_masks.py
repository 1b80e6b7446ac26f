"""Masks in COCO's formats: polygons, and run-length encodings with plain or packed counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

MAX_PIXELS = 64 * 1024**2


def decode_segmentation(segmentation: Any, height: int, width: int) -> np.ndarray:
    """(H, W) bool mask of one annotation.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, …], or ``{"size": [H, W], "counts": list or str}``.

    Raises:
        ValueError: anything else, or counts that do not fill the image.
    """
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"segmentation: an image of {width} x {height} pixels is not plausible.")
    if isinstance(segmentation, list):
        return _polygons(segmentation, height, width)
    if isinstance(segmentation, dict) and "counts" in segmentation:
        size = list(segmentation.get("size", []))
        if size != [height, width]:
            raise ValueError(f"segmentation: its size {size} is not the image's [{height}, {width}].")
        counts = segmentation["counts"]
        if isinstance(counts, bytes):
            counts = counts.decode("ascii")
        return _runs(unpack_counts(counts) if isinstance(counts, str) else counts, height, width)
    raise ValueError("segmentation: is neither a list of polygons nor a run-length encoding.")


def unpack_counts(text: str) -> list[int]:
    """Run lengths from COCO's packed text.

    Each number is stored in groups of five bits, lowest first, as characters from '0' (48); bit 5 says that another
    group follows, and bit 4 of the last one is the sign. From the fourth number on, each is the difference to the
    number two places before.
    """
    counts: list[int] = []
    position = 0
    while position < len(text):
        value = shift = 0
        more = True
        while more:
            if position >= len(text):
                raise ValueError("segmentation: the packed run lengths end in the middle of a number.")
            group = ord(text[position]) - 48
            if not 0 <= group < 64:
                raise ValueError(f"segmentation: {text[position]!r} is not a character of packed run lengths.")
            value |= (group & 31) << shift
            shift += 5
            position += 1
            more = bool(group & 32)
            if not more and group & 16:
                value |= -1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
    return counts


def _runs(counts: Any, height: int, width: int) -> np.ndarray:
    lengths = np.asarray(list(counts))
    if lengths.size and (not np.issubdtype(lengths.dtype, np.integer) or lengths.min() < 0):
        raise ValueError("segmentation: run lengths must be whole numbers, 0 or above.")
    if int(lengths.sum()) != height * width:
        raise ValueError(f"segmentation: its runs cover {int(lengths.sum())} of {height * width} pixels.")
    values = np.arange(len(lengths)) % 2 == 1  # alternating, outside first
    return np.repeat(values, lengths).reshape(width, height).T  # column by column


def _polygons(polygons: list[Any], height: int, width: int) -> np.ndarray:
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1) if isinstance(polygon, list) else np.empty(0)
        if points.size < 6 or points.size % 2 or not np.isfinite(points).all():
            raise ValueError("segmentation: a polygon needs at least three points x, y.")
        draw.polygon([(float(x), float(y)) for x, y in points.reshape(-1, 2)], fill=1)
    return np.asarray(canvas, dtype=bool)
