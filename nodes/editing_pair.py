"""EditingPair: one object in the image and what to turn it into."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..core.encoding import encode
from ..core.oir.masks import one_mask
from ..core.oir.prompts import common_source_prompt, find_phrase, guided_prompt
from ..core.oir.types import Pair
from ..core.text import composed
from . import io_types
from .checks import checked
from .common import advanced, aliases, guidance_input


class EditingPair(io.ComfyNode):
    """Phrases and mask → EDITING_PAIR, appended to the previous pairs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EditingPair",
            display_name="Editing Pair",
            category="OIR",
            **aliases("OIR", "object to object", "replace object"),
            description="Names one object, what to turn it into, and where it is. Chain several through previous pairs "
            "to edit several objects at once.",
            inputs=[
                io.Clip.Input("clip", tooltip="Encodes the guided prompt."),
                io.String.Input(
                    "source_prompt",
                    display_name="source prompt",
                    multiline=True,
                    default="",
                    tooltip="Describes the whole image as it is; the same text for all pairs. Connect Invert Latent's "
                    "source prompt.",
                ),
                io.String.Input(
                    "source_phrase",
                    display_name="source phrase",
                    default="",
                    tooltip="The object, in the words of the source prompt. Whole words; case does not matter.",
                ),
                io.String.Input(
                    "target_phrase", display_name="target phrase", default="", tooltip="What to turn the object into."
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="Where the object is: one mask with the image's aspect ratio, at any resolution. Painted, "
                    "from a segmentation node, or from Part Attention Mask.",
                ),
                advanced(
                    io.Int.Input(
                        "occurrence",
                        default=1,
                        min=1,
                        max=100,
                        tooltip="Which occurrence to use if the phrase appears more than once in the prompt.",
                    )
                ),
                io.String.Input(
                    "guided_prompt",
                    display_name="guided prompt",
                    multiline=True,
                    default="",
                    tooltip="Empty: the source prompt with this one phrase replaced. Your own text overrides it; OIR "
                    "Reassemble then needs a target prompt as well.",
                ),
                io_types.EditingPairs.Input(
                    "previous_pairs",
                    optional=True,
                    tooltip="The pairs before this one. Where masks overlap, earlier pairs take priority.",
                ),
                guidance_input("the guided prompt"),
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
    @checked
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
        guidance: float = 0.0,
    ) -> io.NodeOutput:
        pair = make_pair(clip, source_prompt, source_phrase, target_phrase, mask, occurrence, guided_prompt, guidance)
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
    guidance: float = 0.0,
) -> Pair:
    """Check the inputs and encode the guided prompt.

    Raises:
        ValueError: an input is invalid; the message names it.
    """
    if clip is None:
        raise ValueError("clip: is empty. The checkpoint has no text encoder; load one with a CLIP loader.")
    if not target_phrase.strip():
        raise ValueError("target_phrase: is empty. Write what to turn the object into.")
    # Positions are counted from the prompt's first character, so that they agree between all pairs of a prompt.
    source_prompt = composed(source_prompt)
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
        conditioning=encode(clip, prompt, guidance),
        span=span,
    )
