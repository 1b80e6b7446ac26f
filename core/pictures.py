"""Small pictures as files: what the editor is shown."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image


def encoded(pixels: np.ndarray, form: str) -> bytes:
    """A uint8 picture (h, w) or (h, w, 3) as the bytes of a PNG or JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **({"quality": 88} if form == "JPEG" else {"compress_level": 1}))
    return buffer.getvalue()


def jpeg(picture: torch.Tensor, side: int) -> bytes:
    """An image (H, W, 3) in 0 … 1 as a JPEG, shrunk to ``side`` pixels on its longer side."""
    pixels = (picture.detach().float().cpu().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    image = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return jpeg_of(image)


def jpeg_of(image: Image.Image) -> bytes:
    """A PIL image as a JPEG."""
    return encoded(np.asarray(image.convert("RGB")), "JPEG")
