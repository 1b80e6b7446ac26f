"""Segment Anything (Kirillov et al. 2023): masks from boxes and points, with the ``segment_anything`` package.

The package's own builder unpickles a checkpoint, which would run code that hides in it. Here weights are read as plain
tensors, the architecture follows from their shapes, and so every registered size (vit_b, vit_l, vit_h) loads alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..packages import require

WHERE_TO_GET = (
    "Get one from github.com/facebookresearch/segment-anything, section 'Model Checkpoints': sam_vit_b_01ec64.pth "
    "(375 MB), sam_vit_l_0b3195.pth (1.2 GB), sam_vit_h_4b8939.pth (2.4 GB). Put it into ComfyUI's models/sams folder"
)

# Weights that only other models of the family have.
_RELATIVES = (
    ("mask_decoder.hf_token.", "an HQ-SAM"),
    ("image_encoder.patch_embed.seq.", "a MobileSAM"),
    ("sam_mask_decoder.", "a SAM 2"),
    ("vision_encoder.", "a transformers-format"),
)
# A picture's number, the box, a score.
_BOX_LINE = re.compile(r"\s*(?:(\d+)\s*:)?\s*(.*?)\s*(?:\([^()]*\))?\s*")
# What the shapes of the weights do not tell; the same in all registered sizes.
_MASK_DECODER_HEADS = 8
PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]

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
            labels: (m,) 1 for a point on the object, 0 for one beside it; all 1 by default.

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


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """State dict of a checkpoint, without running anything that the file contains."""
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(str(path), device="cpu")
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Torch's own words are left out: they suggest to load the file with the code in it.
        raise ValueError(
            f"'{path.name}' could not be read as plain weights ({type(error).__name__}): it is incomplete, or holds "
            "more than tensors and could run code. Download it again from where it is published."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(
            f"'{path.name}' holds no state dict of tensors, so it is not a SAM checkpoint. {WHERE_TO_GET}."
        )
    return content


def build_sam(state: dict[str, torch.Tensor], name: str = "checkpoint") -> Any:
    """A ``segment_anything`` model with the architecture that the shapes of ``state`` describe, and its weights."""
    require("segment_anything")
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    for prefix, kind in _RELATIVES:
        if any(key.startswith(prefix) for key in state):
            raise ValueError(
                f"'{name}' is {kind} checkpoint, which this node cannot read; it takes the original Segment Anything. "
                f"{WHERE_TO_GET}."
            )
    encoder, prompt, decoder, transformer = read_architecture(state, name)
    sam = Sam(
        image_encoder=ImageEncoderViT(norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), **encoder),
        prompt_encoder=PromptEncoder(**prompt),
        mask_decoder=MaskDecoder(transformer=TwoWayTransformer(**transformer), **decoder),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )
    _load(sam, state, name)
    return sam.eval().requires_grad_(False)


def _load(sam: Any, state: dict[str, torch.Tensor], name: str) -> None:
    """Weights into the model; a ValueError tells in a line what does not fit."""
    own = sam.state_dict()
    problems = [
        (f"{len(keys)} weights are {what}, the first is {keys[0]}")
        for what, keys in (
            ("missing", sorted(own.keys() - state.keys())),
            ("unknown", sorted(state.keys() - own.keys())),
            ("of another shape", sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)),
        )
        if keys
    ]
    if problems:
        raise ValueError(f"'{name}' does not fit the Segment Anything model: {'; '.join(problems)}. {WHERE_TO_GET}.")
    sam.load_state_dict(state)


def read_architecture(state: dict[str, torch.Tensor], name: str) -> tuple[dict, dict, dict, dict]:
    """Constructor arguments of image encoder, prompt encoder, mask decoder and its transformer, by ``state``'s shapes.

    Raises:
        ValueError: the tensors are not those of a Segment Anything checkpoint.
    """
    try:
        return _architecture(state)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"'{name}' is not a Segment Anything checkpoint (missing {error}). {WHERE_TO_GET}.") from error


def _architecture(state: dict[str, torch.Tensor]) -> tuple[dict, dict, dict, dict]:
    """Constructor arguments of image encoder, prompt encoder, mask decoder and its transformer."""
    width, channels, patch, _ = state["image_encoder.patch_embed.proj.weight"].shape
    grid = state["image_encoder.pos_embed"].shape[1]
    depth = _count(state, "image_encoder.blocks.")
    positions = [state[f"image_encoder.blocks.{index}.attn.rel_pos_h"] for index in range(depth)]
    # A block's relative positions span its window, or the whole grid where it attends globally.
    windows = [(position.shape[0] + 1) // 2 for position in positions]
    local = [window for window in windows if window != grid]
    embedding = state["image_encoder.neck.0.weight"].shape[0]
    encoder = {
        "img_size": grid * patch,
        "patch_size": patch,
        "in_chans": channels,
        "embed_dim": width,
        "depth": depth,
        "num_heads": width // positions[0].shape[1],
        "mlp_ratio": state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
        "out_chans": embedding,
        "use_rel_pos": True,
        "window_size": local[0] if local else 0,
        "global_attn_indexes": tuple(index for index, window in enumerate(windows) if window == grid),
    }
    prompt = {
        "embed_dim": embedding,
        "image_embedding_size": (grid, grid),
        "input_image_size": (grid * patch, grid * patch),
        "mask_in_chans": state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
    }
    decoder = {
        "transformer_dim": embedding,
        "num_multimask_outputs": state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
        "iou_head_depth": _count(state, "mask_decoder.iou_prediction_head.layers."),
        "iou_head_hidden_dim": state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
    }
    transformer = {
        "depth": _count(state, "mask_decoder.transformer.layers."),
        "embedding_dim": embedding,
        "mlp_dim": state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
        "num_heads": _MASK_DECODER_HEADS,
    }
    return encoder, prompt, decoder, transformer


def _count(state: dict[str, torch.Tensor], prefix: str) -> int:
    numbers = {name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)}
    if not numbers:
        raise KeyError(prefix)
    return len(numbers)


def check_prompts(
    boxes: torch.Tensor | None, points: torch.Tensor | None, labels: torch.Tensor | None, height: int, width: int
) -> None:
    """Raise a ValueError unless there is a box or a point, and all lie inside a picture of that size."""
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
    """(n, 2) points and (n,) labels from lines ``x, y`` or ``x, y, 0``; a third number of 0 means beside the object."""
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
