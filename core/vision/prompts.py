"""The prompts of Segment Anything, boxes and points: read from text, written as text, checked."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

# Segment Anything and the detectors scale the longer side to 1024 and 800 or so; of a thinner picture nothing is left.
THINNEST = 100
# A picture's number, the box, a score.
_BOX_LINE = re.compile(r"\s*(?:(\d+)\s*:)?\s*(.*?)\s*(?:\([^()]*\))?\s*")


def check_proportions(height: int, width: int) -> None:
    """Raise a ValueError for a picture too thin, or too small, to be seen at a model's size."""
    if max(height, width) > THINNEST * min(height, width) or max(height, width) < 2:
        raise ValueError(
            f"image: is {width} x {height} pixels. Expected more than one pixel, and one side at most {THINNEST} times "
            "as long as the other. Crop it, or check the node that made it."
        )


def check_prompts(
    boxes: torch.Tensor | None, points: torch.Tensor | None, labels: torch.Tensor | None, height: int, width: int
) -> None:
    """Raise a ValueError unless there is a box or a point, and all lie inside a picture of that size, which a model can
    see."""
    check_proportions(height, width)
    some_boxes, some_points = (prompt is not None and prompt.numel() > 0 for prompt in (boxes, points))
    if not some_boxes and not some_points:
        raise ValueError("text, boxes, points: all are empty. Give a text (with a grounding model), a box or a point.")
    limit = torch.tensor([width, height])
    if boxes is not None and some_boxes:
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes: expected a shape (n, 4), got {tuple(boxes.shape)}.")
        if (boxes[:, 2:] <= boxes[:, :2]).any() or (boxes < 0).any() or (boxes.view(-1, 2, 2) > limit).any():
            raise ValueError(
                "boxes: expected x0, y0, x1, y1 in pixels, with x0 < x1 and y0 < y1, inside the image "
                f"({width} x {height}), got {boxes.tolist()}."
            )
    if points is not None and some_points:
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"points: expected a shape (n, 2), got {tuple(points.shape)}.")
        if (points < 0).any() or (points >= limit).any():
            raise ValueError(f"points: expected pixels inside the image ({width} x {height}), got {points.tolist()}.")
        if labels is not None and (labels.shape != points.shape[:1] or not labels.bool().any()):
            raise ValueError("points: expected a label for each, at least one of them on the object (1).")


def boxes_by_picture(text: str, pictures: int) -> list[torch.Tensor]:
    """For each picture its (n, 4) boxes, in pixels, from lines ``x0, y0, x1, y1``.

    A line may begin with a picture's number, ``2: x0, y0, x1, y1``, and holds for all pictures otherwise. Behind the
    numbers a score in brackets may stand. ``2: none`` gives no box. All of this is what `box_lines` writes.
    """
    found: list[list[list[float]]] = [[] for _ in range(pictures)]
    for line in text.replace(";", "\n").splitlines():
        match = _BOX_LINE.fullmatch(line)
        assert match is not None  # every part of the pattern may be empty, but the middle one, which takes anything
        number, middle = match.groups()
        if number is not None and not 1 <= int(number) <= pictures:
            raise ValueError(
                f"boxes: the line {line.strip()!r} is for image {number}, but there are {pictures}. Images are counted "
                "from 1."
            )
        if middle.lower() == "none":
            continue
        for row in _lines("boxes", middle, (4,), line):
            for place in range(pictures) if number is None else [int(number) - 1]:
                found[place].append(row)
    return [torch.tensor(rows, dtype=torch.float32).view(-1, 4) for rows in found]


def box_lines(picture: int, boxes: torch.Tensor, scores: torch.Tensor) -> list[str]:
    """A picture's boxes (n, 4) and scores (n,) as lines that `boxes_by_picture` reads; ``picture`` counts from 1."""
    if not len(boxes):
        return [f"{picture}: none"]
    return [
        f"{picture}: {', '.join(f'{value:.1f}' for value in box)} ({score:.2f})"
        for box, score in zip(boxes.tolist(), scores.tolist())
    ]


def parse_points(text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 2) points and (n,) labels from lines ``x, y`` or ``x, y, 0``, where the 0 means outside the object."""
    rows = list(_lines("points", text, (2, 3)))
    points = torch.tensor([row[:2] for row in rows], dtype=torch.float32).view(-1, 2)
    labels = torch.tensor([1.0 if len(row) == 2 or row[2] > 0 else 0.0 for row in rows])
    return points, labels


def _lines(name: str, text: str, lengths: Sequence[int], shown: str = "") -> list[list[float]]:
    rows = []
    for line in text.replace(";", "\n").splitlines():
        if not line.strip():
            continue
        try:
            numbers = [float(part) for part in line.replace(",", " ").split()]
        except ValueError:
            numbers = []
        if len(numbers) not in lengths or not all(abs(number) < 1e6 for number in numbers):
            wanted = " or ".join(str(length) for length in lengths)
            written = (shown or line).strip()
            raise ValueError(f"{name}: expected {wanted} numbers (pixels, one entry per line), got {written!r}.")
        rows.append(numbers)
    return rows
