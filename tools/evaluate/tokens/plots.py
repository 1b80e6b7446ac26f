"""Plots of the token laboratory, by matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Told apart by colour-blind eyes too (Okabe and Ito).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
GREY = "#9a9aa2"


def _layers(axes: Any, found: dict[str, Any]) -> None:
    names = list(found["layers"])
    places = np.arange(len(names))
    best = set(found["best_eight"])
    alone = [found["layers"][name]["alone"]["adaptive"] for name in names]
    read = [found["layers"][name]["read"]["adaptive"] for name in names]
    colours = [COLOURS[0] if name in best else GREY for name in names]
    axes.bar(places, alone, color=colours, label="trained and read there alone (blue: the best)")
    axes.plot(places, read, "o", color=COLOURS[1], label="the token of the chosen layers, read there")
    axes.set_xticks(places, names, rotation=90)
    axes.set_xlabel("cross-attention layer, in the order in which they run")


def _noise(axes: Any, found: dict[str, Any]) -> None:
    for colour, (name, each) in zip(COLOURS, found["iou"].items()):
        low, high = found["stretches"][name]
        axes.plot(
            found["levels"], [one["adaptive"] for one in each], "o-", color=colour, label=f"trained on {name} noise"
        )
        axes.axvspan(low, high, color=colour, alpha=0.12, lw=0)
    axes.set_xlim(1, 0)
    axes.set_xlabel("noise at which the token is read, from 1 (first step) to 0 (clean); shaded: where it was trained")


def _pictures(axes: Any, found: dict[str, Any]) -> None:
    counts = found["counts"]
    each = [[one["adaptive"] for one in found["draws"][str(count)]] for count in counts]
    middle, spread = [float(np.mean(v)) for v in each], [float(np.std(v)) for v in each]
    places = np.arange(len(counts))
    axes.errorbar(places, middle, spread, fmt="o-", color=COLOURS[0], capsize=4, label="mean, ± standard deviation")
    for place, values in zip(places, each):
        axes.plot([place] * len(values), values, ".", color=GREY)
    axes.set_xticks(places, [str(count) for count in counts])
    axes.set_xlabel("training pictures")


def _folds(axes: Any, found: dict[str, Any]) -> None:
    values = [one["adaptive"] for one in found["folds"]]
    places = np.arange(len(values))
    axes.bar(places, values, color=COLOURS[0])
    axes.axhline(found["mean"], color=COLOURS[1], ls="--", label=f"{found['mean']:.3f} ± {found['std']:.3f}")
    axes.set_xticks(places, [f"fold {k + 1}" for k in places])


def _paddings(axes: Any, found: dict[str, Any]) -> None:
    names = list(found["paddings"])
    places = np.arange(len(names))
    read = [found["paddings"][name]["read"]["adaptive"] for name in names]
    axes.bar(places, read, color=COLOURS[0], label="one token, read over this padding")
    own = [(k, one["trained"]["adaptive"]) for k, one in enumerate(found["paddings"].values()) if "trained" in one]
    if own:
        axes.plot(*zip(*own), "D", color=COLOURS[1], label="trained and read over it")
    axes.set_xticks(places, names)


def _omega(axes: Any, found: dict[str, Any]) -> None:
    omegas = [float(name) for name in found["adaptive"]]
    axes.plot(omegas, list(found["adaptive"].values()), "o-", color=COLOURS[0], label="adaptive")
    axes.axhline(found["otsu"], color=COLOURS[1], ls="--", label=f"Otsu {found['otsu']:.3f}")
    axes.set_xlabel("ω")


def _bars(axes: Any, values: dict[str, float]) -> None:
    places = np.arange(len(values))
    axes.bar(places, list(values.values()), color=COLOURS[0])
    for place, value in zip(places, values.values()):
        axes.annotate(f"{value:.2f}", (place, value), ha="center", va="bottom")
    axes.set_xticks(places, list(values))


def _word(axes: Any, found: dict[str, Any]) -> None:
    _bars(axes, {name: one["adaptive"] for name, one in found.items()})


def _sam(axes: Any, found: dict[str, Any]) -> None:
    heads = {f"SAM, reading {k + 1}": value for k, value in enumerate(found["readings"])}
    more = {"SAM, rated best": found["rated best"], "SAM, best of three": found["best of three"]}
    _bars(axes, {**heads, **more, "token": found["token"]["adaptive"]})


DRAW: dict[str, tuple[str, Callable[[Any, dict[str, Any]], None]]] = {
    "layers": ("Every layer alone (as Fig. 15)", _layers),
    "noise": ("Noise in training and in use (as Fig. 4)", _noise),
    "pictures": ("Number of training pictures (as Fig. 12)", _pictures),
    "folds": ("Cross-validation (as App. J)", _folds),
    "paddings": ("Padding of the context (as Fig. 14)", _paddings),
    "omega": ("Threshold (as Fig. 13)", _omega),
    "word": ("The word's own attention", _word),
    "sam": ("SAM with one point (as Fig. 23)", _sam),
}


def draw(name: str, found: dict[str, Any], path: Path) -> None:
    """Write a study's plot as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ...host.layout import whole_file

    title, work = DRAW[name]
    wide = max(9.0, 0.16 * len(found["layers"])) if name == "layers" else 9.0
    figure = Figure(figsize=(wide, 4.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=title, ylabel="mean IoU on held-out pictures", ylim=(0, 1))
    axes.grid(axis="y", alpha=0.35)
    axes.set_axisbelow(True)
    work(axes, found)
    if axes.get_legend_handles_labels()[1]:
        figure.legend(frameon=False, loc="outside lower center", ncols=3)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png")
