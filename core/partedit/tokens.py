"""Part tokens, and the text context they are used in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..attention import TOKEN_CONTEXT, ProbeContext
from ..unet import LayerKey

PADDINGS = ("background", "end_of_text", "zero")
# Text conditioning width of each model family.
FAMILY_WIDTHS = {"sd1": 768, "sd2": 1024, "sdxl": 2048}
_FAMILY_NAMES = {768: "SD1.x or the demo model", 1024: "SD2.x", 2048: "SDXL"}


@dataclass(frozen=True)
class PartToken:
    """Learned text-embedding rows that find parts of an object (PartEdit, Cvejic et al. 2025, Sec. 4.1).

    Attributes:
        embedding: (R, D) float32; D is the width of the model's text conditioning. Row 0 is background.
        part_rows: row of each part; all other rows are background. Published files: R = 2, part_rows = (1,).
        names: one name per part.
        model_family: "sdxl", "sd1", "sd2", "demo", or "" when unknown.
        metadata: provenance, all text.
        layers: for each part, the attention layers it was trained on, as `layers.choose_layers` takes them; "" where
            that is not recorded. Empty: recorded for no part.
    """

    embedding: torch.Tensor
    part_rows: tuple[int, ...]
    names: tuple[str, ...]
    model_family: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows = self.embedding
        if rows.ndim != 2 or not rows.is_floating_point():
            raise ValueError(
                f"part token: expected an embedding of shape (rows, width), got {tuple(rows.shape)} {rows.dtype}."
            )
        if not 2 <= rows.shape[0] <= TOKEN_CONTEXT:
            raise ValueError(
                f"part token: has {rows.shape[0]} rows; expected 2 (background and part) to {TOKEN_CONTEXT}."
            )
        if not bool(torch.isfinite(rows).all()):
            raise ValueError(
                "part token: contains NaN or infinite values. The file is damaged, or its training failed."
            )
        valid = all(0 < row < rows.shape[0] for row in self.part_rows) and len(set(self.part_rows)) == len(
            self.part_rows
        )
        if not self.part_rows or not valid:
            raise ValueError(
                f"part token: part rows {self.part_rows} do not fit {rows.shape[0]} rows (row 0 is the background; "
                "each part needs its own row)."
            )
        if len(self.names) != len(self.part_rows):
            raise ValueError(f"part token: {len(self.names)} names {self.names} for {len(self.part_rows)} parts.")
        if self.layers and len(self.layers) != len(self.part_rows):
            raise ValueError(f"part token: layers {self.layers} for {len(self.part_rows)} parts. Give one for each.")

    @property
    def parts(self) -> int:
        return len(self.part_rows)

    @property
    def width(self) -> int:
        return self.embedding.shape[1]

    def only(self, parts: Sequence[int]) -> PartToken:
        """The token of some parts: their rows, and the background rows they were trained with; itself for all parts.

        Args:
            parts: their indices, in ascending order.
        """
        if len(parts) == self.parts:
            return self
        # A combined token is a series of tokens, each of which begins with its background.
        rows, background = list[int](), list[int]()
        indices = {row: part for part, row in enumerate(self.part_rows)}
        for row in range(self.embedding.shape[0]):
            if row not in indices:
                background = [*background, row] if row - 1 in background else [row]
            elif indices[row] in parts:
                rows += [*background, row]
                background = []
        return PartToken(
            self.embedding[rows],
            tuple(rows.index(self.part_rows[part]) for part in parts),
            tuple(self.names[part] for part in parts),
            self.model_family,
            self.metadata,
            tuple(self.layers[part] for part in parts) if self.layers else (),
        )

    def context(
        self, padding: str = "background", end_of_text: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distinct rows of the 77-row context and how often each occurs.

        Args:
            padding: ``background`` repeats row 0 (as the published ``BG`` and ``SOT_E`` do), ``end_of_text`` repeats
                the last row of the source conditioning, ``zero`` adds zeros.
            end_of_text: (D,), needed for that padding.

        Returns:
            (K, D) rows, the token's own first, and (K,) logarithms of their counts.
        """
        rows = self.embedding
        counts = [1.0] * rows.shape[0]
        left = TOKEN_CONTEXT - rows.shape[0]
        if padding == "background":
            counts[0] += left
        elif left:
            if padding == "zero":
                fill = torch.zeros_like(rows[:1])
            elif padding == "end_of_text" and end_of_text is not None:
                fill = end_of_text.reshape(1, -1).to(rows)
            else:
                raise ValueError(f"padding: {padding!r} is not one of {', '.join(PADDINGS)}.")
            rows = torch.cat([rows, fill])
            counts.append(float(left))
        return rows, torch.tensor([math.log(c) for c in counts])

    def check_width(self, width: int) -> None:
        """Raise a ValueError if the token does not fit a model whose text conditioning is ``width`` wide."""
        if self.width != width:
            own, wanted = (_FAMILY_NAMES.get(w, "another family") for w in (self.width, width))
            raise ValueError(
                f"part_token: {', '.join(self.names)} has rows {self.width} wide ({own}), but this model's text "
                f"conditioning is {width} wide ({wanted}). Choose a token trained for this model family, or train one "
                "with Train Part Token."
            )

    def part_indices(self, names: Sequence[str]) -> tuple[int, ...]:
        """Indices of the named parts; all parts if no names are given.

        Raises:
            ValueError: a name that the token does not have.
        """
        if not names:
            return tuple(range(self.parts))
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(
                f"part: {', '.join(unknown)} is not in the part token, which has: {', '.join(self.names)}. Use one of "
                "these names, or add the part with Combine Part Tokens."
            )
        return tuple(self.names.index(name) for name in names)


def probe_contexts(
    token: PartToken,
    reading: Mapping[LayerKey, tuple[int, ...]],
    padding: str = "background",
    end_of_text: torch.Tensor | None = None,
) -> dict[LayerKey, ProbeContext]:
    """What a layer's queries meet: in each layer the context of the parts that count there, as if there were no others.

    Args:
        token: whose parts are read.
        reading: layer → indices of the parts that count there, see `layers.reading_layers`.
        padding, end_of_text: see `PartToken.context`.
    """
    made: dict[tuple[int, ...], ProbeContext] = {}
    for parts in set(reading.values()):
        those = token.only(parts)
        made[parts] = ProbeContext(*those.context(padding, end_of_text), those.part_rows, parts)
    return {layer: made[parts] for layer, parts in reading.items()}


def combine(tokens: Sequence[PartToken]) -> PartToken:
    """Join tokens into one that finds all their parts; the rows keep their order, as in the published multi-part use.

    Raises:
        ValueError: no token, different widths, or a part name that occurs twice.
    """
    if not tokens:
        raise ValueError("part_token_1: not connected. Connect a Load Part Token or Train Part Token.")
    widths = {token.width for token in tokens}
    if len(widths) > 1:
        shown = ", ".join(f"{'/'.join(t.names)} {t.width}" for t in tokens)
        raise ValueError(
            f"part tokens: widths differ ({shown}). Combine only tokens trained for the same model family."
        )
    names = [name for token in tokens for name in token.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"part tokens: {', '.join(twice)} appears more than once. Connect each part only once.")
    rows, part_rows, start = [], [], 0
    for token in tokens:
        rows.append(token.embedding)
        part_rows += [start + row for row in token.part_rows]
        start += token.embedding.shape[0]
    families = {token.model_family for token in tokens}
    family = families.pop() if len(families) == 1 else ""
    layers = tuple(choice for token in tokens for choice in (token.layers or ("",) * token.parts))
    metadata = {"combined_from": ", ".join(names)}
    return PartToken(torch.cat(rows), tuple(part_rows), tuple(names), family, metadata, layers if any(layers) else ())
