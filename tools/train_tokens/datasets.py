"""Images with part masks: folders of pairs, and readers for PartImageNet and Pascal-Part that fill such folders.

PartImageNet (He et al. 2022): one COCO file per split (``train.json``) whose categories are parts ("Quadruped
Head"), and a folder of images. Pascal-Part (Chen et al. 2014): one MATLAB file per image
(``Annotations_Part/2008_000008.mat``) with a mask for each part of each object, and the VOC 2010 images
(``JPEGImages``). Neither data set is part of this pack.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..pictures import PictureError, as_picture, check_same_shape, opened, read_mask, read_picture
from .coco_masks import decode_segmentation

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MASK_ENDING = "_mask"
MAX_ANNOTATION_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class PartExample:
    """An image file and the mask of a part in it, (H, W) bool."""

    image: Path
    mask: np.ndarray


def read_part_imagenet(
    annotations: Path, images: Path, parts: Sequence[str], limit: int | None = None, min_share: float = 0.0
) -> Iterator[PartExample]:
    """Images of PartImageNet that show a part; several part names are merged into one mask.

    Args:
        annotations: the COCO file. images: the folder that its ``file_name`` entries are relative to.
        parts: category names, case-insensitive: "Quadruped Head".
        limit: maximum number of images. min_share: skip images whose mask covers a smaller fraction of them.

    Raises:
        ValueError: no such part (the message lists the parts there are), or a file in another format.
    """
    content = _json(annotations)
    try:
        names = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        pictures = {
            entry["id"]: (int(entry["height"]), int(entry["width"]), str(entry["file_name"]))
            for entry in content["images"]
        }
        entries = [(entry["category_id"], entry["image_id"], entry["segmentation"]) for entry in content["annotations"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"annotations: '{annotations}' is not a COCO file: {error} is missing or has the wrong type."
        ) from error
    chosen = _categories(names, parts)
    by_picture: dict[Any, list[Any]] = {}
    for category, number, segmentation in entries:
        if category in chosen:
            by_picture.setdefault(number, []).append(segmentation)
    found = 0
    for number, segmentations in by_picture.items():
        if number not in pictures:
            raise ValueError(
                f"annotations: '{annotations}' is incomplete: its images lack {number!r}, which has parts."
            )
        height, width, file_name = pictures[number]
        masks = [decode_segmentation(segmentation, height, width) for segmentation in segmentations]
        mask = np.logical_or.reduce(masks)
        if mask.any() and mask.mean() >= min_share:
            yield PartExample(_inside(images, file_name), mask)
            found += 1
            if limit is not None and found >= limit:
                return


def read_pascal_part(
    annotations: Path,
    images: Path,
    object_class: str,
    parts: Sequence[str],
    limit: int | None = None,
    min_share: float = 0.0,
) -> Iterator[PartExample]:
    """Images of Pascal-Part that show parts of a class, merged into one mask.

    Args:
        annotations: the folder of .mat files. images: the folder of the VOC 2010 images.
        object_class: "person", "car", "cat" … parts: names as in the files, such as "head", "hair", "torso".

    Raises:
        ValueError: a file in another format, or a class or part that no file has.
    """
    wanted = {part.lower() for part in parts}
    seen: set[str] = set()
    found = 0
    files = sorted(annotations.glob("*.mat"))
    if not files:
        raise ValueError(
            f"annotations: no .mat file in '{annotations}'. Give the folder Annotations_Part of Pascal-Part."
        )
    for file in files:
        try:
            name, mask = _pascal_mask(file, object_class, wanted, seen)
        except Exception as error:  # scipy's parser raises all kinds of exceptions
            raise ValueError(
                f"annotations: '{file}' is not a Pascal-Part annotation ({type(error).__name__}: {error})."
            ) from error
        if mask is None or not mask.any() or mask.mean() < min_share:
            continue
        yield PartExample(_picture(images, name), mask)
        found += 1
        if limit is not None and found >= limit:
            return
    if not found:
        there = ", ".join(sorted(seen)) or "no parts"
        raise ValueError(f"parts: no {object_class} with {', '.join(parts)} in '{annotations}'. It has: {there}.")


def _pascal_mask(file: Path, object_class: str, wanted: set[str], seen: set[str]) -> tuple[str, np.ndarray | None]:
    """The image's name and the merged mask (H, W) of the ``wanted`` parts; ``seen`` collects all parts of the class."""
    from scipy.io import loadmat

    record = loadmat(str(file), squeeze_me=True, struct_as_record=False)["anno"]
    total: np.ndarray | None = None
    for thing in np.atleast_1d(record.objects):
        if str(getattr(thing, "class")).lower() != object_class.lower():
            continue
        # An object without parts has an empty array instead.
        for part in (part for part in np.atleast_1d(thing.parts) if hasattr(part, "part_name")):
            name = str(part.part_name).lower()
            seen.add(name)
            if name in wanted:
                mask = np.asarray(part.mask) > 0
                total = mask if total is None else total | mask
    return str(record.imname), total


def write_pairs(examples: Iterator[PartExample] | Sequence[PartExample], folder: Path) -> int:
    """Write images and masks as pairs NAME.png and NAME_mask.png; returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for count, example in enumerate(examples, start=1):
        # As it is stored: the annotations know nothing of an EXIF entry that turns it.
        picture = as_picture(opened(example.image, upright=False), example.image)
        if picture.size != example.mask.shape[::-1]:
            raise ValueError(
                f"'{example.image}' is {picture.size[0]} x {picture.size[1]}, its mask "
                f"{example.mask.shape[1]} x {example.mask.shape[0]}. These are not the images of these annotations."
            )
        name = f"{count:05d}_{example.image.stem}"
        Image.fromarray(example.mask.astype(np.uint8) * 255).save(folder / f"{name}{MASK_ENDING}.png")
        picture.save(folder / f"{name}.png", exif=b"")
    return count


def list_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """(image, mask) files of a folder: NAME.* with NAME_mask.*, or images/NAME.* with masks/NAME.*.

    Raises:
        ValueError: no pairs, an image without its mask or a mask without its image, or two files of one name.
    """
    if not folder.is_dir():
        raise ValueError(f"folder: '{folder}' does not exist.")
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        pictures, masks = _by_stem(folder / "images"), _by_stem(folder / "masks")
        masks = _named({path: stem.removesuffix(MASK_ENDING) for stem, path in masks.items()})
    else:
        files = _by_stem(folder)
        masks = {stem.removesuffix(MASK_ENDING): path for stem, path in files.items() if stem.endswith(MASK_ENDING)}
        pictures = {stem: path for stem, path in files.items() if not stem.endswith(MASK_ENDING)}
    lonely = sorted(set(pictures) - set(masks))
    if lonely:
        raise ValueError(f"folder: '{folder}' has no mask for {', '.join(lonely[:5])} (expected {lonely[0]}_mask.png).")
    if not pictures:
        raise ValueError(f"folder: no images in '{folder}'. Put pairs there: cat.png and cat_mask.png.")
    if left := sorted(set(masks) - set(pictures)):
        known = ", ".join(ending[1:] for ending in PICTURES)
        raise ValueError(f"folder: '{folder}' has no image for the mask of {', '.join(left[:5])} (it may be {known}).")
    return [(pictures[stem], masks[stem]) for stem in sorted(pictures)]


def load_pairs(folder: Path, size: int, limit: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs as squares of one size.

    Each image is cropped to a square that contains as much of the mask as possible, then scaled.

    Returns:
        Images (N, size, size, 3) and masks (N, 1, size, size), float32, 0..1.

    Raises:
        ValueError: a file that is missing, no picture, or a mask whose aspect ratio is not its image's.
    """
    images, masks = [], []
    for picture_file, mask_file in list_pairs(folder)[:limit]:
        picture, mask = read_picture(picture_file), read_mask(mask_file)
        try:
            check_same_shape(mask, picture)
        except PictureError as error:
            raise ValueError(f"folder: {mask_file}: {error}.") from None
        if mask.size != picture.size:
            mask = mask.resize(picture.size, Image.Resampling.NEAREST)
        box = square_around(np.asarray(mask) > 127)
        images.append(np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS, box), dtype=np.float32) / 255)
        scaled = mask.resize((size, size), Image.Resampling.BILINEAR, box)
        masks.append(np.asarray(scaled, dtype=np.float32)[None] / 255)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))


def square_around(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the largest square in the image, centred on the mask as far as possible."""
    height, width = mask.shape
    side = min(height, width)
    rows, columns = np.nonzero(mask)
    if rows.size == 0:
        return (width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2
    left = int(np.clip((columns.min() + columns.max() + 1 - side) // 2, 0, width - side))
    top = int(np.clip((rows.min() + rows.max() + 1 - side) // 2, 0, height - side))
    return left, top, left + side, top + side


def _categories(names: dict[int, str], parts: Sequence[str]) -> set[int]:
    lower = {name.lower() for name in names.values()}
    unknown = [part for part in parts if part.lower() not in lower]
    if unknown or not parts:
        there = ", ".join(sorted(names.values()))
        raise ValueError(f"parts: {', '.join(unknown) or 'none given'} not found. The file has: {there}.")
    wanted = {part.lower() for part in parts}
    return {number for number, name in names.items() if name.lower() in wanted}


def _json(file: Path) -> Any:
    if not file.is_file():
        raise ValueError(f"annotations: '{file}' does not exist.")
    if file.stat().st_size > MAX_ANNOTATION_BYTES:
        raise ValueError(f"annotations: '{file}' is larger than {MAX_ANNOTATION_BYTES // 1024**3} GB.")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"annotations: '{file}' is not valid JSON ({error}).") from error


def _inside(folder: Path, name: str) -> Path:
    """A file inside a folder; names that leave it are refused."""
    path = (folder / name).resolve()
    if folder.resolve() not in path.parents:
        raise ValueError(f"annotations: the image name {name!a} leaves the folder '{folder}'.")
    if not path.is_file():
        raise ValueError(
            f"images: '{path}' does not exist. Give the folder that the annotations' file names are relative to."
        )
    return path


def _picture(folder: Path, name: str) -> Path:
    """Pascal's annotations name an image with or without its extension."""
    if Path(name).suffix.lower() in PICTURES:
        return _inside(folder, name)
    ending = next((ending for ending in PICTURES if (folder / (name + ending)).is_file()), ".jpg")
    return _inside(folder, name + ending)


def _by_stem(folder: Path) -> dict[str, Path]:
    files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES and path.is_file())
    return _named({path: path.stem for path in files if not path.name.startswith(".")})


def _named(stems: Mapping[Path, str]) -> dict[str, Path]:
    """{stem: file}; which of two files of one name is meant cannot be known."""
    found: dict[str, Path] = {}
    for path, stem in stems.items():
        if stem in found:
            raise ValueError(f"folder: '{found[stem]}' and '{path.name}' have the same name. Keep one of them.")
        found[stem] = path
    return found
