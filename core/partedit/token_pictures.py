"""The small picture beside a token file, which ComfyUI serves as the file's preview."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..files import whole_file

# Longest side in pixels.
SIDE = 192
MARK = "ComfyUI-PartEdit-OIR"
_SOFTWARE = 0x0131  # EXIF
# Of pictures beside a token, those that every ComfyUI serves as its preview.
ENDINGS = (".webp", ".png", ".jpg", ".jpeg")


def small_picture(image: torch.Tensor) -> bytes:
    """An image (H, W, 3) in 0 … 1 as a small WebP that is marked as the pack's own."""
    pixels = (image.detach().float().cpu().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    exif = Image.Exif()
    exif[_SOFTWARE] = MARK
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=88, exif=exif)
    return buffer.getvalue()


def keep_picture(picture: bytes, token_file: Path) -> None:
    """Put a token's picture beside its file, or take away the one of the token that was there before.

    Somebody else's picture of that name is left alone and stays the preview. Nothing is raised: a token is worth more
    than its picture.

    Args:
        picture: as `small_picture` makes it; empty if there is none.
    """
    place = token_file.with_suffix(".webp")
    try:
        others = [token_file.with_suffix(ending) for ending in ENDINGS if ending != place.suffix]
        if (place.exists() and not is_own(place)) or any(other.exists() for other in others):
            return
        if picture:
            with whole_file(place) as temporary:
                temporary.write_bytes(picture)
        else:
            place.unlink(missing_ok=True)
    except OSError as error:
        logging.getLogger(__name__).warning("the picture of %s was not saved: %s", token_file.name, error)


def is_own(path: Path) -> bool:
    """Whether a file is a picture that `small_picture` made."""
    try:
        with Image.open(path) as image:
            return image.getexif().get(_SOFTWARE) == MARK
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
