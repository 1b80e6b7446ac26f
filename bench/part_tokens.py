"""How well the demo's part tokens find their parts: IoU on 100 held-out images per token.

    python run.py bench part_tokens [--pictures 20]

The image is noised to a level, the token is probed at the demo's layers, and the adaptive Otsu mask (part where at
least 0.5) is compared with the exact mask. Also measured, from the same maps: plain Otsu; the adaptive mask after
guided upsampling (He et al. 2013), with the image and with the latent as the guide; and, because a filter also smooths,
the adaptive mask after a box filter of the same window, which ignores edges.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F

from demo.training.parts import DEMO_PARTS, LAYERS
from demo.training.studio import Studio, grid
from tools.evaluate.demo_checks import held_out_parts
from tools.evaluate.tokens.engine import iou

from .results import write_result

PICTURES, BATCH, LEVELS = 100, 20, (0.3, 0.5, 0.7)
CELL = 2.0  # the demo's layers read one value for 2 × 2 latent pixels


def masks_of(images: np.ndarray, latents: torch.Tensor, maps: torch.Tensor) -> dict[str, torch.Tensor]:
    """{row: masks (N, H, W)} of the first part of maps (N, P, h, w), without further passes of the model."""
    from kornia.filters import box_blur

    from partedit_oir.core.partedit.masks import normalise, threshold
    from partedit_oir.core.partedit.upsampling import guided_upsampling, latent_guide, picture_guide

    size, grid_size = images.shape[1:3], (latents.shape[-2], latents.shape[-1])
    maps = maps[:, :1]
    picture = picture_guide(torch.from_numpy(images).float() / 255, len(images), grid_size)
    window = int(2 * CELL + 1)
    soft = {
        "plain": maps,
        "guided_picture": guided_upsampling(maps, picture, CELL),
        "guided_latent": guided_upsampling(maps, latent_guide(latents), CELL),
        # A guided filter averages twice: once to fit, once over the fits.
        "box": box_blur(box_blur(maps, window, "replicate"), window, "replicate"),
    }
    soft = {k: F.interpolate(v, size=size, mode="bicubic").clamp(min=0)[:, 0] for k, v in soft.items()}
    rows = {f"adaptive_{name}": threshold(normalise(one), "adaptive")[0] for name, one in soft.items()}
    rows["adaptive"] = rows.pop("adaptive_plain")
    rows["otsu"] = threshold(normalise(soft["plain"]), "otsu")[0]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=PICTURES, help="held-out pictures a token")
    count = parser.parse_args().pictures
    studio = Studio()
    from partedit_oir.core.partedit.part_maps import part_maps

    rows: dict[str, dict[str, float]] = {}
    shown: list[torch.Tensor] = []
    for part in DEMO_PARTS:
        token = studio.token(part)
        images, latents, true = held_out_parts(studio, part, count)
        scores: dict[str, list[torch.Tensor]] = {}
        for start in range(0, count, BATCH):
            here = slice(start, start + BATCH)
            for level in LEVELS:
                maps = part_maps(studio.model, token, latents[here], studio.text(""), level, seed=start, layers=LAYERS)
                masks = masks_of(images[here], latents[here], maps)
                for method, mask in masks.items():
                    scores.setdefault(f"{method}_{level}", []).append(iou(mask >= 0.5, true[here]))
                if level == 0.5 and start == 0:
                    picture = torch.from_numpy(images[:4]).float() / 255
                    shown += [*(picture * 0.5 + masks["adaptive"][:4, ..., None] * torch.tensor([0.5, 0.0, 0.25]))]
        rows[part.label] = {k: float(torch.cat(v).mean()) for k, v in scores.items()}
        means = {k: float(np.mean([r[k] for r in rows.values()])) for k in scores}
        values = {"pictures_a_token": count, "mean_iou_adaptive_mid": means["adaptive_0.5"], "mean_iou": means}
        sheet = grid(torch.stack(shown), 4)
        whole = count == PICTURES and part is DEMO_PARTS[-1]
        write_result("part_tokens", {**values, "tokens": rows}, sheet, whole)


if __name__ == "__main__":
    main()
