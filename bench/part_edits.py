"""Sixty part edits on the demo checkpoint: does the part change, and does the rest stay?

    python run.py bench part_edits [--limit 2] [--variants partedit,published_timing]

Each edit samples a source ("a red robot in the snow") and an edit of its prompt ("a blue robot in the snow") with a
part token. The judge finds the true part in the source image; success is its new colour in the edit; PSNR and SSIM are
measured outside the true part (grown by four pixels, the judge's precision). Variants: the method, the same with the
source's latent restored outside the final mask, and the same prompts without blending; others by name. Variants with
the same blend settings are edits of one source in one run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from demo.training.defaults import CFG, CHANGED_WORDS, OMEGA, SCHEDULER, STEPS
from demo.training.parts import DEMO_PARTS, LAYERS, DemoPart
from demo.training.pictures import BACKGROUNDS, COLOURS, article
from demo.training.studio import Studio, grid
from tools.evaluate.judge import judge, load_judge

from .results import write_result
from .scores import at_judge_size, outside

EDITS_A_TOKEN = 12


@dataclass(frozen=True)
class PartEditCase:
    part: DemoPart
    name: str
    source: str
    edit: str
    colour: str
    seed: int


@dataclass(frozen=True)
class Variant:
    """How an edit differs from the product's defaults.

    Attributes:
        settings: changes of BlendSettings.
        source_pooled: the edit gets the source's pooled embedding.
        blended: False leaves the blending out.
        paste_back: "" or what is put back outside the final mask, "latent" or "pixels".
        picture_mask: the source is made first; PartAttentionMask finds the part in it, and its mask holds at every
            step in the place of the token's.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    source_pooled: bool = False
    blended: bool = True
    paste_back: str = ""
    picture_mask: bool = False

    @property
    def edit(self) -> tuple[bool, bool]:
        """Variants that are equal in this are one edit, with the same settings."""
        return self.source_pooled, self.blended


VARIANTS = {
    "partedit": Variant(),
    "source_pooled": Variant(source_pooled=True),
    "no_blending": Variant(blended=False),
    "paste_back": Variant(paste_back="latent"),
    "paste_pixels": Variant(paste_back="pixels"),
    "published_timing": Variant({"timing": "published"}),
    "first_step_twice": Variant({"timing": "clean, first step twice"}),
    "published_size": Variant({"map_size": "published"}),
    "published_layers": Variant({"layers": "published"}),
    "otsu": Variant({"threshold": "otsu"}),
    "omega_1": Variant({"omega": 1.0}),
    "omega_1.5": Variant({"omega": 1.5}),
    "released_at_70": Variant({"edit_steps": 0.7}),
    "picture_mask": Variant(picture_mask=True),
    "picture_mask_paste_back": Variant(picture_mask=True, paste_back="latent"),
}
DEFAULT = ("partedit", "paste_back", "no_blending")


def cases(limit: int = EDITS_A_TOKEN) -> Iterator[PartEditCase]:
    """The seeded edits, twelve per token, or the first ``limit`` of each."""
    for number, part in enumerate(DEMO_PARTS):
        for k in range(limit):
            rng = np.random.default_rng([20263, number, k])
            old, new = (str(c) for c in rng.choice(list(COLOURS), 2, replace=False))
            name = part.names[k % len(part.names)]
            place = BACKGROUNDS[str(rng.choice(list(BACKGROUNDS)))]
            yield PartEditCase(
                part, name, f"{article(old)} {name} {place}", f"{article(new)} {name} {place}", new, 100 * number + k
            )


def run(
    studio: Studio, case: PartEditCase, variants: Mapping[str, Variant], steps: int = STEPS
) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Source picture (H, W, 3), and {variant: (edited picture, mask (H, W))}."""
    source = None
    out: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    groups: dict[str, list[str]] = {}
    for name, variant in variants.items():
        groups.setdefault(repr((variant.picture_mask, sorted(variant.settings.items()))), []).append(name)
    result = None
    for names in groups.values():
        kinds, one = list(dict.fromkeys(variants[name].edit for name in names)), variants[names[0]]
        mask = None
        if one.picture_mask:
            result = result or _sample(studio, case, [(False, False)], {}, steps)
            mask = _picture_mask(studio, case, result.source)
        result = _sample(studio, case, kinds, one.settings, steps, mask)
        source = studio.decode(result.source)[0] if source is None else source
        for name in names:
            place = kinds.index(variants[name].edit)
            picture = _picture(studio, result, place, source, variants[name].paste_back)
            out[name] = picture, result.mask[place]
    assert source is not None
    return source, out


def _picture_mask(studio: Studio, case: PartEditCase, latent: torch.Tensor) -> torch.Tensor:
    """(1, H, W) mask of the part in the finished source (1, 4, h, w), as the pack's two mask nodes make it."""
    from partedit_oir.nodes.mask import AdaptiveOtsuThreshold, PartAttentionMask

    soft = PartAttentionMask.execute(
        studio.model,
        studio.token(case.part),
        studio.text(""),
        {"samples": latent},
        noise_level=0.5,
        seed=case.seed,
        samples=4,
        layers=LAYERS,
        upsampling="guided",
        image=studio.decode(latent),
    ).args[0]
    return AdaptiveOtsuThreshold.execute(soft, "adaptive", OMEGA).args[0]


def _sample(
    studio: Studio,
    case: PartEditCase,
    kinds: Sequence[tuple[bool, bool]],
    changes: Mapping[str, Any],
    steps: int,
    mask: torch.Tensor | None = None,
) -> Any:
    """One run with an edit for each of ``kinds`` (source's pooled embedding, blended), under the token's or a mask."""
    from partedit_oir.core.partedit.alignment import FollowSettings
    from partedit_oir.core.partedit.feature_blend import SampleSettings, feature_blend
    from partedit_oir.core.partedit.prompt import build_edit_prompt
    from partedit_oir.core.partedit.settings import BlendInputs, BlendSettings

    prompt = build_edit_prompt(studio.clip, case.source, [case.edit], FollowSettings(changed_words=CHANGED_WORDS))
    pooled = prompt.source[0][1]["pooled_output"]
    edits = []
    for source_pooled, blended in kinds:
        edit = replace(prompt.edits[0], blended=blended)
        if source_pooled:
            part = edit.prompts[0]
            text, options = part.conditioning[0]
            part = replace(part, conditioning=[[text, {**options, "pooled_output": pooled}]])
            edit = replace(edit, prompts=(part,))
        edits.append(edit)
    prompt = replace(prompt, edits=tuple(edits))
    token = studio.token(case.part) if mask is None else None
    settings = BlendSettings(**{"layers": LAYERS, "omega": OMEGA, **changes})
    inputs = BlendInputs(prompt, token, mask, settings=settings)
    sampling = SampleSettings(case.seed, steps, CFG, "dpmpp_2m", SCHEDULER)
    return feature_blend(studio.model, inputs, studio.text(""), {"samples": torch.zeros(1, 4, 32, 32)}, sampling)


def _picture(studio: Studio, result: Any, place: int, source: torch.Tensor, paste_back: str) -> torch.Tensor:
    from partedit_oir.core.partedit.masks import fit_mask
    from partedit_oir.core.paste_back import paste_latents, paste_pixels

    latent, mask = result.edited[place], result.mask[place]
    if paste_back == "latent":
        small = fit_mask(mask, 1, (latent.shape[-2], latent.shape[-1]), "mask")[:, 0]
        latent = paste_latents(latent[None], result.source, small)[0]
    picture = studio.decode(latent[None])[0]
    if paste_back == "pixels":
        picture = paste_pixels(picture[None], source[None], mask[None])[0]
    return picture


def summary(rows: Mapping[str, list[tuple[str, bool, float, float]]]) -> dict[str, Any]:
    """{variant: {"all" or a part: means}} of rows (part, success, PSNR, SSIM)."""
    table: dict[str, Any] = {}
    for name, values in rows.items():
        labels = ["all", *dict.fromkeys(v[0] for v in values)]
        table[name] = {}
        for label in labels:
            own = [v[1:] for v in values if label in ("all", v[0])]
            means = dict(zip(("success", "psnr_db", "ssim"), map(float, np.mean(own, axis=0))))
            table[name][label] = {"edits": len(own), **means}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=EDITS_A_TOKEN, help="only this many edits a token")
    parser.add_argument("--variants", default=",".join(DEFAULT), help=f"some of {', '.join(VARIANTS)}")
    args = parser.parse_args()
    chosen = [name.strip() for name in args.variants.split(",")]
    if unknown := [name for name in chosen if name not in VARIANTS]:
        parser.error(f"--variants: {', '.join(unknown)} not among {', '.join(VARIANTS)}")
    studio, model = Studio(), load_judge()
    variants = {name: VARIANTS[name] for name in chosen}
    title = "part_edits" if tuple(chosen) == DEFAULT else "part_edits_" + "_".join(chosen)
    rows: dict[str, list[tuple[str, bool, float, float]]] = {name: [] for name in chosen}
    shown: list[torch.Tensor] = []
    failed: list[str] = []
    every = list(cases(args.limit))
    for number, case in enumerate(every, 1):
        source, edits = run(studio, case, variants)
        (seen,) = judge(model, source[None].numpy())
        part = seen.part_mask(case.name, case.part.part)
        shown.append(source)
        for name, (edit, mask) in edits.items():
            (after,) = judge(model, edit[None].numpy())
            success = bool(part.any()) and after.attribute(at_judge_size(part))[0] == case.colour
            psnr, ssim = outside(source, edit, part)
            rows[name].append((case.part.label, success, psnr, ssim))
            if name == chosen[0]:
                shown.append(source * 0.5 + mask[..., None] * torch.tensor([0.5, 0.0, 0.25]))
                if not success or psnr < 25:
                    failed.append(f"{case.source} -> {case.edit} ({case.part.part}): success {success}, {psnr:.1f} dB")
            shown.append(edit)
        values = {
            "edits": number,
            "steps": STEPS,
            "cfg": CFG,
            "omega": OMEGA,
            "scheduler": SCHEDULER,
            "changed_words": CHANGED_WORDS,
            "layers": LAYERS,
            "variants": summary(rows),
        }
        sheet = grid(torch.stack(shown), 2 + len(chosen)) if number % args.limit == 0 else None
        whole = number == len(every) and args.limit == EDITS_A_TOKEN
        write_result(title, {**values, "failed": failed}, sheet, whole)


if __name__ == "__main__":
    main()
