"""What a step search costs and misses: ``short-to-full`` and ``coarse-to-fine`` against an exhaustive search.

    python run.py bench object_search [--steps 25] [--limit 10]
    python run.py bench object_search --replay        the table again, from the recorded scores

The edits of ``bench.object_edits`` and as many more, one pair after the other, with 10, 25 and 50 inversion steps. Of
every pair all candidates are run in full once and scored; with 25 steps those of ``object_edits_scores.json`` count.
Then both strategies search: a candidate run in full has the recorded scores, a short run is really made and scored.
Rows are counted in UNet steps (twice as many rows with guidance, in every strategy alike). ``share_of_best_S`` compares
the S of the chosen candidate with the best one, both normalised over all candidates.

The constants of ``short-to-full`` were chosen on pairs of edits with even numbers (``chosen``); those with odd numbers
(``unseen``) were first searched when they stood, but for the last two constants: see bench/results/notes.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tools.bootstrap import load_pack
from tools.host.layout import write_whole

from .object_cases import EDITS, edit_case
from .results import RESULTS, write_result

SCORES = RESULTS / "object_search_scores.json"
FULL_25 = RESULTS / "object_edits_scores.json"
# How many pairs a row of the table has at most is a matter of time: 50 steps cost 1275 guided rows a pair.
PAIRS = {10: 240, 25: 120, 50: 60}
GOALS = {10: 0.25, 25: 0.18, 50: 0.12}
NEARLY = 0.98
STRATEGIES = ("short-to-full", "coarse-to-fine")
ROWS = 8


def pair_numbers(steps: int) -> Iterator[tuple[int, int]]:
    """Edit and pair, unseen and chosen in turn."""
    for number in range(2 * EDITS):
        for pair in (0, 1):
            if steps != 50 or pair == number // 2 % 2:
                yield number, pair


def key(record: dict[str, Any]) -> tuple[int, int, int]:
    """Steps, edit and pair."""
    return record["steps"], record["edit"], record["pair"]


class NotRecorded(Exception):
    """A search asked for a short run that nobody made."""


def nobody(runs: list[Any]) -> dict[Any, tuple[float, float]]:
    """Make no run."""
    raise NotRecorded(f"{runs}: not recorded; run the benchmark without --replay.")


Make = Callable[[list[Any]], dict[Any, tuple[float, float]]]


def search(record: dict[str, Any], strategy: str, make: Make = nobody) -> dict[str, Any]:
    """Search a recorded pair; ``make`` makes and scores short runs that are not recorded yet.

    Returns:
        chosen step; rows, the UNet steps of all runs; full and short, the number of either; share, of the best S.
    """
    from partedit_oir.core.oir.candidates import compare, search_runs
    from partedit_oir.core.oir.metric import combine
    from partedit_oir.core.oir.short_runs import Run

    full = dict(enumerate(zip(record["S_e"], record["S_ne"], strict=True), start=1))
    short = {Run(n, length): (edit, keep) for n, length, edit, keep in record["short"]}

    def evaluate(runs: list[Run]) -> dict[Run, tuple[float, float]]:
        missing = [run for run in runs if not run.full and run not in short]
        if missing:
            short.update(make(missing))
            record["short"] = [[run.step, run.length, *scores] for run, scores in sorted(short.items())]
        return {run: full[run.step] if run.full else short[run] for run in runs}

    candidates = sorted(full)
    seen = search_runs(candidates, strategy, evaluate)
    found = compare(candidates, seen)
    total = combine(record["S_e"], record["S_ne"]).total
    return {
        "chosen": found.chosen,
        "rows": sum(run.length for run in seen),
        "full": len(found.steps),
        "short": len(seen) - len(found.steps),
        "share": total[found.chosen - 1] / max(total) if max(total) > 0 else 1.0,
        "same": total[found.chosen - 1] == max(total),
    }


class Maker:
    """Makes and scores runs of one pair on the demo checkpoint."""

    def __init__(self, steps: int) -> None:
        from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas

        from .object_methods import Bench

        self.bench = Bench("fp32")
        self.bench.sigmas = spaced_sigmas(model_sampling_of(self.bench.model), steps)
        self.number = -1

    def make(self, number: int, place: int, runs: list[Any]) -> dict[Any, tuple[float, float]]:
        """Raw S_e and S_ne of runs of pair ``place`` of edit ``number``."""
        from demo.training.defaults import CFG
        from demo.training.pictures import draw_scene
        from partedit_oir.core.oir.making import make_runs
        from partedit_oir.core.oir.masks import resize_mask
        from partedit_oir.core.oir.metric import keep_score

        if number != self.number:  # its inversion serves both pairs
            edit = edit_case(number)
            self.number, (self.trajectory, self.pairs) = number, self.bench.start(edit, draw_scene(edit.scene))
        pair = self.pairs[place]
        made, _, _ = make_runs(self.bench.model, self.trajectory, pair, runs, cfg=CFG, batch_size=ROWS)
        source = self.bench.studio.decode(self.trajectory.latent_image)[0]
        height, width = source.shape[:2]
        mask = resize_mask(pair.mask, height, width, "mask")
        scores = {}
        for run in runs:
            picture = self.bench.studio.decode(made[run])[0]
            fit = float(self.bench.scorer.score(picture, pair.target_phrase, mask=mask, mode="masked"))
            scores[run] = round(fit, 6), round(keep_score(picture, source, mask), 9)
        return scores


def record_pair(maker: Maker, steps: int, number: int, pair: int) -> dict[str, Any]:
    """A pair with the scores of all candidates."""
    from partedit_oir.core.oir.short_runs import full_run

    record: dict[str, Any] = {"steps": steps, "edit": number, "pair": pair, "short": []}
    if steps == 25 and number < EDITS:
        known = json.loads(FULL_25.read_text("utf-8"))[2 * number + pair]
        return record | {"S_e": known["S_e"], "S_ne": known["S_ne"]}
    scores = maker.make(number, pair, [full_run(n) for n in range(1, steps + 1)])
    return record | {
        "S_e": [scores[full_run(n)][0] for n in range(1, steps + 1)],
        "S_ne": [scores[full_run(n)][1] for n in range(1, steps + 1)],
    }


def table(records: list[dict[str, Any]]) -> dict[str, Any]:
    """{steps: {group: {strategy: figures}}} of the recorded pairs."""
    out: dict[str, Any] = {}
    for steps in sorted({record["steps"] for record in records}):
        of_steps = [record for record in records if record["steps"] == steps]
        out[str(steps)] = {"goal_share_of_rows": GOALS[steps]}
        for group, odd in (("chosen", 0), ("unseen", 1)):
            some = [record for record in of_steps if record["edit"] % 2 == odd]
            if some:
                out[str(steps)][group] = {strategy: figures(some, strategy) for strategy in STRATEGIES}
    return out


def figures(records: list[dict[str, Any]], strategy: str) -> dict[str, float]:
    """Means over the pairs."""
    found = [search(record, strategy) for record in records]
    everything = sum(range(1, records[0]["steps"] + 1))
    shares = np.array([one["share"] for one in found])
    rows = np.array([one["rows"] for one in found]) / everything
    return {
        "pairs": len(found),
        "share_of_rows": round(float(rows.mean()), 4),
        "share_of_rows_largest": round(float(rows.max()), 4),
        "share_of_best_S": round(float(shares.mean()), 4),
        "share_of_best_S_5th_percentile": round(float(np.percentile(shares, 5)), 4),
        "nearly_best_in_share_of_pairs": round(float((shares >= NEARLY).mean()), 4),
        "same_step_in_share_of_pairs": round(float(np.mean([one["same"] for one in found])), 4),
        "full_runs": round(float(np.mean([one["full"] for one in found])), 2),
        "short_runs": round(float(np.mean([one["short"] for one in found])), 2),
    }


def plot(records: list[dict[str, Any]]) -> np.ndarray:
    """Share of the best S against share of rows, every pair a point; (H, W, 3) uint8."""
    counts = sorted({record["steps"] for record in records})
    figure = Figure(figsize=(4.6 * len(counts), 4.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for place, steps in enumerate(counts, start=1):
        axis = figure.add_subplot(1, len(counts), place)
        for strategy, colour in zip(STRATEGIES, ("#0072b2", "#d55e00")):
            for group, odd, face in (("chosen", 0, "none"), ("unseen", 1, colour)):
                some = [record for record in records if record["steps"] == steps and record["edit"] % 2 == odd]
                found = [search(record, strategy) for record in some]
                x = [one["rows"] / sum(range(1, steps + 1)) for one in found]
                y = [one["share"] for one in found]
                label = f"{strategy}, {group} ({len(some)})"
                axis.scatter(x, y, s=16, edgecolors=colour, facecolors=face, linewidths=0.8, label=label)
        axis.axhline(NEARLY, color="grey", linestyle=":", linewidth=1)
        axis.axvline(GOALS[steps], color="grey", linestyle=":", linewidth=1)
        axis.set(xlim=(0, 0.65), title=f"{steps} steps", xlabel="share of all rows", ylabel="share of the best S")
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)  # it would hide points
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def load() -> list[dict[str, Any]]:
    """The recorded pairs."""
    return json.loads(SCORES.read_text("utf-8")) if SCORES.exists() else []


def searched(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those whose short runs are all recorded; an interrupted benchmark may leave others."""

    def whole(record: dict[str, Any]) -> bool:
        try:
            search(record, STRATEGIES[0])
        except NotRecorded:
            return False
        return True

    return [record for record in records if whole(record)]


def save(records: list[dict[str, Any]]) -> None:
    """Write the recorded pairs, one a line."""
    ordered = sorted(records, key=key)
    write_whole(SCORES, "[\n" + ",\n".join(json.dumps(record) for record in ordered) + "\n]\n")


def report(records: list[dict[str, Any]]) -> None:
    """Write table and plot."""
    records = searched(records)
    write_result("object_search", table(records), plot(records))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, choices=sorted(PAIRS), action="append", help="only with so many steps")
    parser.add_argument("--limit", type=int, help="number of pairs for each number of steps")
    parser.add_argument("--replay", action="store_true", help="only the table, from the recorded scores")
    options = parser.parse_args()
    load_pack()
    torch.set_num_threads(1)
    records = load()
    for steps in () if options.replay else options.steps or sorted(PAIRS):
        maker = Maker(steps)
        known = {key(record): record for record in records}
        for number, pair in list(pair_numbers(steps))[: options.limit or PAIRS[steps]]:
            record = known.get((steps, number, pair))
            if record is None:
                record = record_pair(maker, steps, number, pair)
                records.append(record)

            found = search(record, "short-to-full", partial(maker.make, number, pair))
            save(records)
            print(f"{steps} steps, edit {number}, pair {pair}: {json.dumps(found)}", flush=True)
    report(records)


if __name__ == "__main__":
    main()
