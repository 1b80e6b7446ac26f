"""The demo's own world."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from ...config_file import Count, Entry
from ..cases import Case, Pictures


class DemoData(Entry):
    """The demo's own world, for its bundled model.

    ``parts`` and ``objects`` draw pictures with exact masks, which the model has not generated; a success is the new
    colour. ``generated`` has only prompts, so the model generates the source and the token finds the mask.
    """

    kind: Literal["parts", "objects", "generated"] = "parts"
    count: Annotated[int, Field(ge=1, le=1000)] = 10
    seed: Count = 0

    def cases(self, data: str, pictures: Pictures) -> Iterator[Case]:
        from ..demo_world import drawn_objects, drawn_parts, generated_parts

        make = {"parts": drawn_parts, "objects": drawn_objects, "generated": generated_parts}[self.kind]
        yield from make(data, self.count, self.seed, pictures)
