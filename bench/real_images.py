"""Part edits of images the model did not generate: 40 drawn images, inverted with every method, then edited.

    python run.py bench real_images [--limit 1] [--methods ddim_fixed_point,ledits_pp]

Eight images per token, never seen in training, with exact part masks. For each method, in dB against the image after
the VAE (the best an inversion can reach):

- replay: denoised from the noisiest latent with the source prompt, cfg 1 and the noise maps, if any, not pinned;
- source row: the source sampled with the edit, which the sampler pins to the trajectory;
- background: the edit outside the exact part (PSNR and SSIM); and success: the judge finds the new colour in the part.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from demo.training.defaults import CFG, CHANGED_WORDS, OMEGA
from demo.training.parts import DEMO_PARTS, LAYERS, DemoPart
from demo.training.pictures import BACKGROUNDS, COLOURS, Look, article, draw_scene, plain_scene
from demo.training.studio import Studio, grid

from .judge import judge, load_judge
from .results import write_result
from .scores import at_judge_size, outside, psnr

PICTURES_A_TOKEN, STEPS, STRENGTH = 8, 10, 1.0
COLUMNS = ("replay_psnr_db", "source_row_psnr_db", "background_psnr_db", "background_ssim", "success")


@dataclass(frozen=True)
class RealCase:
    """A picture (H, W, 3) uint8 with its exact part (H, W), its caption and the edited one."""

    part: DemoPart
    image: np.ndarray
    true: np.ndarray
    caption: str
    edit: str
    colour: str


def cases(limit: int = PICTURES_A_TOKEN) -> Iterator[RealCase]:
    """The seeded images, eight per token, or the first ``limit`` of each."""
    for number, part in enumerate(DEMO_PARTS):
        for k in range(limit):
            rng = np.random.default_rng([20264, number, k])
            old, new = (str(c) for c in rng.choice(list(COLOURS), 2, replace=False))
            name = part.names[k % len(part.names)]
            scene = plain_scene(name, Look(old), str(rng.choice(list(BACKGROUNDS))), 10_000_000 + 100 * number + k)
            picture = draw_scene(scene)
            edit = scene.caption.replace(article(old), article(new), 1)
            assert edit != scene.caption, scene.caption
            yield RealCase(part, picture.image, picture.part_mask(part.part, part.names), scene.caption, edit, new)


def replay(studio: Studio, trajectory: Any) -> torch.Tensor:
    """Latent (1, C, h, w) that a trajectory's noisiest level leads back to."""
    import comfy.samplers

    from partedit_oir.core.inversion.replay import TrajectorySampler

    guider = comfy.samplers.CFGGuider(studio.model)
    guider.inner_set_conds({"positive": trajectory.conditioning})
    guider.set_cfg(1.0)
    image = trajectory.latent_image
    sampler = comfy.samplers.KSAMPLER(TrajectorySampler(trajectory, pinned=()))
    return guider.sample(torch.zeros_like(image), image, sampler, trajectory.sigmas, disable_pbar=True)


def run(studio: Studio, case: RealCase, latent: torch.Tensor, method: str, steps: int) -> tuple[torch.Tensor, ...]:
    """Latents of replay, source row and edit."""
    from partedit_oir.core.inversion.invert import invert
    from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas
    from partedit_oir.core.partedit.alignment import FollowSettings
    from partedit_oir.core.partedit.feature_blend import SampleSettings, feature_blend
    from partedit_oir.core.partedit.prompt import build_edit_prompt
    from partedit_oir.core.partedit.settings import BlendInputs, BlendSettings

    sigmas = spaced_sigmas(model_sampling_of(studio.model), steps)
    source = studio.text(case.caption)
    trajectory = invert(studio.model, latent, source, sigmas=sigmas, method=method, source_prompt=case.caption)
    prompt = build_edit_prompt(studio.clip, case.caption, [case.edit], FollowSettings(changed_words=CHANGED_WORDS))
    settings = BlendSettings(layers=LAYERS, omega=OMEGA, timing="clean, first step twice")
    sampling = SampleSettings(cfg=CFG, denoise=STRENGTH)
    inputs = BlendInputs(prompt, studio.token(case.part), settings=settings)
    result = feature_blend(studio.model, inputs, studio.text(""), None, sampling, trajectory)
    return replay(studio, trajectory), result.source, result.edited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=PICTURES_A_TOKEN, help="pictures a token")
    parser.add_argument("--methods", default="", help="only these, separated by commas")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the inversion")
    args = parser.parse_args()
    studio, model = Studio(), load_judge()
    from partedit_oir.core.inversion.trajectory import METHODS

    methods = [name.strip() for name in args.methods.split(",") if name.strip()] or list(METHODS)
    if unknown := [name for name in methods if name not in METHODS]:
        parser.error(f"--methods: {', '.join(unknown)} not among {', '.join(METHODS)}")
    rows: dict[str, list[tuple[float, ...]]] = {method: [] for method in methods}
    shown: list[torch.Tensor] = []
    every = list(cases(args.limit))
    for number, case in enumerate(every):
        latent = studio.encode(case.image[None])
        best = studio.decode(latent)[0]
        line = [best]
        for method in methods:
            back, source, edited = (studio.decode(x)[0] for x in run(studio, case, latent, method, args.steps))
            (after,) = judge(model, edited[None].numpy())
            success = after.attribute(at_judge_size(case.true))[0] == case.colour
            rows[method].append(
                (psnr(best, back), psnr(best, source), *outside(best, edited, case.true), float(success))
            )
            line.append(edited)
        if number % args.limit < 2:
            shown += line
        table = {method: dict(zip(COLUMNS, map(float, np.mean(v, axis=0)))) for method, v in rows.items()}
        values = {
            "pictures": number + 1,
            "steps": args.steps,
            "cfg": CFG,
            "omega": OMEGA,
            "changed_words": CHANGED_WORDS,
            "denoise": STRENGTH,
            "methods": table,
        }
        sheet = grid(torch.stack(shown), 1 + len(methods)) if (number + 1) % args.limit == 0 else None
        standard = (args.limit, args.steps, methods) == (PICTURES_A_TOKEN, STEPS, list(METHODS))
        write_result("real_images", values, sheet, standard and number + 1 == len(every))


if __name__ == "__main__":
    main()
