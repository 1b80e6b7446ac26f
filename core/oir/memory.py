"""What earlier searches made and scored, so that a search that differs in a choice repeats nothing.

A candidate depends on the model, the trajectory, the pair and the guidance; its scores also on the VAE and the scorer.
ComfyUI hands over the same objects as long as nothing that they depend on has changed, so they are what a candidate is
remembered by: by identity, and no longer than they live.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .types import Pair

# Tables a pair, the last used ones: candidates under two guidances, say, each scored by two scorers.
TABLES = 6


@dataclass(frozen=True)
class Scored:
    """A run that was looked at: its raw S_e and S_ne, and what the caller made of its picture."""

    edit: float
    keep: float
    note: Any = None

    @property
    def finite(self) -> bool:
        """Whether both scores are numbers; the search refuses others at its end."""
        return math.isfinite(self.edit) and math.isfinite(self.keep)


@dataclass(eq=False)
class _Table:
    owners: tuple[weakref.ref[Any], ...]
    key: Hashable
    content: dict[Any, Any] = field(default_factory=dict)

    def belongs_to(self, owners: Sequence[Any], key: Hashable) -> bool:
        return (
            self.key == key
            and len(owners) == len(self.owners)
            and all(ref() is owner for ref, owner in zip(self.owners, owners))
        )


class SearchMemory:
    """Tables by inversion step or run, for a pair and the objects that went into it."""

    def __init__(self) -> None:
        self._tables: weakref.WeakKeyDictionary[Pair, list[_Table]] = weakref.WeakKeyDictionary()

    def table(self, pair: Pair, owners: Sequence[Any], key: Hashable) -> dict[Any, Any]:
        """The table of exactly these objects and values, empty at first; what is written into it is remembered.

        Args:
            owners: objects that are compared by identity. The table goes when one of them does.
            key: everything else that its content depends on.
        """
        alive = [table for table in self._tables.get(pair, []) if all(ref() is not None for ref in table.owners)]
        found = next((table for table in alive if table.belongs_to(owners, key)), None)
        if found is None:
            found = _Table(tuple(weakref.ref(owner) for owner in owners), key)
        alive = [*(table for table in alive if table is not found), found]
        self._tables[pair] = alive[-TABLES:]
        return found.content

    def __len__(self) -> int:
        """Number of entries in all tables, for tests of what is held."""
        return sum(len(table.content) for tables in self._tables.values() for table in tables)
