"""What two-object success takes on the demo: the candidates, the choice among them, the scorer, or the reassembly.

    python run.py bench object_limits [--limit 4]

On the edits of ``bench.object_edits``: for both objects, a third of the candidates of the exhaustive search, each
judged by `is_edited` and by how well it keeps what is outside its object. So the choice can be told from what there was
to choose:

- ``any``: some candidate shows the object as asked; ``any_kept``: one that also keeps 20 dB outside its mask.
- ``S, weight w``: the candidate that the search takes at this ``edit_weight``.
- ``guided prompt``: the same at weight 1, with S_e read against the guided prompt (the paper's section 3.2).
- ``judge's S_e``: a scorer without a fault: S_e is 1 where the judge sees the object as asked, else 0.
- ``best S_e of 20 dB``: the highest S_e among candidates that keep 20 dB, instead of a sum of two scaled scores.
- ``fixed n``: one step for all.

Then the whole edit, reassembled from the steps of some of these rules, with the published 20 % and without
re-inversion, merged early (half-way), or not reassembled (each object pasted from its own candidate). A stopped run
continues.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from demo.training.common import prepare_cpu
from tools.bootstrap import load_pack
from tools.decibels import EQUAL_DB
from tools.evaluate.judge import judge, load_judge

from . import results
from .object_cases import EDITS, edit_case, is_edited, object_mask
from .object_methods import CFG, STEPS, Bench
from .scores import mean_of, psnr

NAME = "object_limits"
CANDIDATES = tuple(range(1, STEPS + 1, 3))
WEIGHTS = (1.0, 2.0, 3.0, 5.0)
KEPT_DB = 20.0
# Reassembled edits: the rule that chooses the steps, and (reassembly, re-inversion) levels.
WHOLE: dict[str, tuple[str, tuple[float, float] | None]] = {
    "OIR": ("S, weight 1", (0.2, 0.2)),
    "OIR, weight 3": ("S, weight 3", (0.2, 0.2)),
    "OIR, weight 3, no re-inversion": ("S, weight 3", (0.2, 0.0)),
    "OIR, weight 3, merged early": ("S, weight 3", (0.5, 0.2)),
    "OIR, weight 3, not reassembled": ("S, weight 3", None),
    "OIR, judge's S_e": ("judge's S_e", (0.2, 0.2)),
    "OIR, best S_e of 20 dB": ("best S_e of 20 dB", (0.2, 0.2)),
    "fixed 25": ("fixed 25", (0.2, 0.2)),
}


def rules() -> dict[str, Callable[[dict[str, Any]], int]]:
    """{name: position of the candidate that it takes} of a pair's record."""
    from partedit_oir.core.oir.metric import combine

    def best(edit: Sequence[float], keep: Sequence[float], weight: float = 1.0) -> int:
        return combine(edit, keep, edit_weight=weight).best

    def kept(pair: dict[str, Any]) -> int:
        good = [k for k, db in enumerate(pair["kept_db"]) if db >= KEPT_DB]
        if not good:
            return int(np.argmax(pair["kept_db"]))
        return max(good, key=lambda k: pair["S_e"][k])

    found: dict[str, Callable[[dict[str, Any]], int]] = {
        f"S, weight {w:g}": lambda pair, w=w: best(pair["S_e"], pair["S_ne"], w)  # type: ignore[misc]
        for w in WEIGHTS
    }
    found["guided prompt"] = lambda pair: best(pair["S_e_guided"], pair["S_ne"])
    found["judge's S_e"] = lambda pair: best([float(one) for one in pair["edited"]], pair["S_ne"])
    found["best S_e of 20 dB"] = kept
    found |= {f"fixed {n}": lambda pair, k=k: k for k, n in enumerate(CANDIDATES)}  # type: ignore[misc]
    return found


def run_edit(bench: Bench, model: Any, number: int) -> dict[str, Any]:
    """All candidates of both objects and the reassembled edits."""
    from demo.training.pictures import draw_scene
    from partedit_oir.core.decoding import picture_decoder
    from partedit_oir.core.oir.search import search_steps
    from partedit_oir.core.oir.search_settings import SearchSettings

    edit, begin = edit_case(number), time.perf_counter()
    picture = draw_scene(edit.scene)
    trajectory, pairs = bench.start(edit, picture)
    seen: list[dict[int, torch.Tensor]] = [{}, {}]

    def keep(position: int, run: Any, image: torch.Tensor) -> None:
        seen[position][run.step] = image.detach().cpu()

    records: list[dict[str, Any]] = []
    masks = [object_mask(picture, position) for position in (0, 1)]
    settings = SearchSettings(cfg=CFG, strategy="exhaustive", batch_size=len(CANDIDATES), stride=3)
    search = search_steps(
        bench.model, trajectory, pairs, picture_decoder(bench.studio.vae), bench.scorer, settings, on_candidate=keep
    )
    source = torch.tensor(picture.image) / 255
    for position, (entry, change) in enumerate(zip(search.pairs, edit.changes)):
        images = [seen[position][n] for n in entry.candidates]
        verdicts = judge(model, torch.stack(images))
        mask = torch.from_numpy(masks[position]).float()
        text = edit.source.replace(change.before, change.after, 1)
        records.append(
            {
                "change": [change.what, change.before, change.after],
                "candidates": list(entry.candidates),
                "S_e": list(entry.metric.edit),
                "S_ne": list(entry.metric.keep),
                "S_e_guided": [bench.scorer.score(one, text, mask) for one in images],
                "edited": [is_edited(verdict, masks[position], change) for verdict in verdicts],
                "kept_db": [_decibels(source, one, masks[position]) for one in images],
            }
        )
    whole = {}
    for name, (rule, levels) in WHOLE.items():
        places = [rules()[rule](record) for record in records]
        steps = [record["candidates"][place] for record, place in zip(records, places)]
        if levels is None:
            image = source
            for position, step in enumerate(steps):
                inside = torch.from_numpy(masks[position])[..., None]
                image = torch.where(inside, seen[position][step], image)
        else:
            image = bench.studio.decode(_reassembled(bench, trajectory, pairs, steps, levels))[0]
        (verdict,) = judge(model, image[None])
        good = [is_edited(verdict, mask, change) for mask, change in zip(masks, edit.changes)]
        outside = _decibels(source, image, masks[0] | masks[1])
        whole[name] = {"steps": steps, "edited": good, "kept_db": outside}
    return {"number": number, "pairs": records, "whole": whole, "seconds": round(time.perf_counter() - begin, 1)}


def _reassembled(
    bench: Bench, trajectory: Any, pairs: Sequence[Any], steps: Sequence[int], levels: tuple[float, float]
) -> torch.Tensor:
    from partedit_oir.core.oir.prompts import target_prompt
    from partedit_oir.core.oir.reassembly import ReassemblySettings, reassemble
    from partedit_oir.core.oir.types import StepSearch

    search = StepSearch.fixed(pairs, steps, steps=STEPS, cfg=CFG)
    settings = ReassemblySettings(cfg=CFG, reassembly=levels[0], reinversion=levels[1])
    return reassemble(bench.model, trajectory, search, bench.studio.text(target_prompt(pairs)), settings).latent


def _decibels(source: torch.Tensor, image: torch.Tensor, mask: np.ndarray) -> float:
    outside = torch.from_numpy(~mask)
    return round(psnr(source[outside], image[outside]), 2)


def summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares over the objects, over those whose colour or kind changes, and over the whole edits."""
    pairs = [pair for record in records for pair in record["pairs"]]
    table: dict[str, Any] = {}
    for what in ("all", "colour", "kind"):
        own = [pair for pair in pairs if what in ("all", pair["change"][0])]
        if not own:
            continue
        table[what] = {
            "objects": len(own),
            "any": _share([any(pair["edited"]) for pair in own]),
            "any_kept": _share(
                [any(e and db >= KEPT_DB for e, db in zip(pair["edited"], pair["kept_db"])) for pair in own]
            ),
        }
        for name, rule in rules().items():
            places = [rule(pair) for pair in own]
            table[what][name] = {
                "edited": _share([pair["edited"][k] for pair, k in zip(own, places)]),
                "edited_and_kept": _share(
                    [pair["edited"][k] and pair["kept_db"][k] >= KEPT_DB for pair, k in zip(own, places)]
                ),
                "mean_step": round(float(np.mean([pair["candidates"][k] for pair, k in zip(own, places)])), 1),
            }
    whole = {
        name: {
            "both": _share([all(record["whole"][name]["edited"]) for record in records]),
            "both_kept": _share(
                [
                    all(record["whole"][name]["edited"]) and record["whole"][name]["kept_db"] >= KEPT_DB
                    for record in records
                ]
            ),
            "objects": _share([one for record in records for one in record["whole"][name]["edited"]]),
            **mean_of("kept_db", [record["whole"][name]["kept_db"] for record in records], 1),
        }
        for name in WHOLE
    }
    return {"objects": table, "reassembled": whole}


def _share(values: Sequence[bool]) -> float:
    return round(float(np.mean([float(value) for value in values])), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=EDITS, help="number of edits to run")
    limit = min(parser.parse_args().limit, EDITS)
    prepare_cpu()
    load_pack()
    model, bench = load_judge(), Bench("fp32")
    partial = results.RESULTS / f"{NAME}.partial.json"
    records: list[dict[str, Any]] = []
    if partial.is_file():
        left = json.loads(partial.read_text(encoding="utf-8"))
        records = left.get("records", []) if left.get("equal_db") == EQUAL_DB else []
    for number in range(len(records), limit):
        records.append(run_edit(bench, model, number))
        print(f"{number + 1} of {limit}: {records[-1]['seconds']:.0f} s", flush=True)
        values = {"edits": len(records), "candidates": CANDIDATES, **summary(records)}
        values |= {"equal_db": EQUAL_DB, "records": records}
        results.write_result(NAME, values, whole=len(records) == EDITS)


if __name__ == "__main__":
    main()
