"""Part edits of pictures that the model did not make: 40 generator pictures, inverted with every method, then edited.

    python run.py bench real_images

Eight pictures a token, never seen in training, with exact part masks. For each method: PSNR of the source row against
the picture as the VAE gives it back (what inversion can reach at best), PSNR outside the exact part, and success (the
judge reads the new colour in the part).
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from demo.pictures import COLOURS, Look, article, draw_scene, plain_scene
from demo.train_tokens import DEMO_PARTS, LAYERS

from .judge import judge, load_judge
from .part_edits import outside
from .results import RESULTS, write_result
from .studio import Studio, grid

PICTURES_A_TOKEN, STEPS, CFG, START = 8, 30, 5.0, 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=PICTURES_A_TOKEN, help="pictures a token")
    args = parser.parse_args()
    studio, model = Studio(), load_judge()
    from partedit_oir.core.inversion.invert import invert
    from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas
    from partedit_oir.core.inversion.trajectory import METHODS
    from partedit_oir.core.partedit.guider import BlendInputs
    from partedit_oir.core.partedit.prompt import FollowSettings, build_edit_prompt
    from partedit_oir.core.partedit.run import BlendSettings
    from partedit_oir.core.partedit.sampler import SampleSettings, feature_blend
    from partedit_oir.core.partedit.tokens import find_token, load_token

    sigmas = spaced_sigmas(model_sampling_of(studio.model), STEPS)
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    shown = []
    for number, part in enumerate(DEMO_PARTS):
        token = load_token(find_token(f"{part.file}.safetensors"))
        for k in range(args.limit):
            rng = np.random.default_rng([20264, number, k])
            old, new = (str(c) for c in rng.choice(list(COLOURS), 2, replace=False))
            name = part.names[k % len(part.names)]
            background = str(rng.choice(["snow", "beach", "forest", "desert", "night", "room", "meadow"]))
            scene = plain_scene(name, Look(old), background, 10_000_000 + 100 * number + k)
            picture = draw_scene(scene)
            true = picture.part_mask(part.part, part.names)
            small = F.interpolate(torch.from_numpy(true).float()[None, None], (64, 64))[0, 0].numpy() > 0.5
            latent = studio.encode(picture.image[None])
            best = studio.decode(latent)[0]
            edit = scene.caption.replace(article(old), article(new), 1)
            prompt = build_edit_prompt(studio.clip, scene.caption, [edit], FollowSettings())
            settings = BlendSettings(layers=LAYERS, timing="clean, first step twice")
            line = [best]
            for method in METHODS:
                trajectory = invert(
                    studio.model,
                    latent,
                    studio.text(scene.caption),
                    sigmas=sigmas,
                    method=method,
                    source_prompt=scene.caption,
                )
                result = feature_blend(
                    studio.model,
                    BlendInputs(prompt, token, settings=settings),
                    studio.text(""),
                    None,
                    SampleSettings(cfg=CFG, steps=STEPS, denoise=START),
                    dataclasses.replace(trajectory),
                )
                source, edited = studio.decode(result.source)[0], studio.decode(result.edited)[0]
                error = float(((source - best) ** 2).mean())
                (after,) = judge(model, edited[None].numpy())
                psnr, ssim = outside(best.numpy(), edited.numpy(), true)
                success = after.attribute(small)[0] == new
                rows.setdefault(method, []).append((-10 * np.log10(max(error, 1e-12)), psnr, ssim, float(success)))
                line.append(edited)
            if k < 2:
                shown += line
    table = {
        method: dict(
            zip(
                ("reconstruction_psnr_db", "background_psnr_db", "background_ssim", "success"),
                map(float, np.mean(v, 0)),
            )
        )
        for method, v in rows.items()
    }
    Image.fromarray(grid(torch.stack(shown), 1 + len(rows))).save(RESULTS / "real_images.png")
    count = len(next(iter(rows.values())))
    write_result("real_images", {"pictures": count, "steps": STEPS, "cfg": CFG, "denoise": START, "methods": table})


if __name__ == "__main__":
    main()
