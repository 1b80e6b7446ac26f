"""Part edits of images the model did not generate: 40 drawn images, inverted with every method, then edited.

    python run.py bench real_images [--limit 1] [--methods ddim_fixed_point,ledits_pp]

Every picture is kept in ``real_images.partial.json``; a run that was stopped continues with the next one.

Eight images per token, never seen in training, with exact part masks. They are inverted with the source prompt at cfg
1 and edited with both choices of `noise_maps`. In dB against the image after the VAE (the best an inversion can reach);
images that are equal to it are left out of a mean and counted beside it (``tools.decibels``):

- replay: a row with the source prompt beside the source row at cfg 1, not pinned;
- no-op: an edit whose prompt is the source prompt, at the editing guidance;
- source row: the source sampled with the edit, which the sampler pins to the trajectory;
- background: the edit outside the exact part (PSNR and SSIM);
- success: of all colours that captions name, the part's middle one (median) is nearest to the new one. The edit without
  a change must fail; ``unchanged_success`` counts it on the image itself.

The sheet shows, for two images per token: the image, its edits as recorded (one per method), then from the source row.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from demo.training.defaults import CFG, CHANGED_WORDS, OMEGA
from demo.training.parts import DEMO_PARTS, LAYERS, DemoPart
from demo.training.pictures import BACKGROUNDS, COLOURS, Look, article, draw_scene, nearest_colour, plain_scene
from demo.training.studio import Studio, grid
from tools.decibels import EQUAL_DB

from . import results
from .scores import means, outside, psnr

NAME = "real_images"
PICTURES_A_TOKEN, STEPS, STRENGTH = 8, 10, 1.0
SHOWN = 2  # pictures of each token on the sheet
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


def measure(
    studio: Studio, case: RealCase, trajectory: Any, noise_maps: str, best: torch.Tensor
) -> tuple[torch.Tensor, list[float]]:
    """The edited image (H, W, 3) and its values of ``COLUMNS``."""
    back, same, source, edited = (studio.decode(x)[0] for x in run(studio, case, trajectory, noise_maps))
    success = nearest_colour(edited.numpy() * 255, case.true) == case.colour
    fidelity = (psnr(best, one) for one in (back, same, source))
    return edited, [*fidelity, *outside(best, edited, case.true), float(success)]


@dataclasses.dataclass
class Measured:
    """The values of each picture so far, {number of the picture: {method: {choice: [values of COLUMNS]}}}."""

    settings: dict[str, Any]
    methods: tuple[str, ...]
    choices: tuple[str, ...]
    values: dict[str, dict[str, dict[str, list[float]]]] = dataclasses.field(default_factory=dict)
    unchanged: dict[str, float] = dataclasses.field(default_factory=dict)

    def resume(self) -> None:
        """Take over what a stopped run with the same settings has left."""
        file = results.RESULTS / f"{NAME}.partial.json"
        if not file.is_file():
            return
        left = json.loads(file.read_text(encoding="utf-8"))
        if all(left.get(name) == value for name, value in self.settings.items()) and "measured" in left:
            kept = {n: row for n, row in left["measured"].items() if set(row) == set(self.methods)}
            self.values, self.unchanged = kept, {n: left["unchanged"][n] for n in kept}

    def means(self) -> dict[str, dict[str, dict[str, Any]]]:
        """{method: {choice: {column: mean}}}, see `scores.means`."""
        rows = {
            (method, choice): [dict(zip(COLUMNS, one[method][choice], strict=True)) for one in self.values.values()]
            for method in self.methods
            for choice in self.choices
        }
        return {
            method: {choice: means(rows[method, choice], digits=6) for choice in self.choices}
            for method in self.methods
        }

    def write(self, sheet: np.ndarray | None, whole: bool) -> None:
        values = {
            "pictures": len(self.values),
            **self.settings,
            "unchanged_success": float(np.mean(list(self.unchanged.values()))),
            "methods": self.means(),
        }
        if not whole:
            values |= {"measured": self.values, "unchanged": self.unchanged}
        results.write_result(NAME, values, sheet, whole)


def kept_edit(number: int, method: str, choice: str) -> Path:
    """Where the edited image of a picture is kept for the sheet."""
    return results.RESULTS / f"{NAME}.partial.{number}.{method}.{choice.replace(' ', '_')}.png"


def sheet_of(every: list[RealCase], limit: int, measured: Measured, studio: Studio) -> np.ndarray | None:
    """The first pictures of each token that are done: the image, its edits as recorded, then from the source row."""
    shown: list[torch.Tensor] = []
    for number, case in enumerate(every):
        files = [kept_edit(number, method, choice) for choice in measured.choices for method in measured.methods]
        if number % limit < SHOWN and all(file.is_file() for file in files):
            shown.append(studio.decode(studio.encode(case.image[None]))[0])
            shown += [torch.from_numpy(np.array(Image.open(file))).float() / 255 for file in files]
    return grid(torch.stack(shown), 1 + len(measured.choices) * len(measured.methods)) if shown else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=PICTURES_A_TOKEN, help="pictures a token")
    parser.add_argument("--methods", default="", help="only these, separated by commas")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the inversion")
    args = parser.parse_args()
    studio = Studio()
    from partedit_oir.core.inversion.replay import AS_RECORDED, FROM_SOURCE
    from partedit_oir.core.inversion.trajectory import METHODS

    methods = tuple(name.strip() for name in args.methods.split(",") if name.strip()) or tuple(METHODS)
    if unknown := [name for name in methods if name not in METHODS]:
        parser.error(f"--methods: {', '.join(unknown)} not among {', '.join(METHODS)}")
    settings = {
        "pictures_a_token": args.limit,
        "steps": args.steps,
        "cfg": CFG,
        "omega": OMEGA,
        "changed_words": CHANGED_WORDS,
        "denoise": STRENGTH,
        "equal_db": EQUAL_DB,
    }
    measured = Measured(settings, methods, (AS_RECORDED, FROM_SOURCE))
    measured.resume()
    every = list(cases(args.limit))
    # One picture of each token, then the next: a run that is cut short has seen them all.
    for number in sorted(range(len(every)), key=lambda n: n % args.limit):
        if str(number) in measured.values:
            continue
        case = every[number]
        latent = studio.encode(case.image[None])
        best = studio.decode(latent)[0]
        row: dict[str, dict[str, list[float]]] = {method: {} for method in methods}
        for method in methods:
            trajectory = invert_case(studio, case, latent, method, args.steps)
            for choice in measured.choices:
                edited, row[method][choice] = measure(studio, case, trajectory, choice, best)
                if number % args.limit < SHOWN:
                    picture = (edited.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
                    Image.fromarray(picture).save(kept_edit(number, method, choice))
        measured.values[str(number)] = row
        measured.unchanged[str(number)] = float(nearest_colour(best.numpy() * 255, case.true) == case.colour)
        measured.write(None, False)
    standard = (args.limit, args.steps, methods) == (PICTURES_A_TOKEN, STEPS, tuple(METHODS))
    measured.write(sheet_of(every, args.limit, measured, studio), standard)
    if standard:
        for file in results.RESULTS.glob(f"{NAME}.partial.*.png"):
            file.unlink()


if __name__ == "__main__":
    main()
