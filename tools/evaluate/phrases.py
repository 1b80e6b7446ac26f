"""Phrases of a prompt, found as Editing Pair finds them: whole words, whatever their case and white space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.text import find_words

from .cases import Case, DataError


@dataclass(frozen=True)
class Place:
    """Where a phrase is: characters [start, end), and which of its occurrences that is, from 1."""

    start: int
    end: int
    occurrence: int


def places(prompt: str, phrases: Sequence[str]) -> list[Place]:
    """A place for each phrase, none of which overlap.

    Longer phrases choose first, so that "cat" is not found in the "black cat" of another object; of equal ones, each
    gets its own occurrence.

    Raises:
        DataError: a phrase is not in the prompt, or only within another one's place.
    """
    found: dict[int, Place] = {}
    for number in sorted(range(len(phrases)), key=lambda one: (-len(phrases[one].split()), one)):
        spans = find_words(prompt, phrases[number])
        free = (
            Place(start, end, count)
            for count, (start, end) in enumerate(spans, 1)
            if all(end <= other.start or other.end <= start for other in found.values())
        )
        place = next(free, None)
        if place is None:
            why = "is in the prompt {!r} only within another object's words" if spans else "is not in the prompt {!r}"
            inside = not spans and phrases[number] in prompt
            hint = " as whole words" if inside else ""
            raise DataError(f"{phrases[number]!r} {why.format(prompt)}{hint}")
        found[number] = place
    return [found[number] for number in range(len(phrases))]


def replaced(prompt: str, pairs: Sequence[tuple[str, str]]) -> str:
    """The prompt with each phrase replaced by its new one, all at once: what was put in is not looked at again.

    Raises:
        DataError: see `places`.
    """
    spots = places(prompt, [before for before, _ in pairs])
    for spot, (_, after) in sorted(zip(spots, pairs), key=lambda one: -one[0].start):
        prompt = prompt[: spot.start] + after + prompt[spot.end :]
    return prompt


def guided_prompts(case: Case) -> list[str]:
    """For each object of a case, the source prompt with this one replaced (OIR, section 3.2).

    Raises:
        DataError: see `places`.
    """
    spots = zip(places(case.source, case.befores), case.pairs)
    return [case.source[: spot.start] + pair.after + case.source[spot.end :] for spot, pair in spots]


def missing_phrase(prompt: str, phrases: Sequence[str]) -> str:
    """Why the phrases cannot be found, "" if they can."""
    try:
        places(prompt, phrases)
    except DataError as error:
        return str(error)
    return ""
