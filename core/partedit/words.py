"""The words of a prompt and the positions of their tokens in the text conditioning."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..encoding import warned_once
from ..text import find_words, is_punctuation, is_unspaced, split_punctuation, split_words

Tokenize = Callable[[str], list[list[tuple]]]
Spell = Callable[[Any], str]


@dataclass(frozen=True)
class Word:
    """A word of a prompt and the positions of its tokens in the (flattened) text conditioning.

    ``glued``: there is no space before it.
    """

    text: str
    positions: tuple[int, ...]
    glued: bool = False


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as the text encoder sees it.

    Attributes:
        text: as written.
        words: split at spaces, in order, as the published code counts them; an embedding counts as one word.
        units: the same with punctuation separated, and scripts without spaces split into characters; these are aligned
            and searched.
        ids: one hashable id per position, including start, end and padding; length is a multiple of 77 for CLIP.
        used: positions up to and including the first end token of the last section.
    """

    text: str
    words: tuple[Word, ...]
    units: tuple[Word, ...]
    ids: tuple[object, ...]
    used: int

    @property
    def length(self) -> int:
        return len(self.ids)

    def find(self, phrase: str) -> tuple[int, ...]:
        """Positions of every occurrence of a phrase of one or more words; see `text.find_words`.

        If the phrase does not occur as written, punctuation is ignored.
        """
        wanted = _plain_units(phrase)
        for punctuation in (True, False):
            text, owners = joined(self.units, punctuation)
            spans = find_words(text, joined(wanted, punctuation)[0])
            if spans:
                return tuple(sorted({p for start, end in spans for word in owners[start:end] for p in word.positions}))
        return ()


def _plain_units(phrase: str) -> list[Word]:
    """A phrase cut like a prompt's units, without ComfyUI's weighting syntax and without positions."""
    return [
        Word(part, (), glued=place > 0)
        for word in split_words(phrase)
        for place, part in enumerate(split_punctuation(word))
    ]


def with_phrases(prompt: TokenizedPrompt, phrases: Sequence[str]) -> TokenizedPrompt:
    """A prompt in which each of these phrases is one unit, where it is written without spaces.

    Nothing tells the words of such scripts apart, so their units are characters. A phrase that somebody named is known
    to belong together: 红色 → 蓝色 replaces a colour, not its first character.
    """
    units = prompt.units
    for phrase in phrases:
        text, owners = joined(units)
        places = {id(unit): place for place, unit in enumerate(units)}
        merged, kept = list[Word](), 0
        for start, end in find_words(text, joined(_plain_units(phrase))[0]):
            first, last = max(kept, places[id(owners[start])]), places[id(owners[end - 1])] + 1
            merged += [*units[kept:first], *_grown_together(units[first:last])]
            kept = last
        units = (*merged, *units[kept:])
    return replace(prompt, units=units)


def _grown_together(units: Sequence[Word]) -> list[Word]:
    """Units with those of a script without spaces joined, as far as nothing lies between them."""
    grown = list[Word]()
    for unit in units:
        before = grown[-1] if grown else None
        if before and unit.glued and is_unspaced(before.text[-1]) and is_unspaced(unit.text[0]):
            grown[-1] = Word(before.text + unit.text, before.positions + unit.positions, before.glued)
        else:
            grown.append(unit)
    return grown


def joined(words: Sequence[Word], punctuation: bool = True) -> tuple[str, list[Word]]:
    """Words as a text, and the word each of its characters belongs to (a space belongs to the word before it)."""
    text, owners, glue = "", list[Word](), True
    for word in words:
        if not punctuation and is_punctuation(word.text):
            glue = False
            continue
        if text and not (word.glued and glue):
            text, owners = text + " ", [*owners, owners[-1]]
        text, owners, glue = text + word.text, [*owners, *[word] * len(word.text)], True
    return text, owners


def shown(words: Sequence[Word]) -> str:
    """Words for display: as written, without leading or trailing punctuation unless there is nothing else."""
    first, last = 0, len(words)
    while first < last and is_punctuation(words[first].text):
        first += 1
    while last > first and is_punctuation(words[last - 1].text):
        last -= 1
    return joined(words[first:last] or words)[0]


def tokenize_prompt(tokenize: Tokenize, text: str, spell: Spell | None = None) -> TokenizedPrompt:
    """Find the positions of each word.

    Args:
        tokenize: text → sections of (token, weight, word id); word id 0 marks start, end and padding. This is what
            ``clip.tokenize(text, return_word_ids=True)`` returns for one of its encoders.
        text: the prompt, ComfyUI's weights and embeddings included.
        spell: token → its entry in the vocabulary. With it, words are split exactly, even where a byte-level vocabulary
            such as CLIP's merges characters.
    """
    sections = tokenize(text)
    ids: list[object] = []
    tokens: list[Any] = []
    content: list[int] = []
    used = 0
    for section in sections:
        end_seen = False
        for place, (token, _, word_id) in enumerate(section):
            is_content = word_id != 0
            if is_content:
                content.append(len(ids))
            ids.append(_identity(token))
            tokens.append(token)
            if not is_content and place > 0 and not end_seen:
                end_seen = True
                used = len(ids)
    words: list[Word] = []
    units: list[Word] = []
    cursor = 0
    with warned_once(everything=True):  # warnings were already logged for the text
        for word in split_words(text):
            count = _token_count(tokenize, word)
            positions = tuple(content[cursor : cursor + count])
            cursor += count
            if positions:
                words.append(Word(word, positions))
                units += _units(tokenize, words[-1], [tokens[p] for p in positions], spell)
    if cursor != len(content):
        # A tokenizer that merges across spaces: fall back to one word per token, so that alignment still works.
        words = units = [Word(str(ids[p]), (p,)) for p in content]
    return TokenizedPrompt(text, tuple(words), tuple(units), tuple(ids), used or len(ids))


def _units(tokenize: Tokenize, word: Word, tokens: Sequence[Any], spell: Spell | None) -> list[Word]:
    """A word with its punctuation separated; the whole word if its tokens cannot be assigned."""
    parts = split_punctuation(word.text)
    if len(parts) == 1:
        return [word]
    counts = [_token_count(tokenize, part) for part in parts]
    if sum(counts) != len(tokens):
        parts, counts = _cut_by_bytes(word.text, tokens, spell)
    units, start = [], 0
    for part, count in zip(parts, counts):
        if count:
            units.append(Word(part, word.positions[start : start + count], glued=start > 0))
        start += count
    return units


def _cut_by_bytes(text: str, tokens: Sequence[Any], spell: Spell | None) -> tuple[list[str], list[int]]:
    """Parts of a word and each one's number of tokens, from the tokens' own bytes.

    A token belongs where its first byte lies; a part that no token begins in joins the one before it.
    """
    plain = unicodedata.normalize("NFC", text).lower()
    try:
        spelled = [bytes(_BYTE_OF[sign] for sign in spell(t).removesuffix("</w>")) for t in tokens] if spell else []
    except (AttributeError, IndexError, KeyError, TypeError):
        spelled = []
    if b"".join(spelled) != plain.encode():
        return [text], [len(tokens)]
    starts = [sum(map(len, spelled[:n])) for n in range(len(spelled))]
    parts: list[str] = []
    counts: list[int] = []
    first = 0
    for part in split_punctuation(plain):
        last = first + len(part.encode())
        count = sum(first <= start < last for start in starts)
        if count or not parts:
            parts, counts = [*parts, part], [*counts, count]
        else:
            parts[-1] += part
        first = last
    return parts, counts


def _byte_letters() -> dict[str, int]:
    """What stands for each byte in a byte-level vocabulary (GPT-2's, which CLIP uses): itself where it is visible."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTE_OF = _byte_letters()


def _identity(token: Any) -> object:
    """What makes two tokens the same: the id of a word piece, the values of an embedding's row."""
    if isinstance(token, torch.Tensor):
        return token.detach().float().cpu().numpy().tobytes()
    return token if isinstance(token, int) else id(token)


def _token_count(tokenize: Tokenize, word: str) -> int:
    escaped = word.replace("(", "\\(").replace(")", "\\)")
    return sum(item[2] != 0 for section in tokenize(escaped) for item in section)
