"""Which source tokens the tokens of an edit follow in attention (Prompt-to-Prompt, Hertz et al. 2022)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..attention import PromptStep
from ..text import fold, is_punctuation
from .words import TokenizedPrompt, Word, joined, shown

MODES = ("auto", "replace", "refine", "off")


@dataclass(frozen=True)
class FollowSettings:
    """How strongly edits follow the source's attention, named as the inputs of PartEditPrompt are.

    Attributes:
        mode: ``auto`` (by words), ``replace``, ``refine``, or ``off``.
        cross_replace: share of the steps during which words follow the source.
        changed_words: the same for words that the edit changes or inserts; None treats them like the others.
        self_replace: the same for self-attention.
        word_fractions: the same for single words or phrases of the edit prompt; overrides ``cross_replace`` and
            ``changed_words``.
        word_weights: factor on the attention of single words or phrases (re-weighting).

    Raises:
        ValueError: an unknown mode, a fraction outside 0 … 1, or a weight that is no number.
    """

    mode: str = "auto"
    cross_replace: float = 1.0
    changed_words: float | None = 0.4
    self_replace: float = 0.0
    word_fractions: Mapping[str, float] | None = None
    word_weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"prompt_to_prompt: {self.mode!r} is not one of {', '.join(MODES)}.")
        if self.mode == "off":
            return
        for name in ("cross_replace", "changed_words", "self_replace"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name}: a fraction of the steps lies between 0 and 1, got {value}.")
        for phrase, value in (self.word_fractions or {}).items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(
                    f"word_fractions: a fraction of the steps lies between 0 and 1, got {phrase}={value:g}. Write for "
                    f"example {phrase}=0.4."
                )
        for phrase, value in (self.word_weights or {}).items():
            if not math.isfinite(value):
                raise ValueError(f"word_weights: the weight of {phrase!r} is {value}. Give a number such as 2 or 0.5.")


@dataclass(frozen=True)
class Thread:
    """A word of an edit, and what it follows.

    Attributes:
        text: the word; ``glued``: there is no space before it.
        share: share of the steps during which it follows the source.
        weight: factor of its attention.
        sources: numbers of the source's words that it follows; empty for an inserted word.
    """

    text: str
    glued: bool
    share: float
    weight: float
    sources: tuple[int, ...]


@dataclass(frozen=True)
class Alignment:
    """How an edit prompt's attention follows the source prompt's; see `PromptStep` for the formula.

    Attributes:
        mapper: M, (source length, edit length).
        keep: (edit length,) 1 at inserted tokens.
        weights: (edit length,) factor of each token's attention.
        cross_replace: (edit length,) share of the steps during which a position follows the source.
        self_replace: share of the steps during which self-attention follows the source.
        text: the alignment in words.
        source_words: the words of the source, with whether there is no space before each.
        threads: the words of the edit.
    """

    mapper: torch.Tensor
    keep: torch.Tensor
    weights: torch.Tensor
    cross_replace: torch.Tensor
    self_replace: float
    text: str
    source_words: tuple[tuple[str, bool], ...] = ()
    threads: tuple[Thread, ...] = ()

    def step(self, index: int, steps: int, columns: tuple[int, int]) -> PromptStep:
        """The prompt-to-prompt of one step: a fraction f holds for steps 0 … int(f·(steps + 1)) − 1."""
        gate = ((self.cross_replace * (steps + 1)).to(torch.int64) > index).float()
        return PromptStep(columns, self.mapper.shape[0], self.mapper, self.keep, self.weights, gate)

    def replaces_self(self, index: int, steps: int) -> bool:
        return index < int(self.self_replace * steps)


# --- maps from source positions to edit positions ------------------------------------------------------


def replace_map(source: TokenizedPrompt, edit: TokenizedPrompt) -> torch.Tensor:
    """M of ``replace``: word by word, for prompts of equal word count.

    Walks both token rows from the start: identity up to a changed word; a changed word's tokens pair one to one when
    their numbers agree, otherwise every source token gives 1/(number of target tokens) to each target token; after the
    last changed word, the identity on the target position.

    Raises:
        ValueError: the word counts differ.
    """
    if len(source.words) != len(edit.words):
        raise ValueError(
            f"prompt_to_prompt: 'replace' needs as many words in the edit as in the source, but {edit.text!r} has "
            f"{len(edit.words)} and {source.text!r} has {len(source.words)}. Use 'auto' or 'refine', which allow "
            "insertions."
        )
    changed = [(s, e) for s, e in zip(source.words, edit.words) if s.text != e.text]
    mapper = torch.zeros(source.length, edit.length)
    i = j = 0
    while i < source.length and j < edit.length:
        if changed and changed[0][0].positions[0] == i:
            old, new = changed.pop(0)
            _pair(mapper, old.positions, new.positions)
            i = old.positions[-1] + 1
            j = new.positions[-1] + 1
        else:
            if changed:
                mapper[i, j] = 1.0
            elif j < source.length:
                mapper[j, j] = 1.0
            i += 1
            j += 1
    return mapper


def _pair(mapper: torch.Tensor, old: Sequence[int], new: Sequence[int]) -> None:
    if len(old) == len(new):
        for i, j in zip(old, new):
            mapper[i, j] = 1.0
    else:
        for i in old:
            for j in new:
                mapper[i, j] = 1.0 / len(new)


def refine_map(source: TokenizedPrompt, edit: TokenizedPrompt) -> tuple[torch.Tensor, torch.Tensor]:
    """M and keep of ``refine``: global alignment of the token rows (gap 0, match 1, mismatch −1; Needleman-Wunsch).

    Ties prefer an insertion, then a deletion. Positions after the edit prompt map to themselves.
    """
    a, b = source.ids[: source.used], edit.ids[: edit.used]
    score = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    move = [[""] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) + 1):
        for j in range(len(b) + 1):
            if i == 0 or j == 0:
                move[i][j] = "insert" if j else "delete"
                continue
            insert, delete = score[i][j - 1], score[i - 1][j]
            match = score[i - 1][j - 1] + (1 if a[i - 1] == b[j - 1] else -1)
            score[i][j] = best = max(insert, delete, match)
            move[i][j] = "insert" if best == insert else "delete" if best == delete else "match"
    mapper = torch.zeros(source.length, edit.length)
    keep = torch.zeros(edit.length)
    i, j = len(a), len(b)
    while i > 0 or j > 0:
        step = move[i][j]
        if step == "insert":
            j -= 1
            keep[j] = 1.0
        elif step == "delete":
            i -= 1
        else:
            i, j = i - 1, j - 1
            mapper[i, j] = 1.0
    _identity_tail(mapper, keep, edit.used)
    return mapper, keep


def _identity_tail(mapper: torch.Tensor, keep: torch.Tensor, start: int) -> None:
    for j in range(start, mapper.shape[1]):
        if j < mapper.shape[0]:
            mapper[j, j] = 1.0
        else:
            keep[j] = 1.0  # longer than the source: nothing to follow there


def auto_map(
    source: TokenizedPrompt, edit: TokenizedPrompt
) -> tuple[torch.Tensor, torch.Tensor, list[tuple[str, str]]]:
    """M, keep and the changes of ``auto``: words are matched, so phrases, insertions and deletions all work.

    A replacement takes over the attention of the phrase it replaces, as in ``replace``; an insertion keeps its own, as
    in ``refine``.

    Returns:
        (mapper, keep, changes) with changes as (old phrase or "", new phrase or "").
    """
    mapper = torch.zeros(source.length, edit.length)
    keep = torch.zeros(edit.length)
    changes: list[tuple[str, str]] = []
    taken = set()
    for kind, i0, i1, j0, j1 in _opcodes(source, edit):
        old, new = source.units[i0:i1], edit.units[j0:j1]
        if kind != "equal":
            changes.append((shown(old), shown(new)))
        groups = zip(old, new) if len(old) == len(new) else [(old, new)]
        for one, other in groups:
            before = [p for w in (one if isinstance(one, tuple) else (one,)) for p in w.positions]
            after = [p for w in (other if isinstance(other, tuple) else (other,)) for p in w.positions]
            taken.update(after)
            if before:
                _pair(mapper, before, after)
            else:
                keep[after] = 1.0
    # Start, end and padding follow their counterparts, counted from the end token, so that padding positions agree.
    content = {p for word in source.units for p in word.positions}
    shift = source.used - edit.used
    for j in range(edit.length):
        if j in taken:
            continue
        i = j if j < edit.used - 1 else min(j + shift, source.length - 1)
        if i < source.length and i not in content:
            mapper[i, j] = 1.0
        else:
            keep[j] = 1.0
    return mapper, keep, changes


_STANDARD = FollowSettings()


# --- the whole alignment -------------------------------------------------------------------------------


def align(
    source: TokenizedPrompt,
    edit: TokenizedPrompt,
    follow: FollowSettings = _STANDARD,
) -> Alignment | None:
    """Align an edit prompt with the source.

    Returns:
        None when nothing would follow the source.

    Raises:
        ValueError: a word that the edit prompt does not have, or a mode that does not fit the prompts.
    """
    if follow.mode == "off":
        return None
    auto_mapper, auto_keep, changes = auto_map(source, edit)
    if follow.mode == "replace":
        mapper, keep = replace_map(source, edit), torch.zeros(edit.length)
        keep[source.length :] = 1.0  # longer than the source: nothing to follow there
    elif follow.mode == "refine":
        mapper, keep = refine_map(source, edit)
    else:
        mapper, keep = auto_mapper, auto_keep

    cross_replace = torch.full((edit.length,), float(follow.cross_replace), dtype=torch.float64)
    if follow.changed_words is not None:
        for position in _changed_positions(source, edit):
            cross_replace[position] = follow.changed_words
    for phrase, value in (follow.word_fractions or {}).items():
        cross_replace[list(_found(edit, phrase, "word_fractions"))] = value
    weights = torch.ones(edit.length)
    for phrase, value in (follow.word_weights or {}).items():
        weights[list(_found(edit, phrase, "word_weights"))] = value
    text = describe(source, edit, changes, cross_replace, weights, follow.self_replace)
    threads = _threads(source, edit, mapper, cross_replace, weights)
    words = tuple((word.text, word.glued) for word in source.units)
    return Alignment(mapper, keep, weights, cross_replace, follow.self_replace, text, words, threads)


def _threads(
    source: TokenizedPrompt,
    edit: TokenizedPrompt,
    mapper: torch.Tensor,
    cross_replace: torch.Tensor,
    weights: torch.Tensor,
) -> tuple[Thread, ...]:
    threads = []
    for word in edit.units:
        columns, first = mapper[:, list(word.positions)], word.positions[0]
        sources = (n for n, one in enumerate(source.units) if bool((columns[list(one.positions)] > 0).any()))
        threads.append(
            Thread(word.text, word.glued, float(cross_replace[first]), float(weights[first]), tuple(sources))
        )
    return tuple(threads)


def _changed_positions(source: TokenizedPrompt, edit: TokenizedPrompt) -> list[int]:
    changed = [edit.units[j0:j1] for kind, _, _, j0, j1 in _opcodes(source, edit) if kind != "equal"]
    return [p for words in changed for word in words for p in word.positions]


def _opcodes(source: TokenizedPrompt, edit: TokenizedPrompt) -> Sequence[tuple[str, int, int, int, int]]:
    """The changes from source to edit units, as difflib opcodes."""
    old, new = ([fold(word.text) for word in prompt.units] for prompt in (source, edit))
    return difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()


def _found(edit: TokenizedPrompt, phrase: str, name: str) -> tuple[int, ...]:
    positions = edit.find(phrase)
    if not positions:
        raise ValueError(
            f"{name}: {phrase!r} does not occur in the edit prompt {edit.text!r}. Its words are: "
            f"{', '.join(w.text for w in edit.words)}."
        )
    return positions


def describe(
    source: TokenizedPrompt,
    edit: TokenizedPrompt,
    changes: Sequence[tuple[str, str]],
    cross_replace: torch.Tensor,
    weights: torch.Tensor,
    self_replace: float,
) -> str:
    """The alignment as a few lines of text."""
    lines = [f"source: {source.text}", f"edit:   {edit.text}"]
    known, own = ({fold(w.text) for w in prompt.units if not is_punctuation(w.text)} for prompt in (source, edit))
    if not known & own:
        lines.append("  no word in common: nothing could be aligned, so the whole prompt counts as changed")
    for old, new in changes:
        lines.append(f"  {old} -> {new}" if old and new else f"  + {new}" if new else f"  - {old}")
    if not changes:
        lines.append("  (no word changes)")
    levels: dict[float, list[Word]] = {}
    for word in edit.units:
        levels.setdefault(float(cross_replace[word.positions[0]]), []).append(word)
    for level, words in sorted(levels.items(), reverse=True):
        lines.append(f"  follow the source for {level:.0%} of the steps: {joined(words)[0]}")
    weighted = [
        f"{w.text} x{float(weights[w.positions[0]]):g}" for w in edit.units if float(weights[w.positions[0]]) != 1.0
    ]
    if weighted:
        lines.append(f"  attention weights: {', '.join(weighted)}")
    if self_replace:
        lines.append(f"  self-attention follows the source for {self_replace:.0%} of the steps")
    return "\n".join(lines)
