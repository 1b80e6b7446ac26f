"""Picture and mask files of users: read whole, upright, with 8 bits a channel, whatever they are stored as."""

from __future__ import annotations

import io
import struct
import unicodedata
from pathlib import Path, PureWindowsPath

import numpy as np
from PIL import Image, ImageOps

# What Pillow raises for files that are damaged, cut off, too large, or no pictures at all.
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
_ALPHA = ("RGBA", "LA", "PA")


class PictureError(ValueError):
    """A file is no picture that can be used; the message says which and why."""


def read_picture(source: Path | bytes) -> Image.Image:
    """A picture as RGB.

    Raises:
        PictureError: missing, damaged, or of a kind that has no range of values.
    """
    return as_picture(opened(source), source)


def read_mask(source: Path | bytes) -> Image.Image:
    """A mask as 8 bits of grey, see `as_mask`.

    Raises:
        PictureError: as `read_picture`.
    """
    return as_mask(opened(source), source)


def as_picture(image: Image.Image, source: Path | bytes = b"") -> Image.Image:
    """An opened picture as RGB."""
    if image.mode[0] in "IF":
        return Image.fromarray(_eight_bits(_values(image, source))).convert("RGB")
    return image.convert("RGB")


def as_mask(image: Image.Image, source: Path | bytes = b"") -> Image.Image:
    """An opened mask as grey, white where it marks something.

    Of a picture with transparency it is the alpha channel. Label masks of 0 and 1 are common, so 1 is white in them.
    """
    if image.mode in _ALPHA and image.getchannel("A").getextrema() != (255, 255):
        grey = np.asarray(image.getchannel("A"))
    elif image.mode[0] in "IF":
        grey = _values(image, source)
    else:
        grey = np.asarray(image.convert("L"))
    labels = grey.size > 0 and grey.max() == 1
    return Image.fromarray(grey.astype(np.uint8) * 255 if labels else _eight_bits(grey))


def opened(source: Path | bytes, upright: bool = True) -> Image.Image:
    """A picture file, or its bytes, read whole.

    Args:
        upright: turned as its EXIF entry says.

    Raises:
        PictureError: missing, damaged, or not a picture.
    """
    if isinstance(source, Path) and not source.is_file():
        raise PictureError(f"{source} {'is a folder' if source.is_dir() else 'does not exist'}")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
            return ImageOps.exif_transpose(image) if upright else image
    except _UNREADABLE as error:
        reason = "of an unknown format" if "cannot identify" in str(error) else str(error)
        raise PictureError(f"{_named(source)} is not a picture that can be read: {reason}") from error


def check_same_shape(mask: Image.Image, picture: Image.Image) -> None:
    """A mask may be smaller or larger than its picture, but has to have its aspect ratio.

    Raises:
        PictureError: it has another one, so nobody knows where it lies in the picture.
    """
    (width, height), (across, down) = mask.size, picture.size
    # Each side of a scaled mask is rounded to whole pixels.
    if 2 * abs(width * down - height * across) > width + height + across + down:
        raise PictureError(
            f"the mask is {width} × {height} pixels, its picture {across} × {down}: their aspect ratios differ. Make "
            "the mask from this picture; if it was turned by its EXIF entry, from the upright one"
        )


def find_file(folder: Path, name: str) -> Path:
    """The file of a name in a list: as written, with the separators of Windows, or with its accents composed or not."""
    names = [name, PureWindowsPath(name).as_posix()]
    names += [unicodedata.normalize(form, one) for one in names for form in ("NFC", "NFD")]
    return next((folder / one for one in names if (folder / one).is_file()), folder / name)


def _values(image: Image.Image, source: Path | bytes) -> np.ndarray:
    """The values of a picture with one channel of more than 8 bits, as 0 … 65535."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise PictureError(
            f"{_named(source)} has values from {values.min():g} to {values.max():g} in mode {image.mode}. "
            "Save it with 8 or 16 bits per channel"
        )
    return values.astype(np.uint16)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.uint8 else (values / 257).round().astype(np.uint8)


def _named(source: Path | bytes) -> str:
    return "it" if isinstance(source, bytes) else str(source)
