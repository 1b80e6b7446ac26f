"""Part tokens, and the text context they are used in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..attention import TOKEN_CONTEXT, ProbeContext
from ..text import fold
from ..unet import LayerKey

# What fills a token's context up to 77 rows (`padded_rows`); "auto": as each token was trained.
AUTO_PADDING = "auto"
PADDINGS = (AUTO_PADDING, "background", "start_of_text", "end_of_text", "context", "zero", "none")
# Those that take rows of the prompt's own embedding.
TEXT_PADDINGS = ("start_of_text", "end_of_text", "context")
# For files that record nothing, among them the published ones.
UNRECORDED_PADDING = "background"
# Text conditioning width of each model family.
FAMILY_WIDTHS = {"sd1": 768, "sd2": 1024, "sdxl": 2048}
# Width that does not tell the family: SD1.x and the demo model share it.
SHARED_WIDTH = 768
_FAMILY_NAMES = {768: "SD1.x or the demo model", 1024: "SD2.x", 2048: "SDXL"}


def family_of_width(width: int) -> str:
    """The model family that has text conditioning of this width; "" if there is none, or more than one."""
    return next((family for family, own in FAMILY_WIDTHS.items() if own == width != SHARED_WIDTH), "")


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
        paddings: for each part, the padding it was trained with (one of `PADDINGS` but "auto"); "" where that is not
            recorded. Empty: recorded for no part.
        picture: of the part as the token finds it, see `token_pictures.small_picture`; empty if there is none.
    """

    embedding: torch.Tensor
    part_rows: tuple[int, ...]
    names: tuple[str, ...]
    model_family: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    paddings: tuple[str, ...] = ()
    picture: bytes = field(default=b"", repr=False, compare=False)

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
                "part token: contains NaN or infinite values. The file is damaged, or its training failed. Download "
                "or train it again."
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
        if self.paddings and len(self.paddings) != len(self.part_rows):
            raise ValueError(
                f"part token: paddings {self.paddings} for {len(self.part_rows)} parts. Give one for each."
            )
        for padding in self.paddings:
            if padding and padding not in PADDINGS[1:]:
                raise ValueError(
                    f"part token: was trained with the padding {padding[:40]!r}; known ones are "
                    f"{', '.join(PADDINGS[1:])}. It may come from a newer version of this pack."
                )

    def has_rows_of(self, other: PartToken) -> bool:
        """Whether both are the same token, whatever is recorded of it."""
        return torch.equal(self.embedding.float().cpu(), other.embedding.float().cpu())

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
            tuple(self.paddings[part] for part in parts) if self.paddings else (),
        )

    def context(
        self, padding: str = AUTO_PADDING, text: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distinct rows of the token's context and how often each occurs; see `padded_rows`.

        ``auto`` is the padding that the parts were trained with, or ``background`` where that is not recorded.

        Raises:
            ValueError: ``auto``, and the parts were trained with different paddings.
        """
        if padding == AUTO_PADDING:
            trained = dict(zip(self.names, self.paddings or ("",) * self.parts, strict=True))
            found = {name: one or UNRECORDED_PADDING for name, one in trained.items()}
            if len(set(found.values())) > 1:
                shown = ", ".join(f"{name} with {one}" for name, one in found.items())
                raise ValueError(
                    f"padding: {AUTO_PADDING!r} reads a part token as it was trained, but these parts were trained "
                    f"with different paddings ({shown}) and cannot share one context. Set padding to one of these."
                )
            (padding,) = set(found.values())
        return padded_rows(self.embedding, padding, text)

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

        A name may leave out words, as long as only one part fits: ``head`` is ``animal head``, ``Human_Head`` is
        ``human head``.

        Raises:
            ValueError: a name that the token does not have, or that fits several parts.
        """
        return tuple(map(self._part_index, names)) if names else tuple(range(self.parts))

    def _part_index(self, name: str) -> int:
        if name in self.names:
            return self.names.index(name)
        wanted, known = _words(name), [_words(part) for part in self.names]
        equal = [part for part, words in enumerate(known) if words == wanted]
        found = equal or [part for part, words in enumerate(known) if wanted and set(wanted) <= set(words)]
        if len(found) == 1:
            return found[0]
        if found:
            fits = ", ".join(self.names[part] for part in found)
            raise ValueError(f"part: {name} may be any of {fits} in the part token. Write the whole name.")
        raise ValueError(
            f"part: {name} is not in the part token, which has: {', '.join(self.names)}. Use one of these names in "
            "angle brackets in the edit, or in the part input, or add the part with Combine Part Tokens. For angle "
            rf"brackets as text, write \<{name}>."
        )


def _words(name: str) -> list[str]:
    return fold(name).replace("_", " ").replace("-", " ").split()


def probe_contexts(
    token: PartToken,
    reading: Mapping[LayerKey, tuple[int, ...]],
    padding: str = AUTO_PADDING,
    text: torch.Tensor | None = None,
) -> dict[LayerKey, tuple[ProbeContext, ...]]:
    """What a layer's queries meet: in each layer the context of the parts that count there, as if there were no others.

    Parts that were trained with different paddings do not share a context under ``auto``.

    Args:
        token: whose parts are read.
        reading: layer → indices of the parts that count there, see `layers.reading_layers`.
        padding, text: see `PartToken.context`.
    """
    trained = [one or UNRECORDED_PADDING for one in token.paddings or ("",) * token.parts]
    made: dict[tuple[int, ...], tuple[ProbeContext, ...]] = {}
    for parts in set(reading.values()):
        groups: dict[str, list[int]] = {}
        for part in parts:
            groups.setdefault(trained[part] if padding == AUTO_PADDING else padding, []).append(part)
        those = [(token.only(group), tuple(group)) for group in groups.values()]
        made[parts] = tuple(ProbeContext(*one.context(padding, text), one.part_rows, group) for one, group in those)
    return {layer: made[parts] for layer, parts in reading.items()}


def padded_rows(
    rows: torch.Tensor, padding: str, text: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill a token's context up to 77 rows, as a prompt's embedding has (PartEdit, App. D).

    Args:
        rows: (R, D) of the token, background first.
        padding: ``background`` repeats row 0 (as the published ``BG`` and ``SOT_E`` do), ``start_of_text`` the first
            and ``end_of_text`` the last row of ``text``; ``context`` takes the rows of ``text`` at these positions,
            R to 76 (fewer if it is shorter); ``zero`` adds zeros; ``none`` adds nothing.
        text: (L, D) embedding of the prompt, or (B, L, D) of one prompt for each image; for those that need it.

    Returns:
        Distinct rows (K, D), the token's own first (with prompts for several images (B, K, D)), and (K,) logarithms of
        their counts.

    Raises:
        ValueError: an unknown padding, or one that needs ``text`` without it.
    """
    count = rows.shape[0]
    left = TOKEN_CONTEXT - count
    if padding not in PADDINGS[1:]:
        raise ValueError(f"padding: {padding!r} is not one of {', '.join(PADDINGS)}.")
    if padding in ("background", "none") or not left:
        repeats = left if padding == "background" else 0
        return rows, torch.tensor([1.0 + repeats] + [1.0] * (count - 1)).log()
    if padding == "zero":
        fill, each = torch.zeros_like(rows[:1]), float(left)
    elif text is None:
        raise ValueError(f"padding: {padding!r} needs the embedding of the prompt.")
    elif padding == "context":
        fill, each = text[..., count:TOKEN_CONTEXT, :].to(rows), 1.0
    else:
        fill, each = (text[..., :1, :] if padding == "start_of_text" else text[..., -1:, :]).to(rows), float(left)
    if fill.ndim == 3 and fill.shape[0] == 1:
        fill = fill[0]
    own = rows if fill.ndim == 2 else rows.expand(fill.shape[0], -1, -1)
    counts = [1.0] * count + [each] * fill.shape[-2]
    return torch.cat([own, fill], dim=-2), torch.tensor(counts).log()


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
    paddings = tuple(padding for token in tokens for padding in (token.paddings or ("",) * token.parts))
    return PartToken(
        torch.cat(rows),
        tuple(part_rows),
        tuple(names),
        family,
        {"combined_from": ", ".join(names)},
        layers if any(layers) else (),
        paddings if any(paddings) else (),
    )
