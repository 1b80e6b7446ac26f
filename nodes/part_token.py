"""LoadPartToken, CombinePartTokens and SavePartToken."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..core.partedit.published import published_names
from ..core.partedit.token_facts import token_content
from ..core.partedit.token_files import load_token
from ..core.partedit.tokens import PartToken, combine
from . import io_types
from .checks import checked
from .common import aliases, with_extra
from .token_folder import FOLDER, described_tokens, find_token, keep_token, list_tokens, token_contents

MAX_TOKENS = 6


class LoadPartToken(io.ComfyNode):
    """Loads a part token from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = list_tokens()
        return io.Schema(
            node_id="LoadPartToken",
            display_name="Load Part Token",
            category="PartEdit/tokens",
            **aliases("part embedding", "textual inversion", "PartEdit token"),
            description=(
                "Loads a part token: learned embedding rows that find one part of an object, such as a robot's head."
            ),
            inputs=[
                with_extra(
                    io.Combo.Input(
                        "part_token",
                        display_name="part token",
                        options=[*files, *published_names(files)],
                        tooltip=(
                            f"A token file from models/{FOLDER}, or one that ships with the pack. It must match the "
                            "model's family. Choosing a published token that is not installed tells you where to get "
                            "it; once it is there, it is found."
                        ),
                    ),
                    partedit_tokens=described_tokens(files),
                    partedit_contents=token_contents(files),
                ),
            ],
            outputs=[
                io_types.PartToken.Output(
                    "PART_TOKEN", display_name="part_token", tooltip="The token, with its part names."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, part_token: str | None = None, **_: Any) -> Any:
        if part_token is None:  # linked: decided by the other node's inputs
            return None
        # Training may have replaced the file under the same name.
        try:
            path = find_token(part_token)
        except ValueError:
            return part_token
        return f"{path}:{token_content(path)}"

    @classmethod
    def validate_inputs(cls, part_token: str | None = None) -> bool | str:
        if part_token is None:  # linked: not known before the other node has run
            return True
        try:
            find_token(part_token)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    @checked
    def execute(cls, part_token: str) -> io.NodeOutput:
        return io.NodeOutput(load_token(find_token(part_token)))


class CombinePartTokens(io.ComfyNode):
    """Joins part tokens, so that one run finds several parts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombinePartTokens",
            display_name="Combine Part Tokens",
            category="PartEdit/tokens",
            **aliases("merge part tokens", "several parts"),
            description="Joins part tokens of one model family, so that one run finds several parts (head and torso).",
            inputs=[
                io_types.PartToken.Input(
                    f"part_token_{number}",
                    optional=number > 1,
                    tooltip="A part token. All must be of the same model family, and no part may appear twice.",
                )
                for number in range(1, MAX_TOKENS + 1)
            ],
            outputs=[
                io_types.PartToken.Output("PART_TOKEN", display_name="part_token", tooltip="One token with all parts.")
            ],
        )

    @classmethod
    @checked
    def execute(cls, **tokens: PartToken) -> io.NodeOutput:
        ordered = [tokens.get(f"part_token_{number}") for number in range(1, MAX_TOKENS + 1)]
        return io.NodeOutput(combine([token for token in ordered if token is not None]))


class SavePartToken(io.ComfyNode):
    """Saves a part token to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SavePartToken",
            display_name="Save Part Token",
            category="PartEdit/tokens",
            **aliases("save part embedding"),
            description=(
                f"Saves a part token to models/{FOLDER} as a safetensors file, with its part names, model family and "
                "training settings, for Load Part Token."
            ),
            is_output_node=True,
            inputs=[
                io_types.PartToken.Input("part_token", tooltip="From Train Part Token or Combine Part Tokens."),
                io.String.Input(
                    "file_name",
                    display_name="file name",
                    default="my_part",
                    tooltip="A plain name, without folder or extension.",
                ),
                io.Combo.Input(
                    "if_it_exists",
                    display_name="if it exists",
                    options=["number it", "replace it"],
                    default="number it",
                    tooltip="number it: keep the existing file and add a number. replace it: overwrite, if it is a "
                    "part token.",
                ),
                io.String.Input(
                    "note", default="", multiline=True, optional=True, tooltip="A note to store in the file."
                ),
            ],
            outputs=[
                io_types.PartToken.Output("PART_TOKEN", display_name="part_token", tooltip="The token, unchanged."),
                io_types.ListEntry.Output(
                    "COMBO", display_name="file_name", tooltip="The name it was saved under, for Load Part Token."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, part_token: PartToken, file_name: str, if_it_exists: str, note: str = "") -> io.NodeOutput:
        path = keep_token(part_token, file_name, replace=if_it_exists == "replace it", note=note)
        return io.NodeOutput(part_token, path.name, ui=ui.PreviewText(f"Saved as {path}"))
