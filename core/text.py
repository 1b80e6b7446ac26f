"""Text of prompts and phrases: normal form, words, and ComfyUI's weighting syntax."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# Scripts that are written without spaces between words (Unicode Line Breaking, UAX #14: classes ID, CJ and SA).
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf"
    "\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
# Korean particles are written onto the noun: 남자가, 남자에게는, and cat이. Up to three, after the plural 들.
_PARTICLES = re.compile(
    "들?(?:은|는|이|가|을|를|의|와|과|도|만|로|으로|에|에서|에게|에게서|께|께서|한테|한테서|하고|랑|이랑|나|이나"
    "|부터|까지|마다|처럼|같이|만큼|보다|밖에|조차|마저|라도|이라도|라는|이라는|으로서|로서|으로써|로써){0,3}"
    "(?![\uac00-\ud7a3])"
)
# Characters that belong to a word when inside it: rock-'n'-roll, and 1.5 or 16:9 between digits.
_JOINERS, _DIGIT_JOINERS = "'’-‐‑", ".,:/"
_EMBEDDING = "embedding:"
# An embedding in a prompt that still has its weights: a name is no word of the prompt.
_EMBEDDED = re.compile(r"(?<![^\s()])embedding:[^\s,:()<\[]+")
_LINE_BREAK = re.compile("\r\n|\r|\n")
_OTHER_BREAKS = re.compile("[\v\f\x1c-\x1e\x85\u2028\u2029]+")


def fold(text: str) -> str:
    """A text in normal form for comparison, ignoring case, the form of accents, and full or half width.

    Close to Unicode's NFKC_Casefold, without invisible characters.
    """
    return "".join(folded for _, _, folded in _clusters(text))


def composed(text: str) -> str:
    """A prompt with composed accents (NFC) and without surrounding white space."""
    return unicodedata.normalize("NFC", text).strip()


def _clusters(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, folded) of the shortest substrings that can be normalised separately."""
    start = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or not _interact(text[start:end], text[end]):
            yield start, end, _fold(text[start:end])
            start = end


def _interact(before: str, after: str) -> bool:
    if before.isascii() and after.isascii():
        return False
    if unicodedata.combining(after):
        return True
    joined = unicodedata.normalize("NFKC", before + after)
    return joined != unicodedata.normalize("NFKC", before) + unicodedata.normalize("NFKC", after)


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(c for c in folded if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")


def is_unspaced(character: str) -> bool:
    """Whether a character belongs to a script written without spaces between words (Han, kana, Thai, Khmer …)."""
    return _UNSPACED.match(character) is not None


def is_letter(character: str) -> bool:
    """Letters, digits, the underscore, and combining marks."""
    return character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"


def is_punctuation(text: str) -> bool:
    """Whether a text is only punctuation; emoji and other symbols are not."""
    return all(unicodedata.category(character)[0] == "P" for character in text)


def find_words(text: str, phrase: str) -> list[tuple[int, int]]:
    """Characters [start, end) of each occurrence of a phrase, compared by `fold`.

    The phrase must match whole words, with any white space between them. Next to a character of a script without
    spaces, no word boundary is required. Korean particles may follow the phrase and are not part of what is found:
    남자 in 남자가, but not in 남자친구. Within the name of an embedding nothing is found.
    """
    words = [fold(word) for word in phrase.split()]
    if not any(words):
        return []
    clusters = list(_clusters(text))
    folded = "".join(part for _, _, part in clusters)
    places = [(start, end) for start, end, part in clusters for _ in part]
    pattern = re.compile(r"\s+".join(re.escape(word) for word in words if word))
    names = [match.span() for match in _EMBEDDED.finditer(text)]
    found: list[tuple[int, int]] = []
    at = 0
    while match := pattern.search(folded, at):
        first, last = match.span()
        whole = _is_boundary(folded, first) and (_is_boundary(folded, last) or _particles_follow(folded, last))
        start, end = places[first][0], places[last - 1][1]
        whole = whole and not any(low < edge < high for low, high in names for edge in (start, end))
        if whole and all(places[at - 1 : at] != places[at : at + 1] for at in (first, last)):
            found.append((start, end))
            at = last
        else:
            at = first + 1
    return found


def _is_boundary(text: str, at: int) -> bool:
    """Whether a word may begin or end between the characters ``at − 1`` and ``at``."""
    if at in (0, len(text)):
        return True
    before, after = text[at - 1], text[at]
    if unicodedata.category(after)[0] == "M":
        return False  # a mark belongs to the letter before it
    if is_letter(before) and is_letter(after):
        return is_unspaced(before) or is_unspaced(after)
    return True


def _particles_follow(text: str, at: int) -> bool:
    """Whether what is left of the word at ``at`` is Korean particles only."""
    return "\uac00" <= text[at] <= "\ud7a3" and _PARTICLES.match(text, at) is not None


def split_words(text: str) -> list[str]:
    """Words of a prompt without ComfyUI's weighting syntax, split at spaces."""
    return [word for segment in _segments(text) for word in segment.split()]


def _segments(text: str) -> list[str]:
    """A prompt split into segments of equal weight, as ComfyUI's text encoders parse it."""
    from comfy.sd1_clip import escape_important, token_weights, unescape_important

    return [unescape_important(segment) for segment, _ in token_weights(escape_important(text), 1.0)]


def split_punctuation(word: str) -> list[str]:
    """Split punctuation from a word: ``eyes,`` → ``eyes`` and ``,``.

    ``t-shirt``, ``robot's``, ``1.5`` and ``embedding:name`` stay whole. In scripts without spaces, each character is a
    word.
    """
    if word.startswith(_EMBEDDING):
        name = word.rstrip(",")
        return [name, word[len(name) :]] if len(name) < len(word) else [word]
    parts: list[str] = []
    last = ""
    for place, character in enumerate(word):
        kind = _kind(word, place)
        if parts and (kind == last != "unspaced" or unicodedata.category(character)[0] == "M"):
            parts[-1] += character
        else:
            parts.append(character)
            last = kind
    return parts


def _kind(word: str, place: int) -> str:
    character = word[place]
    if is_unspaced(character):
        return "unspaced"
    if is_letter(character):
        return "letter"
    before, after = word[place - 1 : place], word[place + 1 : place + 2]
    if character in _JOINERS and before.isalnum() and after.isalnum():
        return "letter"
    if character in _DIGIT_JOINERS and before.isdigit() and after.isdigit():
        return "letter"
    return unicodedata.category(character)[0]


def plain_text(text: str) -> str:
    """A prompt as plain words: ``a (green dog:1.4), embedding:style`` → ``a green dog``.

    Weights, brackets and escapes are ComfyUI's own syntax, and embeddings are only known to its text encoder; to other
    models they are noise.
    """
    segments = [_without_embeddings(segment) for segment in _segments(text)]
    plain = "".join(kept for kept, _ in segments)
    if any(removed for _, removed in segments):
        plain = re.sub(r"\s*,(\s*,)+", ",", plain).strip(" \t\r\n,;")
        plain = re.sub(r" {2,}", " ", plain)
    return plain.strip()


def _without_embeddings(text: str) -> tuple[str, int]:
    return re.subn(r"(?<!\S)embedding:[^\s,<\[]+", "", text)


def split_lines(text: str) -> list[str]:
    """Lines as an editor shows them; other separators (U+2028, vertical tab, form feed …) become spaces."""
    return [_OTHER_BREAKS.sub(" ", line) for line in _LINE_BREAK.split(text)]
