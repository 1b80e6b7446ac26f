"""What a line of PartEdit Prompt's ``edit`` says: the edit prompt that is encoded, and the parts it applies to.

A line is the whole edit prompt, or ``man -> robot``: the source prompt with these words replaced. ``<head>`` anywhere
in it picks a part of the token and is taken out. The paper writes "A closeup of a man with a robotic <head>" (PartEdit,
Sec. 3.3); its interface takes "with <edit> <part-name>" alone (App. P), which is added to the source prompt.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from ..text import find_words, fold, is_letter, is_unspaced

# Also what editors make of '->' while one types, and what Chinese and Japanese input methods write.
_ARROWS = "(?:->|→|⟶|[-－][＞》])"
_ARROW = re.compile(rf"(?<![-<－＜\\]){_ARROWS}(?![>＞])")
_ESCAPED_ARROW = re.compile(rf"\\(?={_ARROWS})")
_NO_ARROW = re.compile(r"(?<![-<=])(?:=>|⇒)(?!>)")
_BRACKETS = re.compile(r"(\\?)[<＜]([^<>＜＞\r\n]{1,100})[>＞]")
# Chinese and Japanese titles stand in these, so they stay text; an input method may have made them of '<' and '>'.
_TITLE_BRACKETS = re.compile(r"《([^《》\r\n]{1,100})》|〈([^〈〉\r\n]{1,100})〉")
_TAG = re.compile(r"<\s*(?:lora|lyco|lycoris|locon|hypernet)\s*:[^<>]*>", re.IGNORECASE)
# Inside a part's name, besides letters and digits.
_NAME_SIGNS = " _-'’.&/"
# What a replacement leaves alone in a prompt: names of embeddings, and the numbers of weights.
_PROTECTED = re.compile(r"embedding:[^\s,<\[()\\:]+|:\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*(?=\))")


@dataclass(frozen=True)
class EditLine:
    """A line of edits, read.

    Attributes:
        text: the edit prompt, for the text encoder.
        parts: names in angle brackets, as written; empty if there are none.
        notes: remarks for the user.
        replaced: of ``man -> robot``, the words on either side; empty for other lines.
    """

    text: str
    parts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


def read_edit_line(line: str, source: str) -> EditLine:
    """Read one line; one without ``->`` and without a name in angle brackets is the edit prompt as it stands.

    ``→`` and the full-width forms of arrow and brackets count as well; ``=>`` and ``《head》`` are text, with a remark.
    A backslash keeps them as text: ``\\->``, ``\\<head>``. Angle brackets around anything but a name (``<3``,
    ``a < b > c``, ``x<y>z``, ``<lora:…>``) are text, too.

    Args:
        line: not empty.
        source: the source prompt.

    Raises:
        ValueError: a replacement of words that the source prompt does not have, one without words on either side, or
            several in a line; or nothing but names of parts.
    """
    line = line.strip()
    text, parts = _take_parts(line)
    notes = tuple(
        f"note: {tag} is encoded as text and loads nothing; ComfyUI takes LoRAs from Load LoRA"
        for tag in dict.fromkeys(_TAG.findall(line))
    )
    if found := _NO_ARROW.search(line):
        notes += (f"note: {found.group()} is encoded as text; a replacement is written 'man -> robot'",)
    for title in _TITLE_BRACKETS.finditer(line):
        name = title[1] or title[2]
        if _is_name(name):
            notes += (f"note: {title.group()} is encoded as text; a part of the token is written <{name}>",)
    arrows = list(_ARROW.finditer(text))
    if len(arrows) > 1:
        raise ValueError(
            f"edit: {line!r} has {len(arrows)} '{arrows[-1].group()}', but a line has one replacement and gives one "
            f"image. Put each into a line of its own, or write the whole edit prompt. {_as_text(arrows[0].group())}"
        )
    if arrows:
        old, new = (
            _ESCAPED_ARROW.sub("", side).strip() for side in (text[: arrows[0].start()], text[arrows[0].end() :])
        )
        return EditLine(_replaced(line, source, old, arrows[0].group(), new), parts, notes, (old, new))
    text = _ESCAPED_ARROW.sub("", text).strip()
    if not text:
        raise ValueError(f"edit: {line!r} names a part but no edit. Write what to turn it into: 'man -> robot {line}'.")
    if parts and fold(text.split()[0]) == "with":
        text = f"{source.rstrip().rstrip('.,;。，；')} {text}".strip()
    return EditLine(text, parts, notes)


def _take_parts(line: str) -> tuple[str, tuple[str, ...]]:
    """A line without the names in angle brackets, and these names."""
    kept, parts, at = "", list[str](), 0
    for match in _BRACKETS.finditer(line):
        escape, name = match.groups()
        start = match.start() + len(escape)
        if not _is_name(name) or (not escape and _inside_word(line, start, match.end())):
            continue
        kept += line[at : match.start()]
        if escape:
            kept += line[start : match.end()]
        else:
            parts.append(name)
            rest = line[match.end() :]
            bare = kept.rstrip()
            at_start = not bare or bare.endswith("(")
            # The space before the name goes with it, unless words would grow together.
            apart = " " if bare != kept and not at_start and rest and is_letter(rest[0]) else ""
            kept = bare + apart
            at = match.end() + (len(rest) - len(rest.lstrip()) if at_start else 0)
            continue
        at = match.end()
    return kept + line[at:], tuple(dict.fromkeys(parts))


def _is_name(text: str) -> bool:
    first, last = text[0], text[-1]
    marks = all(is_letter(sign) or sign in _NAME_SIGNS for sign in text)
    return marks and first.isalpha() and (is_letter(last) or unicodedata.category(last)[0] == "M")


def _inside_word(line: str, start: int, end: int) -> bool:
    """Whether letters or digits touch the brackets on both sides, as in ``x<y>z`` (not in scripts without spaces)."""
    around = (line[start - 1 : start], line[end : end + 1])
    return all(sign and is_letter(sign) and not is_unspaced(sign) for sign in around)


def _as_text(arrow: str) -> str:
    return rf"For '{arrow}' as text, write '\{arrow}'."


def _replaced(line: str, source: str, old: str, arrow: str, new: str) -> str:
    """The source prompt with every occurrence of ``old`` replaced."""
    for side, words, where in (
        (old, "words of the source prompt to replace", "before"),
        (new, "words to put there", "after"),
    ):
        if not side:
            raise ValueError(
                f"edit: {line!r} has nothing {where} '{arrow}'. Write the {words}: 'man -> robot'. {_as_text(arrow)}"
            )
    kept = [match.span() for match in _PROTECTED.finditer(source)]
    spans = [
        (start, end)
        for start, end in find_words(source, old)
        if not any(start < last and first < end and not (start <= first and last <= end) for first, last in kept)
    ]
    if not spans:
        raise ValueError(
            f"edit: {line!r} replaces {old!r}, which does not occur in the source prompt {source!r}. Use words of it, "
            f"as they stand there. {_as_text(arrow)}"
        )
    for start, end in reversed(spans):
        source = source[:start] + new + source[end:]
    return source.strip()
