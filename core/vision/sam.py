"""Segment Anything (Kirillov et al. 2023): masks from boxes and points, with the ``segment_anything`` package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .prompts import check_prompts
from .sam_weights import WHERE_TO_GET, build_sam, read_tensors

# Which of the masks that a point may mean; SAM's own rating decides for the first.
READINGS = ("best rated", "smallest", "middle", "largest")

# (boxes (n, 4), points (n, k, 2), labels (n, k), several masks a prompt) → masks (n, m, H, W) bool, ratings (n, m)
Predict = Callable[
    [torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, bool], tuple[torch.Tensor, torch.Tensor]
]


@dataclass(frozen=True)
class SamModel:
    """A Segment Anything model that is asked for masks.

    Attributes:
        model: a ``segment_anything.modeling.Sam`` in evaluation mode.
        name: what errors and reports call it.
        prepare: called before each use; lets a host bring the model onto its device.
    """

    model: Any
    name: str = "SAM"
    prepare: Callable[[], None] | None = None

    @classmethod
    def from_file(cls, path: str | Path, *, manage: Callable[[Any], Callable[[], None]] | None = None) -> SamModel:
        """Load a checkpoint (.pth, .pt or .safetensors), tensors only.

        Args:
            manage: gets the model and returns what becomes `prepare`.

        Raises:
            FileNotFoundError: no such file; the message says where it is published.
            ValueError: the file is damaged, holds more than tensors, or is no SAM checkpoint.
            ImportError: ``segment_anything`` is not installed.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"SAM checkpoint '{path}' does not exist. {WHERE_TO_GET}.")
        model = build_sam(read_tensors(path), path.name)
        return cls(model, path.stem, None if manage is None else manage(model))

    def masks(
        self,
        image: torch.Tensor,
        boxes: torch.Tensor | None = None,
        points: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks of the prompted objects.

        Args:
            image: (H, W, 3), 0..1.
            boxes: (n, 4) x0, y0, x1, y1 in pixels, one object each.
            points: (m, 2) x, y in pixels, together one more object.
            labels: (m,) 1 for a point on the object, 0 for one outside it; all 1 by default.

        Returns:
            (k, H, W) bool, boxes first, and SAM's own estimate of each mask's IoU (k,).

        Raises:
            ValueError: no prompt at all, or one outside the picture.
        """
        height, width = image.shape[:2]
        check_prompts(boxes, points, labels, height, width)
        if self.prepare is not None:
            self.prepare()
        found: list[torch.Tensor] = []
        scores: list[torch.Tensor] = []
        with torch.no_grad():
            predict = self._see(image)
            if boxes is not None and boxes.numel():
                # A box is unambiguous, so one mask a box (section 3 of the paper).
                mask, score = predict(boxes, None, None, False)
                found.append(mask[:, 0])
                scores.append(score[:, 0])
            if points is not None and points.numel():
                mask, score = predict(None, points[None], _labels(points, labels)[None], points.shape[0] == 1)
                # One point may mean the whole or a part: SAM offers three readings and rates them.
                best = int(score[0].argmax())
                found.append(mask[:, best])
                scores.append(score[:, best])
        return torch.cat(found), torch.cat(scores).float()

    def readings(
        self, image: torch.Tensor, points: torch.Tensor, labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All masks that the points may mean: a part, the object, a group (three in all published models).

        Args:
            image: (H, W, 3), 0..1.
            points: (m, 2) x, y in pixels, together one object; meant for a single one.
            labels: as in `masks`.

        Returns:
            (k, H, W) bool, the smallest first, and SAM's own estimate of each mask's IoU (k,).

        Raises:
            ValueError: no point, or one outside the picture.
        """
        check_prompts(None, points, labels, *image.shape[:2])
        if self.prepare is not None:
            self.prepare()
        with torch.no_grad():
            mask, score = self._see(image)(None, points[None], _labels(points, labels)[None], True)
        order = mask[0].flatten(1).sum(dim=1).argsort(stable=True)
        return mask[0][order], score[0][order].float()

    def _see(self, image: torch.Tensor) -> Predict:
        """Encode a picture (H, W, 3); the result gives its masks."""
        from segment_anything import SamPredictor

        size = tuple(image.shape[:2])
        predictor = SamPredictor(self.model)
        pixels = (image[..., :3].detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        predictor.set_image(pixels.numpy())
        transform, device = predictor.transform, predictor.device

        def predict(
            boxes: torch.Tensor | None, points: torch.Tensor | None, labels: torch.Tensor | None, several: bool
        ) -> tuple[torch.Tensor, torch.Tensor]:
            if boxes is not None:
                boxes = transform.apply_boxes_torch(boxes.float(), size).to(device)
            if points is not None and labels is not None:
                points = transform.apply_coords_torch(points.float(), size).to(device)
                labels = labels.to(device).int()
            mask, score, _ = predictor.predict_torch(points, labels, boxes, multimask_output=several)
            return mask.cpu(), score.cpu()

        return predict


def chosen_reading(ratings: torch.Tensor, reading: str) -> int:
    """Which of `SamModel.readings` is meant.

    Args:
        ratings: (k,), the readings' own estimates of their IoU.
        reading: one of `READINGS`.

    Raises:
        ValueError: another word.
    """
    if reading not in READINGS:
        raise ValueError(f"reading: {reading!r} is not one of {', '.join(READINGS)}.")
    last = len(ratings) - 1
    return {"smallest": 0, "middle": last // 2, "largest": last}.get(reading, int(ratings.argmax()))


def reading_line(number: int, masks: torch.Tensor, ratings: torch.Tensor) -> str:
    """Size and rating of the readings (k, H, W) of picture ``number``, in a line of text."""
    sizes = masks.flatten(1).float().mean(dim=1)
    parts = [f"{100 * size:.1f} % of the image ({rating:.2f})" for size, rating in zip(sizes, ratings)]
    return f"{number}: {', '.join(parts)}"


def _labels(points: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    return torch.ones(points.shape[0]) if labels is None else labels
