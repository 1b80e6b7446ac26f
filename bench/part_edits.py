"""Sixty part edits on the demo checkpoint: does the part change, and does the rest stay?

    python run.py bench part_edits

Each edit samples a source ("a red robot in the snow") and an edit of its prompt ("a blue robot in the snow") with a
part token. The judge finds the true part in the source picture; success is its new colour in the edit, PSNR and SSIM
are taken outside the true part (grown by four pixels, the judge's own precision). The same prompts without blending
(a mask of ones) stand beside it, and so does keeping the source's pooled embedding.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from demo.pictures import BACKGROUNDS, COLOURS, article
from demo.train_tokens import DEMO_PARTS, LAYERS, DemoPart

from .judge import judge, load_judge
from .results import RESULTS, write_result
from .studio import Studio, grid

EDITS_A_TOKEN, STEPS, CFG = 12, 25, 5.0


@dataclass(frozen=True)
class PartEditCase:
    part: DemoPart
    name: str
    source: str
    edit: str
    colour: str
    seed: int


def cases() -> Iterator[PartEditCase]:
    """The seeded edits, twelve a token."""
    for number, part in enumerate(DEMO_PARTS):
        for k in range(EDITS_A_TOKEN):
            rng = np.random.default_rng([20263, number, k])
            old, new = (str(c) for c in rng.choice(list(COLOURS), 2, replace=False))
            name = part.names[k % len(part.names)]
            place = BACKGROUNDS[str(rng.choice(list(BACKGROUNDS)))]
            yield PartEditCase(
                part, name, f"{article(old)} {name} {place}", f"{article(new)} {name} {place}", new, 100 * number + k
            )


def outside(source: np.ndarray, edit: np.ndarray, part: np.ndarray) -> tuple[float, float]:
    """PSNR (dB) and mean SSIM of two (H, W, 3) pictures in 0 … 1 outside a boolean part."""
    from skimage.metrics import structural_similarity
    from skimage.morphology import dilation, disk

    rest = ~dilation(part, disk(4))
    error = np.mean((source[rest] - edit[rest]) ** 2)
    _, ssim = structural_similarity(source, edit, channel_axis=2, data_range=1.0, full=True)
    return float(-10 * np.log10(max(error, 1e-12))), float(ssim[rest].mean())


def run(
    studio: Studio, case: PartEditCase, variants: dict[str, dict[str, Any]], steps: int = STEPS
) -> tuple[Any, dict[str, Any]]:
    """Source picture, and {variant: (edit picture, mask)}; a variant changes the blend settings or gives a mask."""
    from partedit_oir.core.partedit.guider import BlendInputs
    from partedit_oir.core.partedit.prompt import FollowSettings, build_edit_prompt
    from partedit_oir.core.partedit.run import BlendSettings
    from partedit_oir.core.partedit.sampler import SampleSettings, feature_blend
    from partedit_oir.core.partedit.tokens import find_token, load_token

    prompt = build_edit_prompt(studio.clip, case.source, [case.edit], FollowSettings())
    token = load_token(find_token(f"{case.part.file}.safetensors"))
    latent = {"samples": torch.zeros(1, 4, 32, 32)}
    source, out = None, {}
    for name, change in variants.items():
        change = dict(change)
        mask = change.pop("mask", None)
        paste = change.pop("paste_back", False)
        settings = BlendSettings(**{"layers": LAYERS, **change})
        inputs = BlendInputs(prompt, None if mask is not None else token, mask, settings=settings)
        sampling = SampleSettings(case.seed, steps, CFG, "dpmpp_2m", "karras", paste_back=paste)
        result = feature_blend(studio.model, inputs, studio.text(""), latent, sampling)
        source = studio.decode(result.source)[0] if source is None else source
        out[name] = (studio.decode(result.edited)[0], result.mask[0])
    return source, out


VARIANTS: dict[str, dict[str, Any]] = {
    "partedit": {},
    "source_pooled": {"keep_pooled": True},
    "paste_back": {"paste_back": True},
    "no_blending": {"mask": torch.ones(1, 256, 256)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=0, help="only this many edits a token")
    args = parser.parse_args()
    studio, model = Studio(), load_judge()
    rows: dict[str, dict[str, list]] = {name: {} for name in VARIANTS}
    shown, failed = [], []
    for case in cases():
        if args.limit and case.seed % 100 >= args.limit:
            continue
        source, edits = run(studio, case, VARIANTS)
        (seen,) = judge(model, source[None].numpy())
        part = seen.part_mask(case.name, case.part.part)
        for name, (edit, mask) in edits.items():
            (after,) = judge(model, edit[None].numpy())
            grid_part = (
                torch.nn.functional.interpolate(torch.from_numpy(part).float()[None, None], (64, 64))[0, 0] > 0.5
            )
            success = bool(part.any()) and after.attribute(grid_part.numpy())[0] == case.colour
            psnr, ssim = outside(source.numpy(), edit.numpy(), part)
            for key in ("all", case.part.label):
                rows[name].setdefault(key, []).append((success, psnr, ssim))
            if name == "partedit":
                shown += [source, source * 0.5 + mask[..., None] * torch.tensor([0.5, 0.0, 0.25]), edit]
                if not success or psnr < 25:
                    failed.append(f"{case.source} -> {case.edit} ({case.part.part}): success {success}, {psnr:.1f} dB")
        shown.append(edits["no_blending"][0])
    table = {
        name: {
            key: {
                "edits": len(values),
                "success": float(np.mean([v[0] for v in values])),
                "psnr_db": float(np.mean([v[1] for v in values])),
                "ssim": float(np.mean([v[2] for v in values])),
            }
            for key, values in groups.items()
        }
        for name, groups in rows.items()
    }
    Image.fromarray(grid(torch.stack(shown), 12)).save(RESULTS / "part_edits.png")
    write_result("part_edits", {"steps": STEPS, "cfg": CFG, "layers": LAYERS, "variants": table, "failed": failed})


if __name__ == "__main__":
    main()
