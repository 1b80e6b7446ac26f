"""Part edits of images the model did not generate: 40 drawn images, inverted with every method, then edited.

    python run.py bench real_images [--limit 1] [--methods ddim_fixed_point,ledits_pp]

Eight images per token, never seen in training, with exact part masks. They are inverted with the source prompt at cfg
1 and edited with both choices of `noise_maps`. In dB against the image after the VAE (the best an inversion can reach):

- replay: a row with the source prompt beside the source row at cfg 1, not pinned;
- no-op: an edit whose prompt is the source prompt, at the editing guidance;
- source row: the source sampled with the edit, which the sampler pins to the trajectory;
- background: the edit outside the exact part (PSNR and SSIM); and success: the judge finds the new colour in the part.

The sheet shows, for two images per token: the image, its edits as recorded (one per method), then from the source row.
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
COLUMNS = (
    "replay_psnr_db",
    "no_op_psnr_db",
    "source_row_psnr_db",
    "background_psnr_db",
    "background_ssim",
    "success",
)


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


def replay(studio: Studio, trajectory: Any, noise_maps: str) -> torch.Tensor:
    """Latent (1, C, h, w) that the source prompt leads back to at cfg 1, in a row that is not pinned."""
    import comfy.samplers

    from partedit_oir.core.inversion.replay import TrajectorySampler

    guider = comfy.samplers.CFGGuider(studio.model)
    guider.inner_set_conds({"positive": trajectory.conditioning})
    guider.set_cfg(1.0)
    image = trajectory.latent_image.expand(2, -1, -1, -1)
    sampler = comfy.samplers.KSAMPLER(TrajectorySampler(trajectory, noise_maps=noise_maps))
    return guider.sample(torch.zeros_like(image), image, sampler, trajectory.sigmas, disable_pbar=True)[1:]


def invert_case(studio: Studio, case: RealCase, latent: torch.Tensor, method: str, steps: int) -> Any:
    """The image's trajectory, with recorded noise maps where the method has any."""
    from partedit_oir.core.inversion.invert import invert
    from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas

    sigmas = spaced_sigmas(model_sampling_of(studio.model), steps)
    source = studio.text(case.caption)
    return invert(studio.model, latent, source, sigmas=sigmas, method=method, record_noise_maps=True)


def run(studio: Studio, case: RealCase, trajectory: Any, noise_maps: str) -> tuple[torch.Tensor, ...]:
    """Latents (1, C, h, w) of replay, no-op, source row and edit."""
    from partedit_oir.core.partedit.alignment import FollowSettings
    from partedit_oir.core.partedit.feature_blend import SampleSettings, feature_blend
    from partedit_oir.core.partedit.prompt import build_edit_prompt
    from partedit_oir.core.partedit.settings import BlendInputs, BlendSettings

    edits = [case.edit, case.caption]
    prompt = build_edit_prompt(studio.clip, case.caption, edits, FollowSettings(changed_words=CHANGED_WORDS))
    settings = BlendSettings(layers=LAYERS, omega=OMEGA, timing="clean, first step twice")
    sampling = SampleSettings(cfg=CFG, denoise=STRENGTH, noise_maps=noise_maps)
    inputs = BlendInputs(prompt, studio.token(case.part), settings=settings)
    result = feature_blend(studio.model, inputs, studio.text(""), None, sampling, trajectory)
    return replay(studio, trajectory, noise_maps), result.edited[1:], result.source, result.edited[:1]


def measure(studio: Studio, judge_model: Any, case: RealCase, trajectory: Any, noise_maps: str, best: torch.Tensor):
    """The edited image (H, W, 3) and its values of ``COLUMNS``."""
    back, same, source, edited = (studio.decode(x)[0] for x in run(studio, case, trajectory, noise_maps))
    (after,) = judge(judge_model, edited[None].numpy())
    success = after.attribute(at_judge_size(case.true))[0] == case.colour
    fidelity = (psnr(best, one) for one in (back, same, source))
    return edited, (*fidelity, *outside(best, edited, case.true), float(success))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=PICTURES_A_TOKEN, help="pictures a token")
    parser.add_argument("--methods", default="", help="only these, separated by commas")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the inversion")
    args = parser.parse_args()
    studio, model = Studio(), load_judge()
    from partedit_oir.core.inversion.replay import AS_RECORDED, FROM_SOURCE
    from partedit_oir.core.inversion.trajectory import METHODS

    choices = (AS_RECORDED, FROM_SOURCE)

    methods = [name.strip() for name in args.methods.split(",") if name.strip()] or list(METHODS)
    if unknown := [name for name in methods if name not in METHODS]:
        parser.error(f"--methods: {', '.join(unknown)} not among {', '.join(METHODS)}")
    rows: dict[tuple[str, str], list[tuple[float, ...]]] = {(m, c): [] for m in methods for c in choices}
    shown: list[torch.Tensor] = []
    every = list(cases(args.limit))
    for number, case in enumerate(every):
        latent = studio.encode(case.image[None])
        best = studio.decode(latent)[0]
        line: dict[tuple[str, str], torch.Tensor] = {}
        for method in methods:
            trajectory = invert_case(studio, case, latent, method, args.steps)
            for choice in choices:
                line[method, choice], row = measure(studio, model, case, trajectory, choice, best)
                rows[method, choice].append(row)
        if number % args.limit < 2:
            shown += [best, *(line[method, choice] for choice in choices for method in methods)]
        means = {key: dict(zip(COLUMNS, map(float, np.mean(v, axis=0)))) for key, v in rows.items()}
        table = {method: {choice: means[method, choice] for choice in choices} for method in methods}
        values = {
            "pictures": number + 1,
            "steps": args.steps,
            "cfg": CFG,
            "omega": OMEGA,
            "changed_words": CHANGED_WORDS,
            "denoise": STRENGTH,
            "methods": table,
        }
        sheet = grid(torch.stack(shown), 1 + 2 * len(methods)) if (number + 1) % args.limit == 0 else None
        standard = (args.limit, args.steps, methods) == (PICTURES_A_TOKEN, STEPS, list(METHODS))
        write_result("real_images", values, sheet, standard and number + 1 == len(every))


if __name__ == "__main__":
    main()
