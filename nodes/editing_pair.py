"""EditingPair: one object of the picture and what becomes of it."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..core.oir.masks import one_mask
from ..core.oir.prompts import common_source_prompt, find_phrase, guided_prompt
from ..core.oir.types import EditingPair as Pair
from . import io_types
from .common import advanced


class EditingPair(io.ComfyNode):
    """Phrases and mask → EDITING_PAIR, appended to the pairs before it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EditingPair",
            display_name="Editing Pair",
            category="OIR",
            description="Names one object, what it shall become, and where it is. Chain several through previous_pairs "
            "to edit several objects at once.",
            inputs=[
                io.Clip.Input("clip", tooltip="Encodes the guided prompt."),
                io.String.Input(
                    "source_prompt",
                    multiline=True,
                    default="",
                    tooltip="Describes the whole picture as it is, the same text for all pairs. Connect "
                    "InvertLatent's source_prompt.",
                ),
                io.String.Input(
                    "source_phrase",
                    default="",
                    tooltip="The object as the source prompt calls it: whole words that occur in it, any case.",
                ),
                io.String.Input("target_phrase", default="", tooltip="What the object becomes."),
                io.Mask.Input(
                    "mask",
                    tooltip="Where the object is: one mask of the picture's shape, at any resolution. From a "
                    "segmenter, painted, or from PartAttentionMask.",
                ),
                advanced(
                    io.Int.Input(
                        "occurrence",
                        default=1,
                        min=1,
                        max=100,
                        tooltip="Which one, when the phrase comes several times in the prompt.",
                    )
                ),
                io.String.Input(
                    "guided_prompt",
                    multiline=True,
                    default="",
                    tooltip="Leave it empty to build it: the source prompt with this one phrase exchanged. Write it "
                    "to use other words; OIRReassemble then needs a target prompt of yours, too.",
                ),
                io_types.EditingPairs.Input(
                    "previous_pairs",
                    optional=True,
                    tooltip="Pairs that come before this one. Earlier pairs have priority where masks overlap.",
                ),
            ],
            outputs=[
                io_types.EditingPairs.Output(
                    display_name="pairs",
                    tooltip="The previous pairs and this one, in order.",
                ),
                io.String.Output(display_name="guided_prompt", tooltip="The prompt that edits this object alone."),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        source_prompt: str,
        source_phrase: str,
        target_phrase: str,
        mask: torch.Tensor,
        occurrence: int,
        guided_prompt: str,
        previous_pairs: tuple[Pair, ...] = (),
    ) -> io.NodeOutput:
        pair = make_pair(clip, source_prompt, source_phrase, target_phrase, mask, occurrence, guided_prompt)
        pairs = (*(previous_pairs or ()), pair)
        common_source_prompt(pairs)
        return io.NodeOutput(pairs, pair.guided_prompt)


def make_pair(
    clip: Any,
    source_prompt: str,
    source_phrase: str,
    target_phrase: str,
    mask: torch.Tensor,
    occurrence: int,
    guided: str,
) -> Pair:
    """Check the inputs and encode the guided prompt.

    Raises:
        ValueError: an input that cannot work, named in the message.
    """
    if clip is None:
        raise ValueError("clip: it is empty. The checkpoint has no text encoder; load one with a CLIP loader.")
    if not target_phrase.strip():
        raise ValueError("target_phrase is empty. Type what the object shall become.")
    # Phrases are counted from the prompt's first word, so that all pairs of a prompt mean the same places.
    source_prompt = source_prompt.strip()
    span = None
    if guided.strip():
        prompt = guided.strip()
    else:
        span = find_phrase(source_prompt, source_phrase, occurrence)
        prompt = guided_prompt(source_prompt, span, target_phrase)
    return Pair(
        source_prompt=source_prompt,
        source_phrase=source_phrase.strip(),
        target_phrase=target_phrase.strip(),
        guided_prompt=prompt,
        mask=one_mask(mask, f"mask of '{source_phrase}' → '{target_phrase}'"),
        conditioning=clip.encode_from_tokens_scheduled(clip.tokenize(prompt)),
        span=span,
    )
