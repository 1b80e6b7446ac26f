"""Choosing the cross-attention layers that part maps are read from, by block names so that any depth works.

`choose_layers` knows presets and blocks; `reading_layers` also knows ``auto``, each token on its own layers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..unet import CrossLayer, LayerKey
from .tokens import PartToken

PRESETS = ("published", "decoder", "first-8", "all")
# Where a token is read: on the layers it was trained on, and on these if that is not recorded.
AUTO, UNRECORDED = "auto", "published"
# For tooltips, where people choose layers; the help page of Part Attention Mask says more.
FIRST_8_DOUBT = (
    "first-8: the first eight decoder layers, as the paper's text has it; its layer numbers may mean middle:0-7, which "
    "is not settled."
)

# The published SDXL implementation averages 26 of the 30 layers in the decoder's first attention block.
_PUBLISHED_DECODER_SHARE = 26 / 30
_FIRST = 8
_RULE = re.compile(r"(input|middle|output)(?:\.(\d{1,4}))?(?::(\d{1,4})(?:-(\d{1,4}))?)?")
_SHOWN = 80


def reading_layers(layers: Sequence[CrossLayer], choice: str, token: PartToken) -> dict[LayerKey, tuple[int, ...]]:
    """The layers that a token is read on, in execution order, and the indices of the parts that each counts for.

    Args:
        layers: all cross-attention layers of the model.
        choice: ``auto``: each part on the layers it was trained on (`PartToken.layers`), or on ``published`` ones if
            its file does not say; or a choice for all parts, see `choose_layers`.

    Raises:
        ValueError: see `choose_layers`; or a part was trained on layers that this model does not have.
    """
    if choice.strip() != AUTO:
        return dict.fromkeys(choose_layers(layers, choice), tuple(range(token.parts)))
    found: dict[LayerKey, list[int]] = {}
    for part, recorded in enumerate(token.layers or ("",) * token.parts):
        for key in _recorded(layers, recorded, token.names[part]):
            found.setdefault(key, []).append(part)
    return {layer.key: tuple(found[layer.key]) for layer in layers if layer.key in found}


def _recorded(layers: Sequence[CrossLayer], recorded: str, name: str) -> tuple[LayerKey, ...]:
    if not recorded.strip() or not layers:
        return choose_layers(layers, UNRECORDED)
    try:
        return choose_layers(layers, recorded)
    except ValueError as error:
        shown = recorded if len(recorded) <= _SHOWN else recorded[:_SHOWN] + " …"
        raise ValueError(
            f"layers: with {AUTO!r}, the part token for {name!r} is read on the layers it was trained on, {shown!r}, "
            f"which this model does not have. It has: {_summary(layers)}. Use a token trained for this model, or set "
            f"layers to {', '.join(PRESETS)} or block names."
        ) from error


def choose_layers(layers: Sequence[CrossLayer], choice: str) -> tuple[LayerKey, ...]:
    """Layers of a preset or of a list of blocks, in execution order.

    Args:
        layers: all cross-attention layers of the model (`core.unet.cross_layers`).
        choice: ``published``: the middle block, 26/30 of the decoder's first attention level and the encoder's first
            attention level (on SDXL the 40 layers 24–59 and 0–3 of the published code); ``decoder``: the whole decoder
            (PartEdit, Sec. 4.2); ``first-8``: the first eight decoder layers, which tokens are trained on (App. E;
            its "indices [24,32]" are those only in the order encoder, decoder, middle: in running order, the published
            code's, 24 to 31 are ``middle:0-7``, and which was meant is open); ``all``; or names separated by commas:
            ``middle``, ``output.3``, ``output.0:0-5`` (transformer blocks 0 to 5).

    Raises:
        ValueError: an unknown name, or a choice that matches no layer of this model.
    """
    choice = choice.strip()
    if not layers:
        raise ValueError("layers: this model has no cross-attention layer. Connect an SD1.x, SD2.x or SDXL model.")
    decoder = [layer for layer in layers if layer.key.block == "output"]
    if choice == "all":
        chosen = {layer.key for layer in layers}
    elif choice == "decoder":
        chosen = {layer.key for layer in decoder}
    elif choice == "first-8":
        chosen = {layer.key for layer in decoder[:_FIRST]}
    elif choice == "published":
        chosen = _published(layers, decoder)
    else:
        chosen = _named(layers, choice)
    if not chosen:
        raise ValueError(f"layers: {choice!r} matches no layer of this model. It has: {_summary(layers)}.")
    return tuple(layer.key for layer in layers if layer.key in chosen)


def _published(layers: Sequence[CrossLayer], decoder: Sequence[CrossLayer]) -> set[LayerKey]:
    chosen = {layer.key for layer in layers if layer.key.block == "middle"}
    if decoder:
        first = [layer.key for layer in decoder if layer.level == decoder[0].level]
        chosen.update(first[: max(1, round(len(first) * _PUBLISHED_DECODER_SHARE))])
    encoder = [layer for layer in layers if layer.key.block == "input"]
    chosen.update(layer.key for layer in encoder if layer.level == encoder[0].level)
    return chosen


def _named(layers: Sequence[CrossLayer], choice: str) -> set[LayerKey]:
    chosen: set[LayerKey] = set()
    for name in filter(None, (part.strip() for part in choice.split(","))):
        rule = _RULE.fullmatch(name)
        if rule is None:
            raise ValueError(
                f"layers: {name!r} is neither a preset ({', '.join(PRESETS)}) nor a block name such as 'middle', "
                f"'output.3' or 'output.0:0-5'. This model has: {_summary(layers)}."
            )
        block, number, first, last = rule.groups()
        last = first if last is None else last
        found = {
            layer.key
            for layer in layers
            if layer.key.block == block
            and (number is None or layer.key.number == int(number))
            and (first is None or int(first) <= layer.key.index <= int(last))
        }
        if not found:
            raise ValueError(f"layers: this model has no layer {name!r}. It has: {_summary(layers)}.")
        chosen |= found
    return chosen


def _summary(layers: Sequence[CrossLayer]) -> str:
    counts: dict[str, int] = {}
    for layer in layers:
        name = "middle" if layer.key.block == "middle" else f"{layer.key.block}.{layer.key.number}"
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
