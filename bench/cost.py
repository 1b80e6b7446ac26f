"""What the methods cost beyond the UNet rows that they cannot avoid, as ratios of runs side by side.

    python run.py bench cost [--clock cpu] [--rounds 5] [--only edit,search] [--device cuda]

On a CPU the demo checkpoint at 256² to 512²; on a GPU an SDXL UNet of full size with drawn weights in half precision
at up to 1024² (`--width 320 --side 128`), to which the sections ``real``, ``search`` and ``decode`` do not apply. Every
figure is the median of ratios: in each round both runs follow each other, and the order alternates. ``--clock cpu``
counts this process's CPU time on one thread, which other load on the machine changes little; ``wall`` is for a quiet
machine and for GPUs. Sections:

- ``edit``: a part edit (source and one edit, with a token read at every step) against plain sampling of the same four
  rows (two prompts, each with and without text), with prompt-to-prompt as by default and without; over sizes, steps and
  images in the batch.
- ``edits``: N edits of one source in one run against N runs.
- ``six_rows``: plain sampling of six rows and forty maps resized to 1024² a step, as in the published scheme.
- ``maps``: thresholds at 1024² against thresholds at the latent's size.
- ``real``: an edit of a real image, DDIM inversion included, and with maps from the source row, which needs none.
- ``search``: each search strategy against trying every candidate, on one pair of each group of ``bench.object_search``:
  UNet rows and time, over the number of steps.
- ``training``: a training step on cached queries against one UNet pass, which a step without the cache needs at least.
- ``decode``: decoding a picture, against one UNet row.
- ``memory``: peak memory of an edit against that of its rows.
- ``start``: seconds until the pack is imported, after ComfyUI has been.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from tools.bootstrap import boot_host, load_pack

from .cost_subjects import Clock, Subject, Work, demo_subject, drawn_subject
from .peak_memory import REPOSITORY, Peak
from .results import write_result

NAME = "cost"
# A usual number of steps for edits, whose ratio is what the bench is about; four for what takes longer.
EDIT_STEPS = 16
SEARCH_STEPS, TRAINING_STEPS = (10, 25, 50), 20
PUBLISHED_ROWS, PUBLISHED_MAPS, PUBLISHED_SIDE = 6, 40, 1024


@dataclass(frozen=True)
class Bench:
    """What every section gets; ``sides`` are of latents, the last one is the main one."""

    subject: Subject
    studio: Any
    clock: Clock
    rounds: int
    sides: Sequence[int]

    def compare(self, name: str, x: float | str, work: Work, base: Work) -> dict[str, Any]:
        """One figure of a section: ``name`` is the curve it belongs to, ``x`` its position."""
        found = {"name": name, "x": x, **self.clock.ratio(work, base, self.rounds)}
        print(f"{name} {x}: {found['ratio']}", flush=True)
        return found


def edit(bench: Bench) -> list[dict[str, Any]]:
    def against_rows(name: str, x: float, one: Subject, follow: bool = True) -> dict[str, Any]:
        prompt = one.edits(1, follow)
        return bench.compare(name, x, lambda: one.edit(prompt), lambda: one.rows(2))

    base, found = bench.subject.at(steps=EDIT_STEPS), []
    for side in bench.sides:
        found.append(against_rows("size", side * 8, base.at(side=side)))
        found.append(against_rows("size, without prompt-to-prompt", side * 8, base.at(side=side), follow=False))
    small = base.at(side=bench.sides[0])
    found += [against_rows("steps", steps, small.at(steps=steps)) for steps in (4, 8, 16, 32)]
    found += [against_rows("images in the batch", batch, small.at(batch=batch)) for batch in (1, 2, 4)]
    return found


def edits(bench: Bench) -> list[dict[str, Any]]:
    one = bench.subject.at(side=bench.sides[0])
    single = one.edits(1)

    def separately(count: int) -> None:
        for _ in range(count):
            one.edit(single)

    return [
        bench.compare("edits", count, partial(one.edit, one.edits(count)), partial(separately, count))
        for count in (1, 2, 4, 8)
    ]


def six_rows(bench: Bench) -> list[dict[str, Any]]:
    import torch.nn.functional as F

    one = bench.subject.at(side=bench.sides[-1])
    prompt = one.edits(1)
    grid = torch.rand(PUBLISHED_MAPS, 1, one.side // 2, one.side // 2, device=bench.clock.device)
    size = (PUBLISHED_SIDE, PUBLISHED_SIDE)

    def published() -> None:
        one.rows(PUBLISHED_ROWS // 2)
        for _ in range(one.steps):
            F.interpolate(grid, size=size, mode="bilinear").mean(dim=0)

    return [bench.compare("six rows and forty maps", one.side * 8, published, lambda: one.edit(prompt))]


def maps(bench: Bench) -> list[dict[str, Any]]:
    one = bench.subject.at(side=bench.sides[-1])
    prompt = one.edits(1)
    return [
        bench.compare(
            "maps of 1024", one.side * 8, lambda: one.edit(prompt, map_size="published"), lambda: one.edit(prompt)
        )
    ]


def real(bench: Bench) -> list[dict[str, Any]]:
    from partedit_oir.core.inversion.invert import invert
    from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas

    one = bench.subject.at(side=bench.sides[0], steps=8)
    image = one.rows(1)
    sigmas = spaced_sigmas(model_sampling_of(one.model), one.steps)

    def inverted(method: str) -> Any:
        return invert(one.model, image, one.prompt.source, sigmas=sigmas, method=method)

    def whole(method: str) -> None:
        one.edit(one.edits(1), inverted(method))

    return [
        bench.compare(f"real image, {method}", one.side * 8, partial(whole, method), lambda: one.edit(one.edits(1)))
        for method in ("ddim_next_timestep", "edit_friendly_ddpm", "ledits_pp")
    ]


def search(bench: Bench) -> list[dict[str, Any]]:
    from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas

    from .object_methods import Bench as ObjectBench

    objects, found = ObjectBench("fp32"), []
    for steps in SEARCH_STEPS:
        objects.sigmas = spaced_sigmas(model_sampling_of(objects.model), steps)
        # Fifty steps take a minute a round, and long runs differ less.
        rounds = max(min(3, bench.rounds), bench.rounds * SEARCH_STEPS[0] // steps)
        for number, group in enumerate(("chosen", "unseen")):
            rows: dict[str, int] = {}
            works = searches(objects, number, rows)
            for strategy, ratio in bench.clock.ratios(works, "exhaustive", rounds).items():
                share = round(rows[strategy] / rows["exhaustive"], 4)
                found.append({"name": f"search, {strategy}, {group}", "x": steps, **ratio, "share_of_rows": share})
                print(f"{found[-1]['name']} {steps}: {ratio['ratio']}", flush=True)
    return found


def searches(objects: Any, number: int, rows: dict[str, int]) -> dict[str, Work]:
    """Each strategy on the first pair of edit ``number``; the rows it takes are written to ``rows``."""
    from demo.training.pictures import draw_scene
    from partedit_oir.core.decoding import picture_decoder
    from partedit_oir.core.oir.candidates import STRATEGIES
    from partedit_oir.core.oir.search import search_steps
    from partedit_oir.core.oir.search_settings import SearchSettings

    from .object_cases import edit_case

    case = edit_case(number)
    trajectory, pairs = objects.start(case, draw_scene(case.scene))
    decode = picture_decoder(objects.studio.vae)

    def run(strategy: str) -> None:
        settings = SearchSettings(strategy=strategy)
        found = search_steps(objects.model, trajectory, pairs[:1], decode, objects.scorer, settings)
        rows[strategy] = found.unet_rows

    return {strategy: partial(run, strategy) for strategy in STRATEGIES}


def training(bench: Bench) -> list[dict[str, Any]]:
    from partedit_oir.core.partedit.layers import choose_layers
    from partedit_oir.core.training.query_cache import build_query_cache, noise_levels
    from partedit_oir.core.training.settings import TrainingSettings
    from partedit_oir.core.training.training import train_on_cache
    from partedit_oir.core.unet import all_cross_layers

    one = bench.subject.at(side=bench.sides[0], steps=1)
    settings = TrainingSettings(steps=TRAINING_STEPS, evaluate_every=TRAINING_STEPS)
    layers = choose_layers(all_cross_layers(one.model), settings.layers)
    sigmas = noise_levels(one.model, settings.noise_low, settings.noise_high, 1)
    latents = torch.randn((2, 4, one.side, one.side), generator=torch.Generator().manual_seed(1))
    cache = build_query_cache(one.model, latents, one.prompt.source, layers, sigmas)
    masks = torch.zeros(2, 1, one.side * 8, one.side * 8)
    masks[..., : one.side * 4] = 1

    def steps() -> None:
        train_on_cache(cache, masks, settings, device=one.model.load_device)

    def passes() -> None:
        build_query_cache(one.model, latents, one.prompt.source, layers, sigmas)

    found = bench.compare(f"{TRAINING_STEPS} training steps, against two passes", one.side * 8, steps, passes)
    return [{**found, "a_step_in_passes": round(found["ratio"] * 2 / TRAINING_STEPS, 4)}]


def decode(bench: Bench) -> list[dict[str, Any]]:
    from partedit_oir.demo.loader import load_demo_scorer

    one = bench.subject.at(side=bench.sides[0], steps=4)
    image, scorer = one.rows(1), load_demo_scorer()
    picture = bench.studio.decode(image)[0]
    mask = torch.zeros(picture.shape[:2])
    mask[64:192, 64:192] = 1

    def in_rows(name: str, work: Work) -> dict[str, Any]:
        found = bench.compare(f"{name}, against eight rows", one.side * 8, work, lambda: one.rows(1))
        return {**found, "in_rows": round(found["ratio"] * 8, 2)}

    return [
        in_rows("decoding", lambda: bench.studio.decode(image)),
        in_rows("scoring", lambda: scorer.score(picture, "a blue cat", mask=mask, mode="masked")),
    ]


def memory(bench: Bench) -> list[dict[str, Any]]:
    found = []
    for side in bench.sides:
        one, kind = bench.subject.at(side=side, steps=2), bench.clock.device.type
        prompt = one.edits(1)
        peaks = {}
        for name, work in (("rows", lambda o=one: o.rows(2)), ("edit", lambda o=one, p=prompt: o.edit(p))):
            work()
            with Peak(kind) as peak:
                work()
            peaks[name] = peak.bytes
        ratio = round(peaks["edit"] / max(peaks["rows"], 1), 3)
        found.append(
            {"name": "memory", "x": side * 8, "ratio": ratio, "bytes": peaks["edit"], "bytes_rows": peaks["rows"]}
        )
        print(f"memory {side * 8}: {ratio}", flush=True)
    return found


def start(bench: Bench) -> list[dict[str, Any]]:
    script = (
        "import time; from tools.bootstrap import boot_host, load_pack; boot_host(); "
        "import comfy.sd, comfy.samplers, comfy_api.latest; start = time.process_time(); load_pack(); "
        "print('start', time.process_time() - start)"
    )
    seconds = []
    for _ in range(max(3, bench.rounds)):
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
        )
        seconds.append(float(done.stdout.split("start ")[-1]))
    print(f"start: {median(seconds):.3f} s", flush=True)
    return [{"name": "start", "x": "import", "seconds": round(median(seconds), 3)}]


SECTIONS: dict[str, Callable[[Bench], list[dict[str, Any]]]] = {
    "edit": edit,
    "edits": edits,
    "six_rows": six_rows,
    "maps": maps,
    "real": real,
    "search": search,
    "training": training,
    "decode": decode,
    "memory": memory,
    "start": start,
}
WITH_DEMO = ("real", "search", "decode")


def plot(figures: dict[str, list[dict[str, Any]]]) -> np.ndarray:
    """(H, W, 3) uint8: how the cost of an edit grows with size, steps, batch and number of edits, its memory with size,
    and the cost of a search with its steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from .charts import COLOURS

    rows = "time / time of the rows alone"
    panels: dict[str, tuple[str, Sequence[str]]] = {
        "size of the image": (rows, ("size", "size, without prompt-to-prompt")),
        "steps": (rows, ("steps",)),
        "images in the batch": (rows, ("images in the batch",)),
        "edits in one run": ("time / time of as many runs", ("edits",)),
        "size of the image, memory": ("memory / memory of the rows alone", ("memory",)),
        "inversion steps of a search": (
            "time / time of an exhaustive one",
            [
                f"search, {name}, {group}"
                for name in ("coarse-to-fine", "short-to-full")
                for group in ("chosen", "unseen")
            ],
        ),
    }
    points = [one for section in figures.values() for one in section]
    figure = Figure(figsize=(16, 7.5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (title, (label, names)) in zip(figure.subplots(2, 3).flat, panels.items(), strict=True):
        for name, colour in zip(names, COLOURS[4:], strict=False):
            line = [one for one in points if one["name"] == name]
            if not line:
                continue
            places, middle = [one["x"] for one in line], np.array([one["ratio"] for one in line])
            low, high = ([one.get(key, one["ratio"]) for one in line] for key in ("lowest", "highest"))
            axes.errorbar(
                places, middle, [middle - low, high - middle], marker="o", capsize=4, color=colour, label=name
            )
            axes.set_xticks(places, [str(place) for place in places])
        axes.set(title=title, ylabel=label)
        axes.axhline(1.0, color="#787878", ls="--", lw=1)
        axes.grid(axis="y", alpha=0.4)
        if axes.get_legend_handles_labels()[0] and len(names) > 1:
            axes.legend(framealpha=0.9, edgecolor="none")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def measure(bench: Bench, sections: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """The figures of these sections."""
    return {name: SECTIONS[name](bench) for name in sections}


def demo_bench(clock: str, rounds: int, sides: Sequence[int]) -> Bench:
    """The bench on the demo checkpoint and the CPU."""
    subject, studio = demo_subject()
    return Bench(subject, studio, Clock(clock, torch.device("cpu")), rounds, sides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs per figure")
    parser.add_argument("--only", default="", help=f"sections, by comma: {', '.join(SECTIONS)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--width", type=int, default=320, help="with cuda: channels of the first level; SDXL has 320")
    parser.add_argument("--side", type=int, default=128, help="with cuda: side of the latents; 128 for 1024 pixels")
    args = parser.parse_args()
    chosen = [name.strip() for name in args.only.split(",") if name.strip()] or list(SECTIONS)
    if wrong := set(chosen) - set(SECTIONS):
        parser.error(f"--only: {', '.join(sorted(wrong))} is not one of {', '.join(SECTIONS)}")
    cpu = args.device == "cpu"
    boot_host(cpu=cpu)
    if args.clock == "cpu":
        torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    load_pack()
    if cpu:
        bench = demo_bench(args.clock, args.rounds, (32, 48, 64))
    else:
        chosen = [name for name in chosen if name not in WITH_DEMO]
        subject = drawn_subject(args.width, args.side, args.device)
        sides = (args.side // 2, args.side * 3 // 4, args.side)
        bench = Bench(subject, None, Clock("wall", torch.device("cuda")), args.rounds, sides)
    figures = measure(bench, chosen)
    device = "CPU" if cpu else torch.cuda.get_device_name()
    settings = {"device": device, "threads": torch.get_num_threads(), "clock": args.clock, "rounds": args.rounds}
    name = NAME if cpu else f"{NAME}_gpu"
    write_result(name, {"settings": settings, **figures}, plot(figures), whole=not args.only)


if __name__ == "__main__":
    main()
