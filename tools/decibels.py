"""Means of PSNR: the one rule of the evaluation's tables and of all benchmarks.

The PSNR of equal pictures is infinite. As any finite number (99, 100 or 1000 dB) it would lift a mean to whatever that
number makes of it, so equal pictures are left out of means, and a mean over nothing but equal pictures says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

# What Edit Metrics gives as the PSNR of equal pictures, where no infinity can be written.
EQUAL_DB = 1000.0
EQUAL = "equal"


def averaged(values: Iterable[float]) -> list[float]:
    """The PSNRs that go into a mean: those of pictures that are not equal; all of them if all are equal."""
    known = list(values)
    return [value for value in known if value < EQUAL_DB] or known


def mean(values: Iterable[float]) -> float:
    """Mean PSNR in dB of the pictures that are not equal; `EQUAL_DB` if all are.

    Raises:
        ValueError: there are none at all.
    """
    known = averaged(values)
    if not known:
        raise ValueError("a mean PSNR needs at least one picture.")
    return min(fmean(known), EQUAL_DB)


def shown(value: float, digits: int = 1) -> str:
    """A PSNR as text."""
    return EQUAL if value >= EQUAL_DB else f"{value:.{digits}f}"


def written(key: str, values: Iterable[float], digits: int = 4) -> dict[str, float | str | int]:
    """A mean for a file of results: ``key`` in dB or "equal", and ``KEY_equal``, how many pictures were equal."""
    known = list(values)
    middle, equal = mean(known), sum(value >= EQUAL_DB for value in known)
    found: dict[str, float | str | int] = {key: EQUAL if middle >= EQUAL_DB else round(middle, digits)}
    return found | ({f"{key}_equal": equal} if equal else {})
