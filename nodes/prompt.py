"""PartEditPrompt."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..core.partedit.alignment import MODES
from ..core.partedit.prompt import EditPrompt, FollowSettings, build_edit_prompt, parse_word_values
from . import io_types
from .common import advanced

NEW_PICTURE, SAME_PICTURE = "new picture", "same picture"


class PartEditPrompt(io.ComfyNode):
    """A source prompt and its edits, aligned word by word."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PartEditPrompt",
            display_name="PartEdit Prompt",
            category="PartEdit",
            description="Encodes a source prompt and one or more edited prompts, and aligns their words.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                io.String.Input(
                    "source",
                    multiline=True,
                    default="a closeup of a man outdoors",
                    tooltip="What the source picture shows. For a real picture, describe it.",
                ),
                io.String.Input(
                    "edit",
                    multiline=True,
                    default="a closeup of a robot outdoors",
                    tooltip="The source prompt with the part changed. Each line is an edit of its own, giving its own "
                    "picture.",
                ),
                advanced(
                    io.Combo.Input(
                        "prompt_to_prompt",
                        options=list(MODES),
                        default="auto",
                        optional=True,
                        tooltip="How the edit's attention follows the source's. auto aligns words and phrases; replace "
                        "needs equal word counts, refine aligns tokens (both as published); off lets the edit go its "
                        "own way.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "cross_replace",
                        default=1.0,
                        min=0.0,
                        max=1.0,
                        step=0.05,
                        optional=True,
                        tooltip="Share of the steps during which unchanged words follow the source's attention.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "changed_words",
                        default=0.4,
                        min=0.0,
                        max=1.0,
                        step=0.05,
                        optional=True,
                        tooltip="The same for changed or inserted words. Lower lets the edit differ more in shape.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "self_replace",
                        default=0.0,
                        min=0.0,
                        max=1.0,
                        step=0.05,
                        optional=True,
                        tooltip="Share of the steps during which self-attention follows the source. Keeps its layout.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "word_fractions",
                        default="",
                        optional=True,
                        tooltip=(
                            "Shares for single words or phrases of the edit: robot=0.4, red hat=0.8. "
                            "Override both above."
                        ),
                    )
                ),
                advanced(
                    io.String.Input(
                        "word_weights",
                        default="",
                        optional=True,
                        tooltip="Strengthen or weaken words' attention (re-weighting): smiling=2, beard=0.5.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "part",
                        default="",
                        optional=True,
                        tooltip=(
                            "Names of the parts this edit is for, separated by commas. Empty: all parts of the token."
                        ),
                    )
                ),
                io_types.EditPrompt.Input(
                    "previous",
                    optional=True,
                    tooltip=(
                        "Edits of the same source to go on from; its source prompt is used and 'source' is ignored."
                    ),
                ),
                advanced(
                    io.Combo.Input(
                        "join",
                        options=[NEW_PICTURE, SAME_PICTURE],
                        default=NEW_PICTURE,
                        optional=True,
                        tooltip="With 'previous': another picture of its own, or another part of the last picture "
                        "(a robotic head and a wooden torso; both need a part).",
                    )
                ),
            ],
            outputs=[
                io_types.EditPrompt.Output(
                    "EDIT_PROMPT", display_name="edit_prompt", tooltip="Source, edits and their alignment."
                ),
                io.Conditioning.Output(
                    "source_conditioning",
                    display_name="source",
                    tooltip="The source prompt, for InvertLatent or a KSampler.",
                ),
                io.String.Output(
                    "alignment", display_name="alignment", tooltip="What was aligned with what, in words."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        source: str,
        edit: str,
        prompt_to_prompt: str = "auto",
        cross_replace: float = 1.0,
        changed_words: float = 0.4,
        self_replace: float = 0.0,
        word_fractions: str = "",
        word_weights: str = "",
        part: str = "",
        previous: EditPrompt | None = None,
        join: str = NEW_PICTURE,
    ) -> io.NodeOutput:
        if clip is None:
            raise ValueError("clip: is empty. Connect the CLIP output of the checkpoint loader.")
        follow = FollowSettings(
            prompt_to_prompt,
            cross_replace,
            changed_words,
            parse_word_values(word_fractions, "word_fractions"),
            parse_word_values(word_weights, "word_weights"),
            self_replace,
        )
        parts = tuple(name.strip() for name in part.split(",") if name.strip())
        text = source if previous is None else previous.source_text
        built = build_edit_prompt(clip, text, edit.splitlines(), follow, parts, previous.source if previous else None)
        if previous is not None and join == SAME_PICTURE:
            built = previous.with_same_picture([p for one in built.edits for p in one.prompts])
        elif previous is not None:
            built = previous.with_new_pictures(built.edits)
        alignment = built.alignment_text
        return io.NodeOutput(built, built.source, alignment, ui=ui.PreviewText(alignment))
