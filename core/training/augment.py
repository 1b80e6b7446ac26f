"""More views of the same pictures: mirrored and cropped copies for token training."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# A crop keeps at least this share of the side, and of each part's area.
MIN_SIDE = 0.7
MIN_AREA = 0.6
_ATTEMPTS = 10


def augmented_views(
    images: torch.Tensor, masks: torch.Tensor, flip: bool, crops: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """The pictures themselves, then their mirrored and cropped copies at the same size.

    Args:
        images: (N, H, W, 3). masks: (N, P, H, W).
        flip: add each picture mirrored left to right. crops: add so many random crops of each, scaled back up.
        seed: of the crops.

    Returns:
        Images (V, H, W, 3), masks (V, P, H, W), and for each view the index of its picture; the first N views are
        the pictures, untouched.
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
    """A random window with the same aspect, scaled back; the whole picture when every window would cut a part off."""
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
