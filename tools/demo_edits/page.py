"""The demo's page: every picture large, with what was asked for and the workflow that made it."""

from __future__ import annotations

from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --back: #f6f6f4; --card: #fff; --text: #1c1c1e; --soft: #66666c; --line: #dddde0; }
@media (prefers-color-scheme: dark) {
  :root { --back: #17171a; --card: #222226; --text: #ececee; --soft: #a2a2aa; --line: #36363c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1500px; padding: 2rem 1.5rem 4rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; } h2 { margin: 3rem 0 0; } h3 { margin: 0 0 .2rem; font-size: 1.05rem; }
p { margin: .3rem 0 1rem; max-width: 75ch; color: var(--soft); }
article { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1.1rem;
  margin: 1rem 0; }
.row { display: flex; flex-wrap: wrap; gap: .9rem; }
figure { margin: 0; flex: 0 1 384px; min-width: 200px; }
figure.wide { flex: 1 1 100%; }
figure.wide img { width: auto; max-width: 100%; }
img { display: block; width: 100%; height: auto; border-radius: 6px; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .25rem; }
.facts { font-size: .9rem; margin: .8rem 0 0; }
.error { color: #d03030; white-space: pre-wrap; }
code { font-size: .92em; }
"""


def page(sections: list[dict[str, Any]], about: str) -> str:
    """The whole page.

    Args:
        sections: ``title``, ``text`` and ``entries``; an entry is one of the report, with ``pictures``
            (``file``, ``title``, ``wide``).
        about: one line on what ran and where.
    """
    parts = [f"<h2>{escape(one['title'])}</h2><p>{escape(one['text'])}</p>" + _entries(one) for one in sections]
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>PartEdit + OIR: demo</title>\n<style>{STYLE}</style>\n"
        f"<h1>PartEdit + OIR</h1><p>{escape(about)} Click a picture to see it alone. Drop it, or its workflow, on "
        "ComfyUI's editor to open the graph that made it.</p>\n" + "\n".join(parts) + "\n</html>\n"
    )


def _entries(section: dict[str, Any]) -> str:
    return "\n".join(_entry(one) for one in section["entries"])


def _entry(entry: dict[str, Any]) -> str:
    words = "".join(f"<p><code>{escape(line)}</code></p>" for line in entry.get("words", []))
    head = f"<article><h3>{escape(entry['title'])}</h3>{words}"
    if "error" in entry:
        return f'{head}<p class="error">{escape(entry["error"])}</p></article>'
    pictures = "".join(_figure(one) for one in entry["pictures"])
    facts = [f"{entry['seconds']:g} s", f'<a href="{escape(entry["workflow"])}" download>workflow</a>']
    if entry.get("psnr_outside_db") is not None:
        facts.append(f"outside the mask: {entry['psnr_outside_db']:g} dB PSNR to the source")
    return f'{head}<div class="row">{pictures}</div><p class="facts">{" · ".join(facts)}</p></article>'


def _figure(picture: dict[str, Any]) -> str:
    file, title = escape(picture["file"]), escape(picture["title"])
    kind = ' class="wide"' if picture.get("wide") else ""
    return (
        f'<figure{kind}><a href="{file}"><img src="{file}" alt="{title}"></a><figcaption>{title}</figcaption></figure>'
    )
