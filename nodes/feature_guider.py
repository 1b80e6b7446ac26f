"""FeatureBlendGuider."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.partedit.guider import BlendGuider
from ..core.partedit.prompt import EditPrompt
from ..core.partedit.tokens import PartToken
from ..core.paste_back import CHOICES, PasteBack
from . import io_types
from .blend_inputs import beyond_sliders, blend_inputs, cfg_input, edit_steps_input, make_inputs, omega_input
from .checks import checked
from .common import aliases

GUIDER_ROWS = ("edits", "source and edits")
# A guider gives latents only.
PASTE_BACK = tuple(choice for choice in CHOICES if choice != "pixels")


class FeatureBlendGuider(io.ComfyNode):
    """The edit of FeatureBlendSampler as a guider, for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FeatureBlendGuider",
            display_name="Feature Blend Guider",
            category="PartEdit",
            **aliases("PartEdit guider", "part edit", "SamplerCustomAdvanced"),
            description="Part edits as a guider: connect it to SamplerCustomAdvanced, with any sampler and sigmas.",
            inputs=[
                io.Model.Input("model", tooltip="SD1.x, SD2.x, SDXL or the demo model."),
                io_types.EditPrompt.Input("edit_prompt", tooltip="Source and edit prompts, from PartEdit Prompt."),
                io.Conditioning.Input("negative", tooltip="Negative prompt, from CLIP Text Encode."),
                io_types.PartToken.Input(
                    "part_token", optional=True, tooltip="Finds the part, from Load Part Token. Optional with a mask."
                ),
                cfg_input(),
                edit_steps_input(),
                omega_input(),
                io.Combo.Input(
                    "output_rows",
                    display_name="output rows",
                    options=list(GUIDER_ROWS),
                    default=GUIDER_ROWS[0],
                    tooltip="What the sampler returns: the edits only, or the source images followed by the edits.",
                ),
                io.Guider.Input(
                    "guider",
                    optional=True,
                    tooltip="A guider to use instead of plain CFG, such as Dual CFG Guider. Its positive prompt "
                    "and its model are replaced; cfg and negative above are ignored.",
                ),
                *blend_inputs(PASTE_BACK),
            ],
            outputs=[io.Guider.Output("GUIDER", display_name="guider", tooltip="Connect to SamplerCustomAdvanced.")],
        )

    @classmethod
    def validate_inputs(cls, edit_steps: Any = None, omega: Any = None) -> bool | str:
        return beyond_sliders(edit_steps, omega)

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        edit_prompt: EditPrompt,
        negative: list,
        cfg: float,
        edit_steps: float,
        omega: float,
        output_rows: str,
        part_token: PartToken | None = None,
        guider: Any = None,
        paste_back: str = PASTE_BACK[0],
        **options: Any,
    ) -> io.NodeOutput:
        inputs = make_inputs(edit_prompt, part_token, edit_steps, omega, options)
        blend = BlendGuider(model, inputs, guider, output_rows == GUIDER_ROWS[1], PasteBack.of(paste_back).latent)
        blend.set_negative(negative)
        blend.set_cfg(cfg)
        return io.NodeOutput(blend)
