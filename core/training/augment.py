"""Augmentation for token training: mirrored and cropped copies of the images."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# A crop keeps at least this fraction of the side, and of each part's area.
MIN_SIDE = 0.7
MIN_AREA = 0.6
_ATTEMPTS = 10


def augmented_views(
    images: torch.Tensor, masks: torch.Tensor, flip: bool, crops: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """The images, then their mirrored and cropped copies at the same size.

    Args:
        images: (N, H, W, 3). masks: (N, P, H, W).
        flip: add each image mirrored left to right. crops: number of random crops of each to add, scaled back up.
        seed: of the crops.

    Returns:
        Images (V, H, W, 3), masks (V, P, H, W), and the index of each view's image; the first N views are the
        unchanged images.
    """
    generator = torch.Generator().manual_seed(seed)
    count = images.shape[0]
    views, view_masks, sources = [images], [masks], list(range(count))
    if flip:
        views.append(images.flip(2))
        view_masks.append(masks.flip(3))
        sources += range(count)
    for _ in range(crops):
        for index in range(count):
            image, mask = _crop(images[index], masks[index], generator)
            views.append(image[None])
            view_masks.append(mask[None])
            sources.append(index)
    return torch.cat(views), torch.cat(view_masks), sources


def _crop(image: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A random window of the same aspect ratio, scaled back; the whole image if every window would cut off a part."""
    height, width = image.shape[:2]
    area = mask.sum(dim=(1, 2))
    for _ in range(_ATTEMPTS):
        share, down, right = torch.rand(3, generator=generator).tolist()
        side = MIN_SIDE + (1 - MIN_SIDE) * share
        h, w = max(1, round(height * side)), max(1, round(width * side))
        top, left = round(down * (height - h)), round(right * (width - w))
        kept = mask[:, top : top + h, left : left + w]
        if (kept.sum(dim=(1, 2)) >= MIN_AREA * area).all():
            window = image[top : top + h, left : left + w].movedim(-1, 0)[None]
            scaled = F.interpolate(window.cpu(), (height, width), mode="bilinear", antialias=True).to(window.device)
            return scaled[0].movedim(0, -1), F.interpolate(kept[None], (height, width), mode="bilinear")[0]
    return image, mask
