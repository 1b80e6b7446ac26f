"""Guided prompts: the source prompt with one object replaced (Yang et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from ..text import composed, find_words
from .types import Pair


def find_phrase(prompt: str, phrase: str, occurrence: int = 1) -> tuple[int, int]:
    """Characters [start, end) of a phrase in a prompt: whole words, ignoring case, the form of accents, and the white
    space between words; see `text.find_words`.

    Args:
        occurrence: which occurrence, from 1.

    Raises:
        ValueError: the phrase is empty, does not occur, or not often enough; the message shows the prompt.
    """
    if not phrase.strip():
        raise ValueError("source_phrase: is empty. Write the words of the source prompt that name the object to edit.")
    found = find_words(prompt, phrase)
    if not found:
        raise ValueError(
            f"source_phrase: {phrase!r} does not occur in the source prompt {prompt!r}. "
            "Copy the words exactly, or write the guided_prompt by hand."
        )
    if not 1 <= occurrence <= len(found):
        raise ValueError(
            f"occurrence: is {occurrence}, but {phrase!r} occurs {len(found)} time(s) in the source prompt {prompt!r}. "
            "Give a smaller number."
        )
    return found[occurrence - 1]


def guided_prompt(prompt: str, span: tuple[int, int], target_phrase: str) -> str:
    """The prompt with the characters of ``span`` replaced."""
    return prompt[: span[0]] + target_phrase.strip() + prompt[span[1] :]


def common_source_prompt(pairs: Sequence[Pair]) -> str:
    """The source prompt that all pairs share.

    Raises:
        ValueError: there are no pairs, or they were written for different prompts.
    """
    if not pairs:
        raise ValueError("pairs: is empty. Connect at least one Editing Pair.")
    prompts = {pair.source_prompt: None for pair in pairs}
    if len(prompts) > 1:
        raise ValueError(
            "pairs: all editing pairs of an image must have the same source prompt, but these have "
            + " and ".join(repr(p) for p in prompts)
            + ". Connect Invert Latent's source_prompt to every Editing Pair."
        )
    return pairs[0].source_prompt


def check_source_prompt(pairs: Sequence[Pair], inverted_with: str) -> None:
    """Raise ValueError unless all pairs have the same source prompt, the one the image was inverted with.

    ``inverted_with`` is "" if the text of that prompt is unknown (a conditioning was connected).
    """
    prompt = common_source_prompt(pairs)
    if inverted_with.strip() and composed(inverted_with) != composed(prompt):
        raise ValueError(
            f"pairs: have the source prompt {prompt!r}, but the image was inverted with {inverted_with!r}. Connect "
            "Invert Latent's source_prompt to every Editing Pair."
        )


def target_prompt(pairs: Sequence[Pair]) -> str:
    """The source prompt with every object replaced.

    Pairs that turn the same words into different things (two of three "cats", each with its own mask) are joined
    with "and".

    Raises:
        ValueError: phrases overlap partially, or a pair's place in the prompt is unknown.
    """
    prompt = common_source_prompt(pairs)
    replacements: dict[tuple[int, int], list[str]] = {}
    for pair in pairs:
        if pair.span is None:
            raise ValueError(
                f"target_prompt: is empty and cannot be built, because the guided prompt of {pair.label} was written "
                "by hand. Write the target_prompt, or connect target."
            )
        phrases = replacements.setdefault(pair.span, [])
        if pair.target_phrase.strip() not in phrases:
            phrases.append(pair.target_phrase.strip())
    spans = sorted(replacements)
    for first, second in zip(spans, spans[1:], strict=False):
        if second[0] < first[1]:
            raise ValueError(
                f"pairs: the phrases {prompt[slice(*first)]!r} and {prompt[slice(*second)]!r} overlap in the source "
                f"prompt {prompt!r}. Choose phrases that share no word, or write the target_prompt in OIR Reassemble."
            )
    for span in reversed(spans):
        prompt = guided_prompt(prompt, span, " and ".join(replacements[span]))
    return prompt
