"""The page of an evaluation: its tables, and every edit's pictures side by side."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..decibels import EQUAL
from ..demo_edits.page import STYLE
from .demo_checks import said
from .scores import COLUMNS
from .tables import published_table, table

MORE = """
body { max-width: 1800px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--back); }
td.best { font-weight: 700; }
table.published { color: var(--soft); }
figure { flex: 0 0 200px; min-width: 0; }
figure.missing { border: 1px dashed var(--line); border-radius: 6px; padding: .6rem; }
figcaption b { color: var(--text); display: block; }
figcaption i { font-style: normal; white-space: nowrap; }
details { margin: 1rem 0; }
"""


def page(values: dict[str, Any], folder: Path, files: dict[tuple[str, str, str], Path]) -> str:
    """The whole page.

    Args:
        values: see `tables.report`.
        folder: where the page goes; pictures are named from there.
        files: the edited picture of each (data, case, method).
    """
    parts = [_data(data, folder, files) for data in values["data"]]
    settings = ", ".join(f"{key} {value}" for key, value in values["settings"].items() if value != "")
    about = f"{values['model']}, {values['size']} × {values['size']} pixels, {settings}."
    columns = "".join(f"<li><b>{escape(c.head)} {c.better}</b>: {escape(c.about)}</li>" for c in COLUMNS)
    notes = "".join(f"<p>{escape(note)}</p>" for note in values["notes"])
    methods = "".join(f"<li><b>{escape(name)}</b>: {escape(m['does'])}</li>" for name, m in values["methods"].items())
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(values['title'])}</title>\n<style>{STYLE}{MORE}</style>\n"
        f"<h1>{escape(values['title'])}</h1><p>{escape(about)}</p>{notes}"
        f"<details><summary>Columns and methods</summary><ul>{columns}</ul><ul>{methods}</ul></details>\n"
        + _checks(values["checks"])
        + "\n".join(parts)
        + "\n</html>\n"
    )


def _checks(found: dict[str, Any]) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in said(found))
    return f"<h2>The demo's models</h2><ul>{lines}</ul>\n" if lines else ""


def _data(data: dict[str, Any], folder: Path, files: dict[tuple[str, str, str], Path]) -> str:
    head, rows = table(data)
    text = f"<h2>{escape(data['name'])}</h2>{_table(head, rows, _best(head, rows))}"
    if (other := published_table(data["compare"])) is not None:
        text += f"<p>{escape(other[0])}</p>{_table(other[1], other[2], set(), 'published')}"
    return text + "\n".join(_edit(data["name"], edit, folder, files) for edit in data["edits"])


def _table(head: list[str], rows: list[list[str]], best: set[tuple[int, int]], kind: str = "") -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=best' if (r, c) in best else ''}>{escape(cell)}</td>" for c, cell in enumerate(row))
        + "</tr>"
        for r, row in enumerate(rows)
    )
    return f'<div class="scroll"><table class="{kind}"><tr>{top}</tr>{body}</table></div>'


def _best(head: list[str], rows: list[list[str]]) -> set[tuple[int, int]]:
    """The best cells of each metric among the methods that edit, and that could do as many edits as any of them."""
    found: set[tuple[int, int]] = set()
    done = [int(row[head.index("edits")].split()[0]) for row in rows]
    compared = [r for r, row in enumerate(rows) if row[0] != "unchanged" and done[r] == max(done)]
    for c, name in enumerate(head):
        sign = {"↑": 1, "↓": -1}.get(name[-1])
        if sign is None:
            continue
        values = [(r, sign * float(rows[r][c].split()[0].replace(EQUAL, "inf"))) for r in compared if rows[r][c] != "–"]
        if len(values) > 1:
            found |= {(r, c) for r, value in values if value == max(v for _, v in values)}
    return found


def _edit(data: str, edit: dict[str, Any], folder: Path, files: dict[tuple[str, str, str], Path]) -> str:
    figures = []
    for title, name in (("source", edit["picture"]), ("mask", edit["mask"])):
        if name:
            figures.append(_figure(title, folder / "inputs" / name, folder, ""))
    for method, result in edit["results"].items():
        path = files.get((data, edit["name"], method))
        if path is not None and "scores" in result:
            figures.append(_figure(method, path, folder, _facts(result["scores"])))
        else:
            why = result.get("error") or result.get("lacks") or "not done"
            kind = "error" if "error" in result else ""
            figures.append(
                f'<figure class="missing"><figcaption><b>{escape(method)}</b>'
                f'<span class="{kind}">{escape(why)}</span></figcaption></figure>'
            )
    words = f"<p><code>{escape(edit['source'])}</code> → <code>{escape(edit['edit'])}</code></p>"
    return f'<article><h3>{escape(edit["name"])}</h3>{words}<div class="row">{"".join(figures)}</div></article>'


def _facts(scores: dict[str, float | None]) -> str:
    """The main scores of an edit, as HTML."""
    shown = [c for c in COLUMNS if c.key in ("success", "clip_fg", "psnr", "ssim")]
    known = [(c, value) for c in shown if (value := scores.get(c.key)) is not None]
    return " · ".join(f"<i>{escape(c.head)} {c.shown(value)}</i>" for c, value in known)


def _figure(title: str, path: Path, folder: Path, facts: str) -> str:
    file = quote(path.relative_to(folder).as_posix())
    return (
        f'<figure><a href="{file}"><img loading="lazy" src="{file}" alt="{escape(title)}"></a>'
        f"<figcaption><b>{escape(title)}</b>{facts}</figcaption></figure>"
    )
