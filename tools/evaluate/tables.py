"""The report of an evaluation: rows of means in the papers' shape, beside the papers' figures; JSON and Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from .cases import Case
from .config import DataSet, Plan
from .demo_checks import said
from .networks import Measures
from .scores import COLUMNS, MASKED_CLIP, NO_CLIP, Column, averaged, means, with_kept

PUBLISHED = Path(__file__).with_name("published.json")
ABOUT_MEANS = (
    "Means over the edits; a number in parentheses: over so many, because the others do not have it. An edit that is "
    "equal to its source outside the mask has no finite PSNR; a row that says 'equal' has only such edits."
)


def published() -> dict[str, dict[str, Any]]:
    """The papers' tables."""
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def report(
    plan: Plan,
    cases: dict[tuple[str, str], Case],
    results: dict[tuple[str, str, str], dict[str, Any]],
    checks: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that was measured.

    Args:
        cases: the final cases, with their generated sources, by (data, name).
        results: by (data, case, method): a result of `work.Bench`, ``{"error": …}``, or ``{"lacks": …}``.
        checks: see `demo_checks.measure`.
    """
    config = plan.config
    clip = config.score_scorer is not None or config.model == "demo"
    missing = dict(Measures(config.networks).missing)
    notes = []
    if why := missing.pop("alpha_clip", ""):
        notes.append(MASKED_CLIP.format(why=why) if clip else NO_CLIP)
    notes += missing.values()
    if any(case.judged for data in plan.data for case in data.cases):
        notes.append(_about_judge())
    if clip and config.score_scorer is None:
        notes.insert(0, "CLIP is the demo's own small one, trained on the demo's pictures.")
    return {
        "title": config.title,
        "model": config.model,
        "size": plan.pictures.size,
        "settings": config.settings.model_dump(),
        "columns": {column.key: f"{column.about} ({column.better})" for column in COLUMNS},
        "notes": notes,
        "methods": {str(m.name): {"does": m.does, **m.model_dump(exclude_none=True)} for m in plan.methods},
        "data": [_data(plan, data, cases, results) for data in plan.data],
        "checks": checks or {},
    }


def _about_judge() -> str:
    """How success is seen in generated pictures."""
    from .judge import JudgeError, the_judge

    try:
        the_judge()
    except JudgeError as error:
        return f"Success in generated pictures is not measured: {error}"
    return (
        "Success in generated pictures is the judge's (tools/evaluate/judge.py): a small network, trained on drawn "
        "pictures, that finds the part in the source and reads its colour in the edit."
    )


def _data(
    plan: Plan,
    data: DataSet,
    cases: dict[tuple[str, str], Case],
    results: dict[tuple[str, str, str], dict[str, Any]],
) -> dict[str, Any]:
    rows, edits = [], []
    methods = plan.methods_for(data.name)
    for method in methods:
        each = [results.get((data.name, case.name, str(method.name)), {}) for case in data.cases]
        scored = [with_kept(one["scores"]) for one in each if "scores" in one]
        fits = [case for case, one in zip(data.cases, each) if "lacks" not in one]
        rows.append(
            {
                "method": method.name,
                "told_mask": method.told_mask or getattr(method, "given_mask", False),
                "edits": len(scored),
                "failed": sum("error" in one for one in each),
                "does_not_apply": sum("lacks" in one for one in each),
                "lacks": sorted({one["lacks"] for one in each if "lacks" in one}),
                "scores": means(scored),
                "measured": {c.key: len(averaged(scored, c.key)) for c in COLUMNS},
                "rows_per_edit": fmean(method.rows(case, plan.config.settings) for case in fits) if fits else None,
                "rows_at_most": any(method.at_most(case) for case in fits),
                "seconds_per_edit": _mean([one["seconds"] for one in each if "seconds" in one]),
            }
        )
    for case in data.cases:
        own = {str(m.name): results.get((data.name, case.name, str(m.name)), {}) for m in methods}
        final = cases.get((data.name, case.name), case)
        edits.append(
            {
                "name": case.name,
                "source": case.source,
                "edit": case.edit,
                "pairs": [[pair.before, pair.after] for pair in case.pairs],
                "token": case.token,
                "seed": case.seed,
                "generated": case.generated,
                "picture": final.picture,
                "mask": final.mask,
                "results": {name: _result(one) for name, one in own.items()},
            }
        )
    return {"name": data.name, "reader": data.reader, "compare": data.compare, "rows": rows, "edits": edits}


def _result(one: dict[str, Any]) -> dict[str, Any]:
    names = ("seconds", "texts", "pictures", "error", "lacks")
    kept: dict[str, Any] = {name: one[name] for name in names if name in one}
    return kept | {"scores": with_kept(one["scores"])} if "scores" in one else kept


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None


def table(data: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of one data set's own table, as texts; a column without any value is still there, and empty."""
    compared = _measured_as(data, published().get(data["compare"], {}).get("columns", []))
    shown = [c for c in COLUMNS if c.key in compared or any(row["scores"][c.key] is not None for row in data["rows"])]
    head = ["method", "mask given", "edits", *(f"{c.head} {c.better}" for c in shown), "UNet rows", "s"]
    rows = []
    for row in data["rows"]:
        cells = [_cell(row, column) for column in shown]
        count = str(row["edits"]) + (f" ({row['failed']} failed)" if row["failed"] else "")
        if row["does_not_apply"]:
            count += f" ({row['does_not_apply']}: {'; '.join(row['lacks'])})"
        work = (
            "" if row["rows_per_edit"] is None else f"{'≤ ' if row['rows_at_most'] else ''}{row['rows_per_edit']:.0f}"
        )
        seconds = "" if row["seconds_per_edit"] is None else f"{row['seconds_per_edit']:.1f}"
        rows.append([row["method"], "yes" if row["told_mask"] else "no", count, *cells, work, seconds])
    return head, rows


def _measured_as(data: dict[str, Any], compared: list[str]) -> list[str]:
    """The columns to compare with: masked CLIP's in the place of Alpha-CLIP's where that is missing."""
    return [key if _known(data, key) else key.replace("alpha_", "clip_") for key in compared]


def _known(data: dict[str, Any], key: str) -> bool:
    return any(row["scores"][key] is not None for row in data["rows"])


def _cell(row: dict[str, Any], column: Column) -> str:
    value = row["scores"][column.key]
    if value is None:
        return "–"
    count = row["measured"][column.key]
    return column.shown(value) + (f" ({count})" if count < row["edits"] else "")


def published_table(name: str) -> tuple[str, list[str], list[list[str]]] | None:
    """Title with source, head and rows of a paper's table."""
    found = published().get(name)
    if found is None:
        return None
    columns = {column.key: column for column in COLUMNS}
    keys = found["columns"]
    head = ["method", "mask given"]
    head += [f"{found['heads'].get(key, columns[key].head)} {columns[key].better}" for key in keys]
    rows = [
        [row["method"], "yes" if row["told_mask"] else "no", *(f"{row[key]:g}" for key in keys)]
        for row in found["rows"]
    ]
    return f"Published: {found['title']}. {found['source']}.", head, rows


def markdown(values: dict[str, Any]) -> str:
    """The tables of a report as Markdown."""
    lines = [f"# {values['title']}", "", _setting_line(values), ""]
    for data in values["data"]:
        lines += [f"## {data['name']}", "", *_pipes(*table(data)), ""]
        if (other := published_table(data["compare"])) is not None:
            lines += [other[0], "", *_pipes(other[1], other[2]), ""]
    if values["checks"]:
        lines += ["## The demo's models", "", *(f"- {line}" for line in said(values["checks"])), ""]
    lines += [f"- {note}" for note in values["notes"]]
    lines += [f"- {ABOUT_MEANS}", ""]
    return "\n".join(lines)


def _setting_line(values: dict[str, Any]) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in values["settings"].items() if value != "")
    return f"Model: {values['model']}, {values['size']} × {values['size']} pixels, {settings}."


def _pipes(head: list[str], rows: list[list[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def plan_text(plan: Plan, speed: float | None) -> str:
    """What would run: pictures, UNet rows, and hours at ``speed`` rows per second."""
    from .methods.source import source_rows

    settings = plan.config.settings
    lines, total, edits, bound = [], 0, 0, False
    for data in plan.data:
        made = [case for case in data.cases if case.generated]
        drawn = len(data.cases) - len(made)
        lines.append(f"{data.name}: {len(data.cases)} edits ({drawn} of given pictures, {len(made)} of generated ones)")
        if made:
            rows = len(made) * source_rows(settings)
            total += rows
            lines.append(f"  {'generated sources':40} {len(made):5} pictures  {rows:10,} rows")
        for method in plan.methods_for(data.name):
            fits = [case for case in data.cases if not method.lacks(case)]
            rows = sum(method.rows(case, settings) for case in fits)
            upper = any(method.at_most(case) for case in fits)
            total, edits, bound = total + rows, edits + len(fits), bound or upper
            line = f"  {method.name!s:40} {len(fits):5} pictures  {'≤' if upper else ' '}{rows:9,} rows"
            if len(fits) < len(data.cases):
                why = sorted({method.lacks(case) for case in data.cases if method.lacks(case)})
                line += f"  ({len(data.cases) - len(fits)} left out: {'; '.join(why)})"
            lines.append(line)
    lines.append(f"together: {edits} edits, {'at most ' if bound else ''}{total:,} UNet rows")
    if speed is None:
        lines.append("hours: give --rows-per-second, or rows_per_second in the file")
    else:
        hours = total / speed / 3600
        lines.append(
            f"{hours:.{1 if hours >= 1 else 3}f} hours at {speed:g} rows per second on one server, without the VAE"
        )
    return "\n".join(lines)
