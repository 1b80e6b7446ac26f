"""EDIT_PROMPT: a source prompt, its edits, and how their attention follows the source."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch

from ..attention import EditStep, PromptStep
from ..conditioning import Conditioning
from ..encoding import encode, warned_once
from ..picture_rows import option_rows
from ..text import fold
from .alignment import Alignment, FollowSettings, align
from .edit_lines import EditLine, read_edit_line
from .words import TokenizedPrompt, tokenize_prompt, with_phrases

_OFF = "prompt-to-prompt is off: fractions and weights of words have no effect"


@dataclass(frozen=True)
class PartPrompt:
    """A prompt for some parts of an image.

    Attributes:
        text: the prompt.
        conditioning: ComfyUI CONDITIONING; entry tensors (1 or B, L, D).
        alignment: prompt-to-prompt, or None.
        parts: names of the parts it applies to; empty for all parts of the token.
        notes: remarks for the user.
    """

    text: str
    conditioning: Conditioning
    alignment: Alignment | None = None
    parts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def alignment_text(self) -> str:
        """The alignment, the parts and the notes as a few lines of text."""
        lines = [self.alignment.text if self.alignment is not None else f"edit:   {self.text}\n  {_OFF}"]
        lines += [f"  part: {', '.join(self.parts)}"] if self.parts else []
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


@dataclass(frozen=True)
class Edit:
    """One edited image. Several prompts can share it by parts ("a robotic head" and "a wooden torso").

    Attributes:
        prompts: one, or one for each set of parts.
        blended: False samples without blending, as with a mask of ones; for comparison.
    """

    prompts: tuple[PartPrompt, ...]
    blended: bool = True

    @property
    def text(self) -> str:
        return " | ".join(p.text for p in self.prompts)


@dataclass(frozen=True)
class EditPrompt:
    """The value of an EDIT_PROMPT socket.

    Attributes:
        source_text: prompt of the source image.
        source: its CONDITIONING, entry tensors (1 or B, L, D).
        edits: N ≥ 1 edits of that source, each its own image.
    """

    source_text: str
    source: Conditioning
    edits: tuple[Edit, ...]

    def __post_init__(self) -> None:
        if not self.edits:
            raise ValueError("edit_prompt: has no edit. Write one into the edit input of PartEdit Prompt.")

    @property
    def alignment_text(self) -> str:
        return "\n\n".join(p.alignment_text for edit in self.edits for p in edit.prompts)

    @property
    def threads(self) -> list[dict[str, Any]]:
        """The alignment as plain data, for the editor: one entry per prompt; without words where nothing follows."""
        return [
            {
                "text": prompt.text,
                "parts": list(prompt.parts),
                "source": [] if prompt.alignment is None else [list(word) for word in prompt.alignment.source_words],
                "words": [] if prompt.alignment is None else [asdict(one) for one in prompt.alignment.threads],
            }
            for edit in self.edits
            for prompt in edit.prompts
        ]

    def subset(self, first: int, last: int) -> EditPrompt:
        """The edits first … last − 1 of the same source."""
        return replace(self, edits=self.edits[first:last])

    def with_same_picture(self, prompts: Sequence[PartPrompt]) -> EditPrompt:
        """Add prompts to the image of the last edit."""
        last = replace(self.edits[-1], prompts=(*self.edits[-1].prompts, *prompts))
        names = [name for prompt in last.prompts for name in (prompt.parts or ("",))]
        if "" in names or len(set(names)) != len(names):
            raise ValueError(
                "part: prompts that share an image need one part each, named in their part input, and no part twice; "
                f"got {', '.join(repr(n) for n in names)}."
            )
        return replace(self, edits=(*self.edits[:-1], last))

    def with_new_pictures(self, edits: Sequence[Edit]) -> EditPrompt:
        """Add edits of the same source, each with its own image."""
        return replace(self, edits=(*self.edits, *edits))


def prompt_reader(clip: Any) -> Callable[[str], TokenizedPrompt]:
    """Words and token positions of prompts in a CLIP object's text conditioning; each text is tokenised once."""

    @cache
    def tokenize(string: str) -> list[list[tuple]]:
        sections = clip.tokenize(string, return_word_ids=True)
        # All encoders of a CLIP object are concatenated along channels, position by position: any of them will do.
        return next(iter(sections.values())) if isinstance(sections, dict) else sections

    def spell(token: Any) -> str:
        return clip.tokenizer.untokenize([(token, 1.0)])[0][1]

    return lambda text: tokenize_prompt(tokenize, text, spell)


def build_edit_prompt(
    clip: Any,
    source: str,
    edits: Sequence[str],
    follow: FollowSettings,
    parts: Sequence[str] = (),
    source_conditioning: Conditioning | None = None,
) -> EditPrompt:
    """Encode and align.

    Args:
        clip: a ComfyUI CLIP object.
        source: prompt of the source image.
        edits: lines as `edit_lines.read_edit_line` takes them, each with its own image.
        follow: how the edits follow the source.
        parts: names of the parts for lines that name none themselves; empty for all.
        source_conditioning: the source's conditioning, if already encoded.

    Raises:
        ValueError: an empty edit, a replacement that does not fit the source, or settings that do not fit the words.
    """
    lines = [read_edit_line(text, source) for text in edits if text.strip()]
    if not lines:
        raise ValueError(
            "edit: is empty. Write the source prompt with the part changed, or what to change in it: man -> robot."
        )
    for note in dict.fromkeys(note for line in lines for note in line.notes):
        logging.warning("PartEdit Prompt: edit: %s", note)
    with warned_once():
        return _build(clip, source, lines, follow, parts, source_conditioning)


def _build(
    clip: Any,
    source: str,
    lines: Sequence[EditLine],
    follow: FollowSettings,
    parts: Sequence[str],
    source_conditioning: Conditioning | None,
) -> EditPrompt:
    read = prompt_reader(clip)
    source_words, edit_words = read(source), [read(line.text) for line in lines]
    _check_words(follow.word_fractions, edit_words, "word_fractions")
    _check_words(follow.word_weights, edit_words, "word_weights")
    built = []
    for line, words in zip(lines, edit_words):
        own = replace(
            follow,
            word_fractions=_present(follow.word_fractions, words),
            word_weights=_present(follow.word_weights, words),
        )
        alignment = align(with_phrases(source_words, line.replaced), with_phrases(words, line.replaced), own)
        prompt = PartPrompt(line.text, encode(clip, line.text), alignment, line.parts or tuple(parts), line.notes)
        built.append(Edit((prompt,)))
    conditioning = encode(clip, source) if source_conditioning is None else source_conditioning
    return EditPrompt(source, conditioning, tuple(built))


def _check_words(values: Mapping[str, float] | None, edits: Sequence[TokenizedPrompt], name: str) -> None:
    """Raise a ValueError for a phrase that occurs in none of the edits, in any mode: it is a typo."""
    for phrase in values or {}:
        if not any(words.find(phrase) for words in edits):
            listed = "; ".join(f"{words.text!r} has {', '.join(w.text for w in words.words)}" for words in edits)
            where = "the edit prompt" if len(edits) == 1 else f"any of the {len(edits)} edits"
            raise ValueError(f"{name}: {phrase!r} does not occur in {where}. Use words that do: {listed}.")


def _present(values: Mapping[str, float] | None, words: TokenizedPrompt) -> dict[str, float]:
    """The settings whose phrase occurs in this edit; the others occur in other edits."""
    return {phrase: value for phrase, value in (values or {}).items() if words.find(phrase)}


def parse_word_values(text: str, name: str) -> dict[str, float]:
    """``"robot=0.4, red hat=1"`` → {"robot": 0.4, "red hat": 1.0}.

    Raises:
        ValueError: an entry without a number, or a phrase twice.
    """
    values: dict[str, float] = {}
    for entry in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        word, _, number = entry.rpartition("=")
        word = word.strip()
        if not word:
            raise ValueError(
                f"{name}: {entry!r} is not of the form word=number. Separate entries by commas: robot=0.4, hat=1."
            )
        if fold(word) in map(fold, values):
            raise ValueError(f"{name}: {word!r} is given twice in {text!r}. Give each word or phrase one number.")
        try:
            values[word] = float(number)
        except ValueError:
            raise ValueError(
                f"{name}: {number.strip()!r} in {entry!r} is not a number. Write for example {word}=0.4."
            ) from None
    return values


# --- conditioning of a whole batch ---------------------------------------------------------------------


@dataclass(frozen=True)
class BatchPrompt:
    """Conditioning of all rows, and the place of each edit's prompts in its row's context.

    Attributes:
        conditioning: CONDITIONING whose entry tensors hold (1 + N)·B rows: the source's B, then each edit's.
        source_length: length of the source's context before repetition.
        columns: for each edit, for each of its prompts, (first, one past last) column.
    """

    conditioning: Conditioning
    source_length: int
    columns: tuple[tuple[tuple[int, int], ...], ...]


def batch_prompt(prompt: EditPrompt, batch: int, keep_pooled: bool, extras: Conditioning | None = None) -> BatchPrompt:
    """Join the source's and the edits' conditioning row by row.

    Args:
        prompt: source and N edits.
        batch: B, images.
        keep_pooled: give the edits the source's pooled embedding.
        extras: CONDITIONING whose settings other than text (ControlNet, hooks, areas, sizes …) apply to every row.

    Raises:
        ValueError: prompts whose conditioning cannot be joined.
    """
    entries = len(prompt.source)
    for edit in prompt.edits:
        for part in edit.prompts:
            if len(part.conditioning) != entries:
                raise ValueError(
                    f"edit_prompt: the source has {entries} conditioning entries but {part.text!r} has "
                    f"{len(part.conditioning)}. Encode source and edits in the same way (same CLIP, same "
                    "schedule)."
                )
    joined: Conditioning = []
    layouts: set[tuple[int, tuple[tuple[tuple[int, int], ...], ...]]] = set()
    for number in range(entries):
        source, options = prompt.source[number]
        columns: list[tuple[tuple[int, int], ...]] = []
        rows = [source]
        pooled = [options.get("pooled_output")]
        for edit in prompt.edits:
            row, places, own = _edit_row(edit, number, source.shape[1])
            rows.append(row)
            columns.append(places)
            pooled.append(pooled[0] if keep_pooled or own is None else own)
        length = _common_length(rows)
        # Repeating all keys equally does not change attention; ComfyUI does the same for prompts of unequal length.
        text = torch.cat([_expand(r.repeat(1, length // r.shape[1], 1), batch) for r in rows])
        merged = {**options}
        if pooled[0] is not None:
            merged["pooled_output"] = torch.cat([_expand(p, batch) for p in pooled])
        layouts.add((source.shape[1], tuple(columns)))
        joined += [
            [text, option_rows(each, batch, 1 + len(prompt.edits), "positive")] for each in _with_extras(merged, extras)
        ]
    if len(layouts) > 1:
        lengths = ", ".join(str(length) for length, _ in sorted(layouts))
        raise ValueError(
            f"edit_prompt: its {entries} conditioning entries differ in length ({lengths} tokens), so words have no "
            "fixed position. Encode source and edits with the same CLIP and without schedules."
        )
    if not joined:
        raise ValueError(
            "positive: its timestep ranges and those of edit_prompt have no step in common. Remove the range from one "
            "of them."
        )
    source_length, all_places = layouts.pop()
    return BatchPrompt(joined, source_length, all_places)


def _with_extras(options: dict[str, Any], extras: Conditioning | None) -> list[dict[str, Any]]:
    """An entry's options merged with those of each entry of ``extras``, which ComfyUI evaluates one by one.

    Timestep ranges are intersected; entries with an empty intersection are dropped.
    """
    found = []
    for _, extra in extras or [[None, {}]]:
        merged = {
            **options,
            **{k: v for k, v in extra.items() if k not in ("pooled_output", "cross_attn", "model_conds", "uuid")},
        }
        starts = [o["start_percent"] for o in (options, extra) if o.get("start_percent") is not None]
        ends = [o["end_percent"] for o in (options, extra) if o.get("end_percent") is not None]
        if starts:
            merged["start_percent"] = max(starts)
        if ends:
            merged["end_percent"] = min(ends)
        if not starts or not ends or merged["start_percent"] <= merged["end_percent"]:
            found.append(merged)
    return found


def _edit_row(
    edit: Edit, number: int, source_length: int
) -> tuple[torch.Tensor, tuple[tuple[int, int], ...], torch.Tensor | None]:
    """One edit's context (1 or B, L, D) in entry ``number``, its prompts side by side; their columns in it; and its
    pooled embedding, the mean over the prompts (None if one of them has none)."""
    texts = [part.conditioning[number][0] for part in edit.prompts]
    for part, text in zip(edit.prompts, texts):
        _check_length(part, source_length, text.shape[1])
    length = _common_length(texts)
    columns = tuple((k * length, k * length + text.shape[1]) for k, text in enumerate(texts))
    batch = max(text.shape[0] for text in texts)
    repeated = [text.repeat(1, length // text.shape[1], 1).expand(batch, -1, -1) for text in texts]
    own = [part.conditioning[number][1].get("pooled_output") for part in edit.prompts]
    pooled = None if any(p is None for p in own) else sum(own) / len(own)
    return torch.cat(repeated, dim=1), columns, pooled


def _check_length(part: PartPrompt, source: int, own: int) -> None:
    aligned = None if part.alignment is None else tuple(part.alignment.mapper.shape)
    if aligned is not None and aligned != (source, own):
        raise ValueError(
            f"edit_prompt: words of {part.text!r} were aligned for contexts of {aligned[0]} and {aligned[1]} tokens, "
            f"but the conditioning has {source} and {own}. Set prompt_to_prompt to off for conditioning that was "
            "modified."
        )


def _common_length(tensors: Sequence[torch.Tensor]) -> int:
    return math.lcm(*(t.shape[1] for t in tensors))


def _expand(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    if tensor.shape[0] not in (1, batch):
        raise ValueError(
            f"edit_prompt: has conditioning for {tensor.shape[0]} images, but the latent has {batch}. Use one prompt "
            "for all."
        )
    return tensor.expand(batch, *tensor.shape[1:])


def edit_steps(prompt: EditPrompt, joined: BatchPrompt, index: int, steps: int) -> tuple[EditStep, ...]:
    """What each edit does at step ``index`` of ``steps``."""
    found = []
    for edit, columns in zip(prompt.edits, joined.columns):
        prompts = []
        for part, place in zip(edit.prompts, columns):
            if part.alignment is None:
                prompts.append(PromptStep(place, joined.source_length))
            else:
                prompts.append(part.alignment.step(index, steps, place))
        replaces = any(p.alignment is not None and p.alignment.replaces_self(index, steps) for p in edit.prompts)
        found.append(EditStep(tuple(prompts), replaces))
    return tuple(found)
