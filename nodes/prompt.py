"""PartEditPrompt."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.partedit.alignment import MODES, FollowSettings
from ..core.partedit.prompt import EditPrompt, build_edit_prompt, parse_word_values
from ..core.text import split_lines
from . import io_types
from .checks import checked
from .common import advanced, aliases, shows_results

STANDARD = FollowSettings()
NEW_PICTURE, SAME_PICTURE = "new picture", "same picture"


class PartEditPrompt(io.ComfyNode):
    """A source prompt and its edits, aligned word by word."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="PartEditPrompt",
            display_name="PartEdit Prompt",
            category="PartEdit",
            **aliases("prompt-to-prompt", "p2p", "edit prompt"),
            description="Encodes a source prompt and one or more edit prompts, and aligns their words.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                io.String.Input(
                    "source",
                    multiline=True,
                    default="a closeup of a man outdoors",
                    tooltip="What the source image shows. For a real image, describe it.",
                ),
                io.String.Input(
                    "edit",
                    multiline=True,
                    default="a closeup of a robot outdoors",
                    tooltip="The source prompt with the part changed, or only the change: man -> robot. A name in "
                    "angle brackets picks a part of the token: man -> robot <head>. Each line is a separate edit and "
                    "gives its own image.",
                ),
                advanced(
                    io.Combo.Input(
                        "prompt_to_prompt",
                        display_name="prompt to prompt",
                        options=list(MODES),
                        default=STANDARD.mode,
                        optional=True,
                        tooltip="How the edit's attention follows the source's. auto: aligns words and phrases. "
                        "replace: as published, needs equal word counts. refine: as published, aligns tokens. off: "
                        "the edit is free.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "cross_replace",
                        display_name="cross-attention replace",
                        default=STANDARD.cross_replace,
                        min=0.0,
                        max=1.0,
                        step=0.05,
                        display_mode=io.NumberDisplay.slider,
                        optional=True,
                        tooltip="Fraction of the steps in which unchanged words follow the source's attention.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "changed_words",
                        display_name="changed words",
                        default=STANDARD.changed_words,
                        min=0.0,
                        max=1.0,
                        step=0.05,
                        display_mode=io.NumberDisplay.slider,
                        optional=True,
                        tooltip="The same for changed and inserted words. Lower lets the edit change shape more.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "self_replace",
                        display_name="self-attention replace",
                        default=STANDARD.self_replace,
                        min=0.0,
                        max=1.0,
                        step=0.05,
                        display_mode=io.NumberDisplay.slider,
                        optional=True,
                        tooltip="Fraction of the steps in which self-attention follows the source. Higher keeps its "
                        "layout.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "word_fractions",
                        display_name="word fractions",
                        default="",
                        optional=True,
                        tooltip=(
                            "Fractions for single words or phrases of the edit: robot=0.4, red hat=0.8. They override "
                            "cross-attention replace and changed words."
                        ),
                    )
                ),
                advanced(
                    io.String.Input(
                        "word_weights",
                        display_name="word weights",
                        default="",
                        optional=True,
                        tooltip="Attention weights for words (re-weighting): smiling=2, beard=0.5.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "part",
                        default="",
                        optional=True,
                        tooltip=(
                            "Names of the parts this edit applies to, separated by commas. Empty: all parts of the "
                            "token. A line of edit with a name in angle brackets uses that name instead."
                        ),
                    )
                ),
                io_types.EditPrompt.Input(
                    "previous",
                    optional=True,
                    tooltip=("Edits of the same source to add to. Its source prompt is used; source above is ignored."),
                ),
                advanced(
                    io.Combo.Input(
                        "join",
                        options=[NEW_PICTURE, SAME_PICTURE],
                        default=NEW_PICTURE,
                        optional=True,
                        tooltip="With previous: new picture gives another image; same picture edits another part of "
                        "the last one (a robotic head and a wooden torso; both edits need a part).",
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
                    tooltip="Conditioning of the source prompt, for Invert Latent or KSampler.",
                ),
                io.String.Output("alignment", display_name="alignment", tooltip="Which words were matched, as text."),
            ],
        )
        return shows_results(schema)

    @classmethod
    @checked
    def execute(
        cls,
        clip: Any,
        source: str,
        edit: str,
        prompt_to_prompt: str = STANDARD.mode,
        cross_replace: float = STANDARD.cross_replace,
        changed_words: float | None = STANDARD.changed_words,
        self_replace: float = STANDARD.self_replace,
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
            self_replace,
            parse_word_values(word_fractions, "word_fractions"),
            parse_word_values(word_weights, "word_weights"),
        )
        parts = tuple(name.strip() for name in part.split(",") if name.strip())
        text = source if previous is None else previous.source_text
        built = build_edit_prompt(clip, text, split_lines(edit), follow, parts, previous.source if previous else None)
        threads = built.threads  # of this node's own edits: their words are set here
        if previous is not None and join == SAME_PICTURE:
            built = previous.with_same_picture([p for one in built.edits for p in one.prompts])
        elif previous is not None:
            built = previous.with_new_pictures(built.edits)
        alignment = built.alignment_text
        return io.NodeOutput(built, built.source, alignment, ui={"text": (alignment,), "partedit_threads": threads})
