"""Sixty edits of two objects on the demo checkpoint: OIR against three other methods, and the cost of its search.

    python run.py bench object_edits [--limit 2] [--jobs 2] [--fp32]
    python run.py bench object_edits --replay        the search figures again, from the recorded scores

Drawn images of two plain objects side by side, from unseen seeds, with exact masks; each edit changes both objects, in
colour or in kind. Every method starts from the same latent, on the same 25 DDIM levels, with cfg 7.5 and the same
prompts. All except SDEdit, which cannot use them, get the masks:

- ``oir``: exhaustive step search and reassembly; ``oir_weighted``: the same with S_e counted twice in the choice.
- ``fixed``: OIR's reassembly with one inversion step for all objects and images.
- ``sdedit``: noise to a level, denoise with the target prompt (Meng et al. 2022).
- ``blended``: the same, with the noised source restored outside the masks after every step (Avrahami et al. 2023).

The last three run on a grid of levels. The table lists each level, and ``best`` the one with the highest success on
both objects (then MS-SSIM). It is chosen on the test edits themselves, which favours those methods.

Success is decided by the judge (``tools.evaluate.judge``), which never saw the image model. The region of an object is
its exact mask in the source. The object counts as edited if, inside the region, the target kind has more pixels than
any other kind, fills at least a third of it, and mostly has the target colour; ``both`` requires this of both objects.
``both_kept`` also requires 20 dB outside the masks, because repainting the whole image is not an edit. ``generator`` is
the ceiling of this rule, the edited scene drawn by the generator; ``source`` its floor, the unchanged image; ``vae`` is
what the autoencoder alone does to the image. Distances are to the original image: MS-SSIM and ``feature_distance`` (a
stand-in for LPIPS, see ``bench.perceptual``) of the whole image, PSNR and SSIM outside the exact masks. Images that are
equal outside the masks have no finite PSNR and are left out of its mean (``tools.decibels``).

``coarse_to_fine`` replays the pack's choice of candidates over the recorded scores of all pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from tools.bootstrap import load_pack
from tools.evaluate.judge import Judge, judge, load_judge
from tools.host.layout import write_whole

from .object_cases import EDITS, ObjectEdit, edit_case, is_edited, object_mask
from .object_methods import CFG, STEPS, Bench
from .perceptual import feature_distance
from .results import RESULTS, write_result
from .scores import finite_db
from .scores import means as means_of

GRID = (12, 18, 25)
# S with the edit counted this often: for those who want the edit rather than an untouched picture.
EDIT_WEIGHT = 2.0
GRIDDED = ("fixed", "sdedit", "blended")
KEPT_DB = 20.0
SHOWN, THUMBNAIL = 10, 160
CURVES = "object_edits_scores"
GOALS = {"share_of_rows": 0.35, "share_of_best_S": 0.98, "in_share_of_pairs": 0.9}

_worker: dict[str, Any] = {}


def run_edit(number: int) -> dict[str, Any]:
    """Everything about one edit: scores of the search, figures and pictures (H, W, 3 uint8) of every method."""
    from demo.training.pictures import draw_scene
    from partedit_oir.core.oir.metric import combine

    bench: Bench = _worker["bench"]
    begin, edit = time.perf_counter(), edit_case(number)
    picture = draw_scene(edit.scene)
    trajectory, pairs = bench.start(edit, picture)
    search = bench.search(trajectory, pairs)
    scores = [
        {"candidates": list(p.candidates), "S_e": list(p.metric.edit), "S_ne": list(p.metric.keep), "best": p.best}
        for p in search.pairs
    ]
    weighted = tuple(
        p.candidates[combine(p.metric.edit, p.metric.keep, edit_weight=EDIT_WEIGHT).best] for p in search.pairs
    )
    latents = {"vae": trajectory.latent_image, "oir": bench.reassemble(trajectory, pairs, search.chosen)}
    same = weighted == search.chosen
    latents["oir_weighted"] = latents["oir"] if same else bench.reassemble(trajectory, pairs, weighted)
    latents |= {f"fixed {n}": bench.reassemble(trajectory, pairs, [n, n]) for n in GRID}
    for name in ("sdedit", "blended"):
        made = bench.from_noise(trajectory, pairs, GRID, number, blend=name == "blended")
        latents |= {f"{name} {n}": latent for n, latent in made.items()}
    pictures = {"source": torch.tensor(picture.image) / 255}
    pictures["generator"] = torch.tensor(edit.drawn_after().image) / 255
    pictures |= {name: bench.studio.decode(latent)[0] for name, latent in latents.items()}
    return {
        "edit": [[c.what, c.before, c.after] for c in edit.changes],
        "steps": {"oir": list(search.chosen), "oir_weighted": list(weighted)},
        "scores": scores,
        "figures": figures(_worker["judge"], edit, picture, pictures),
        "pictures": {n: (x * 255).round().byte().numpy() for n, x in pictures.items()} if number < SHOWN else {},
        "seconds": time.perf_counter() - begin,
    }


def figures(
    model: Judge, edit: ObjectEdit, picture: Any, pictures: dict[str, torch.Tensor]
) -> dict[str, dict[str, float]]:
    """{name: figures} of finished pictures (H, W, 3) in 0 … 1; ``source`` is among them."""
    from partedit_oir.core.metrics import edit_scores

    masks = [object_mask(picture, position) for position in (0, 1)]
    union, stack = torch.from_numpy(masks[0] | masks[1]).float(), torch.stack(list(pictures.values()))
    distances = feature_distance(model, stack, pictures["source"])
    out = {}
    for (name, image), verdict, distance in zip(pictures.items(), judge(model, stack), distances):
        scores = edit_scores(pictures["source"], image, union)
        left, right = (is_edited(verdict, mask, change) for mask, change in zip(masks, edit.changes))
        assert scores.psnr_outside is not None and scores.ssim_outside is not None, "the objects cover everything"
        psnr = finite_db(scores.psnr_outside)
        out[name] = {
            "objects": (left + right) / 2,
            "both": float(left and right),
            "both_kept": float(left and right and psnr >= KEPT_DB),
            "ms_ssim": scores.ms_ssim,
            "feature_distance": distance,
            "psnr_outside_db": psnr,
            "ssim_outside": scores.ssim_outside,
        }
    return out


def replay(scores: dict[str, Any]) -> tuple[int, int, float]:
    """The pack's coarse-to-fine search over recorded scores.

    Returns:
        The chosen step, the inversion steps of all candidates that it looked at (UNet rows without guidance), and the
        S of the chosen step as a share of the best, both by the normalisation of the exhaustive search.
    """
    from partedit_oir.core.oir.candidates import search_runs
    from partedit_oir.core.oir.metric import combine

    candidates = scores["candidates"]
    known = {n: (e, k) for n, e, k in zip(candidates, scores["S_e"], scores["S_ne"])}
    looked_at = search_runs(candidates, "coarse-to-fine", lambda runs: {run: known[run.step] for run in runs})
    steps = sorted(run.step for run in looked_at)
    chosen = steps[combine(*zip(*(known[n] for n in steps))).best]
    total = combine(scores["S_e"], scores["S_ne"]).total
    best = max(total)
    return chosen, sum(steps), total[candidates.index(chosen)] / best if best > 0 else 1.0


def coarse_to_fine(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Cost and regret of coarse-to-fine search over the recorded pairs."""
    each = [(*replay(entry), sum(entry["candidates"])) for entry in pairs]
    shares = [rows / everything for _, rows, _, everything in each]
    reached = np.array([share for _, _, share, _ in each])
    return {
        "pairs": len(pairs),
        "goals": GOALS,
        "share_of_rows": sum(e[1] for e in each) / sum(e[3] for e in each),
        "share_of_rows_largest": max(shares),
        "share_of_best_S": float(reached.mean()),
        "share_of_best_S_smallest": float(reached.min()),
        "in_share_of_pairs": float((reached >= GOALS["share_of_best_S"]).mean()),
        "same_step_in_share_of_pairs": float(np.mean([e[0] == p["best"] for e, p in zip(each, pairs)])),
    }


def table(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the edits, and which level of each grid is best."""
    means: dict[str, Any] = {
        name: means_of([record["figures"][name] for record in records]) for name in records[0]["figures"]
    }
    best = {
        method: max((f"{method} {n}" for n in GRID), key=lambda name: (means[name]["both"], means[name]["ms_ssim"]))
        for method in GRIDDED
    }
    by_change = {
        what: {name: _of_change(records, name, what) for name in ("oir", "oir_weighted", *best.values())}
        for what in ("colour+colour", "colour+kind", "kind+kind")
    }
    return {"methods": means, "best": best, "both_by_change": by_change}


def _of_change(records: list[dict[str, Any]], name: str, what: str) -> float | None:
    found = [r["figures"][name]["both"] for r in records if "+".join(sorted(c[0] for c in r["edit"])) == what]
    return _mean(found) if found else None


def _mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 4)


def _words(record: dict[str, Any]) -> str:
    return "; ".join(f"{before} -> {after}" for _, before, after in record["edit"])


def contact_sheet(records: list[dict[str, Any]], best: dict[str, str]) -> np.ndarray:
    """Rows of source, OIR and the best of each grid, with their names above; (H, W, 3) uint8."""
    columns = ["source", "oir", "oir_weighted", *best.values()]
    shown = [record["pictures"] for record in records if record["pictures"]]
    head = 18
    sheet = Image.new("RGB", (len(columns) * THUMBNAIL, head + len(shown) * THUMBNAIL), "white")
    draw = ImageDraw.Draw(sheet)
    for x, name in enumerate(columns):
        draw.text((x * THUMBNAIL + 4, 3), name, fill="black")
        for y, pictures in enumerate(shown):
            small = Image.fromarray(pictures[name]).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
            sheet.paste(small, (x * THUMBNAIL, head + y * THUMBNAIL))
    return np.asarray(sheet)


def report(records: list[dict[str, Any]], whole: bool, precision: str) -> None:
    """Write table, contact sheet and recorded scores."""
    scores = [entry for record in records for entry in record["scores"]]
    summary = table(records)
    values = {
        "edits": len(records),
        "steps": STEPS,
        "cfg": CFG,
        "edit_weight": EDIT_WEIGHT,
        "precision": precision,
        "seconds_an_edit": _mean([record["seconds"] for record in records]),
        **summary,
        "coarse_to_fine": coarse_to_fine(scores),
        "chosen_steps": [record["steps"]["oir"] for record in records],
        "failed": [_words(record) for record in records if not record["figures"]["oir"]["both"]],
    }
    name = CURVES if whole else f"{CURVES}.partial"
    write_whole(RESULTS / f"{name}.json", "[\n" + ",\n".join(json.dumps(entry) for entry in scores) + "\n]\n")
    if whole:
        (RESULTS / f"{CURVES}.partial.json").unlink(missing_ok=True)
    write_result("object_edits", values, contact_sheet(records, summary["best"]), whole)


def prepare(precision: str, threads: int) -> None:
    """Load everything once a process."""
    torch.set_num_threads(threads)
    _worker.update(bench=Bench(precision), judge=load_judge())


def run_all(numbers: range, jobs: int, precision: str) -> Iterator[dict[str, Any]]:
    """The edits in order, ``jobs`` at a time, each in a process of its own."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    if jobs == 1:
        prepare(precision, threads)
        yield from map(run_edit, numbers)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), prepare, (precision, threads)) as pool:
        yield from pool.map(run_edit, numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=EDITS, help="number of edits to run")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="edits at a time")
    parser.add_argument("--fp32", action="store_true", help="run the UNet in single precision: slower")
    parser.add_argument("--replay", action="store_true", help="only search figures, from the recorded scores")
    options = parser.parse_args()
    load_pack()
    if options.replay:
        print(json.dumps(coarse_to_fine(json.loads((RESULTS / f"{CURVES}.json").read_text("utf-8"))), indent=1))
        return
    load_judge()
    precision = "fp32" if options.fp32 else "bf16"
    records: list[dict[str, Any]] = []
    for record in run_all(range(min(options.limit, EDITS)), options.jobs, precision):
        records.append(record)
        both = "both" if record["figures"]["oir"]["both"] else "not both"
        print(f"{len(records)}: {_words(record)}: {both}, {record['seconds']:.0f} s", flush=True)
        done = len(records) == options.limit or len(records) == EDITS
        if len(records) % 10 == 0 or done:
            report(records, done and options.limit >= EDITS, precision)


if __name__ == "__main__":
    main()
