"""How well the demo's part tokens find their parts: IoU on 100 held-out generator pictures a token.

    python run.py bench part_tokens

The picture is noised to a mid level, the token is probed at the demo's layers, and the adaptive Otsu mask (counted as
the part from 0.5 on) is compared with the exact mask. Plain Otsu stands beside it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from demo.train_tokens import DEMO_PARTS, LAYERS, part_masks, single_scenes

from .results import RESULTS, write_result
from .studio import Studio, grid

PICTURES, BATCH, LEVELS = 100, 20, (0.3, 0.5, 0.7)
HELD_OUT = 9_000_000  # seeds no training script uses


def iou(found: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """(N,) intersection over union of boolean (N, H, W) masks."""
    return (found & true).flatten(1).sum(1) / (found | true).flatten(1).sum(1).clamp(min=1)


def main() -> None:
    studio = Studio()
    from partedit_oir.core.partedit.masks import normalise, threshold
    from partedit_oir.core.partedit.probe import part_maps
    from partedit_oir.core.partedit.tokens import find_token, load_token

    rows, shown = {}, []
    for part in DEMO_PARTS:
        token = load_token(find_token(f"{part.file}.safetensors"))
        pictures = single_scenes(part.names, HELD_OUT, PICTURES)
        images = np.stack([p.image for p in pictures])
        true = part_masks(pictures, part)[:, 0] > 0.5
        latents = studio.encode(images)
        scores: dict[str, list[torch.Tensor]] = {}
        for start in range(0, PICTURES, BATCH):
            here = slice(start, start + BATCH)
            for level in LEVELS:
                maps = part_maps(studio.model, token, latents[here], studio.text(""), level, seed=start, layers=LAYERS)
                soft = normalise(F.interpolate(maps, size=true.shape[-2:], mode="bicubic").clamp(min=0)[:, 0])
                for method in ("adaptive", "otsu"):
                    mask, _ = threshold(soft, method)
                    scores.setdefault(f"{method}_{level}", []).append(iou(mask >= 0.5, true[here]))
                    if method == "adaptive" and level == 0.5 and start == 0:
                        picture = torch.from_numpy(images[:4]).float() / 255
                        shown += [*(picture * 0.5 + mask[:4, ..., None] * torch.tensor([0.5, 0.0, 0.25]))]
        rows[part.label] = {k: float(torch.cat(v).mean()) for k, v in scores.items()}
    mid = [r["adaptive_0.5"] for r in rows.values()]
    Image.fromarray(grid(torch.stack(shown), 4)).save(RESULTS / "part_tokens.png")
    write_result(
        "part_tokens", {"pictures_a_token": PICTURES, "mean_iou_adaptive_mid": float(np.mean(mid)), "tokens": rows}
    )


if __name__ == "__main__":
    main()
