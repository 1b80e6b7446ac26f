"""Settings of golden cases: one that is not known is an error, and PartEdit's are checked and completed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SCHEDULERS = ("ddim", "euler")
# The published names, and the product's.
THRESHOLDS = {"PARTEDIT": "adaptive", "BINARY_OTSU": "otsu", "BINARY_0_5": "fixed"}
PADDINGS = {"BG": "background", "SOT_E": "background", "EOS": "end_of_text", "ZERO": "zero"}
EDIT_TYPES = ("replace", "refine", "reweight")
DEFAULTS = {"name": "", "omega": 1.5, "threshold": "PARTEDIT", "padding": "BG", "parts": 1, "p2p": None}
NEEDED = ("seed", "scheduler", "steps", "cfg", "edit_steps", "source_prompt", "edit_prompt")
P2P_DEFAULTS = {"n_self_replace": 0.0, "n_cross_replace": 0.0, "equalizer_words": (), "equalizer_strengths": ()}
OIR_SETTINGS = (
    "name", "seed", "inversion_steps", "cfg", "source_prompt", "target_prompt", "phrases", "guided_prompts", "boxes",
    "steps", "reassembly", "reinversion",
)  # fmt: skip
# 77 rows of context hold so many pairs of background and part.
MOST_PARTS = 38


def checked(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a case with defaults filled in.

    Raises:
        ValueError: a setting that is not known, missing, or has a value that cannot be.
    """
    _known("setting", settings, (*NEEDED, *DEFAULTS))
    if missing := [name for name in NEEDED if name not in settings]:
        raise ValueError(f"settings: {', '.join(missing)} not given.")
    full = {**DEFAULTS, **settings}
    for name, low, high in (
        ("seed", 0, None), ("steps", 1, 999), ("edit_steps", 0, None), ("parts", 1, MOST_PARTS),
    ):  # fmt: skip
        _whole(name, full[name], low, high)
    for name in ("cfg", "omega"):
        _number(name, full[name])
    for name, choices in (("scheduler", SCHEDULERS), ("threshold", THRESHOLDS), ("padding", PADDINGS)):
        _choice(name, full[name], choices)
    for name in ("source_prompt", "edit_prompt"):
        if not isinstance(full[name], str):
            raise ValueError(f"{name}: expected a text, got {full[name]!r}.")
    full["p2p"] = _checked_p2p(full["p2p"]) if full["p2p"] else None
    return full


def check_oir(settings: dict[str, Any]) -> None:
    """Raise a ValueError for settings of an OIR case that are not known or not given."""
    _known("setting", settings, OIR_SETTINGS)
    if missing := [name for name in OIR_SETTINGS[1:] if name not in settings]:
        raise ValueError(f"settings: {', '.join(missing)} not given.")


def _checked_p2p(p2p: Any) -> dict[str, Any]:
    if not isinstance(p2p, dict):
        raise ValueError(f"p2p: expected settings or null, got {p2p!r}.")
    _known("p2p setting", p2p, ("edit_type", *P2P_DEFAULTS))
    full = {**P2P_DEFAULTS, **p2p}
    _choice("p2p.edit_type", full.get("edit_type"), EDIT_TYPES)
    _number("p2p.n_self_replace", full["n_self_replace"], 0, 1)
    cross = full["n_cross_replace"]
    for word, value in (cross if isinstance(cross, dict) else {"": cross}).items():
        _number(f"p2p.n_cross_replace {word}".strip(), value, 0, 1)
    words, strengths = full["equalizer_words"], full["equalizer_strengths"]
    if isinstance(words, str) or isinstance(strengths, (int, float)) or len(words) != len(strengths):
        raise ValueError(f"p2p.equalizer_words: expected as many words as strengths, got {words!r} and {strengths!r}.")
    for word, value in zip(words, strengths):
        _number(f"p2p.equalizer_strengths {word}", value)
    if bool(words) != (full["edit_type"] == "reweight"):
        raise ValueError("p2p.equalizer_words: required for edit_type 'reweight', and only allowed there.")
    return full


def _known(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    if unknown := [name for name in given if name not in tuple(known)]:
        raise ValueError(f"{', '.join(unknown)}: unknown {kind}; known are {', '.join(known)}.")


def _choice(name: str, value: Any, choices: Iterable[str]) -> None:
    if value not in tuple(choices):
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(choices)}.")


def _whole(name: str, value: Any, low: int, high: int | None) -> None:
    _number(name, value, low, high)
    if int(value) != value:
        raise ValueError(f"{name}: expected a whole number, got {value!r}.")


def _number(name: str, value: Any, low: float | None = None, high: float | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise ValueError(f"{name}: expected a number, got {value!r}.")
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{name}: {value!r} is outside {low} to {'any' if high is None else high}.")
