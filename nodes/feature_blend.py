"""FeatureBlendSampler and FeatureBlendGuider."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.samplers
import latent_preview
from comfy_api.latest import io

from ..core.partedit import guider as core_guider
from ..core.partedit.prompt import EditPrompt
from ..core.partedit.sampler import SampleSettings, feature_blend
from ..core.partedit.tokens import PartToken
from .blend_inputs import blend_inputs, make_inputs, omega_input
from .common import EditPromptType, PartTokenType, TrajectoryType, advanced

GUIDER_ROWS = ("edits", "source and edits")


class FeatureBlendSampler(io.ComfyNode):
    """Sample a source picture and its part edits together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FeatureBlendSampler",
            display_name="Feature Blend Sampler",
            category="PartEdit",
            description=(
                "Edits a part of a picture by text: the edit is blended into the source inside the "
                "model, under a "
                "mask that a part token finds at every step."
            ),
            inputs=[
                io.Model.Input("model", tooltip="SD1.x, SD2.x, SDXL or the demo model."),
                EditPromptType.Input("edit_prompt", tooltip="Source and edited prompts (PartEditPrompt)."),
                io.Conditioning.Input("negative", tooltip="Negative prompt (CLIPTextEncode)."),
                io.Latent.Input(
                    "latent_image",
                    optional=True,
                    tooltip="Size of the picture (EmptyLatentImage). Not needed with a trajectory.",
                ),
                PartTokenType.Input(
                    "part_token", optional=True, tooltip="Finds the part (LoadPartToken). Or give a mask."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the start noise.",
                ),
                io.Int.Input("steps", default=30, min=1, max=10000, tooltip="Sampling steps."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale."),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.SAMPLER_NAMES,
                    default="euler",
                    tooltip="Any sampler; random ones give source and edits the same noise.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.SCHEDULER_NAMES,
                    default="normal",
                    tooltip="Spacing of the noise levels.",
                ),
                io.Float.Input(
                    "edit_steps",
                    default=1.0,
                    min=0.0,
                    max=10000.0,
                    step=0.01,
                    tooltip=(
                        "How long the edit is held to the mask: up to 1 a share of the steps, above 1 a "
                        "number of steps. "
                        "Earlier release lets the edit grow beyond the part."
                    ),
                ),
                omega_input(),
                TrajectoryType.Input(
                    "trajectory",
                    optional=True,
                    tooltip="A real picture (InvertLatent): it is the source, at its own steps.",
                ),
                advanced(
                    io.Float.Input(
                        "denoise",
                        default=1.0,
                        min=0.01,
                        max=1.0,
                        step=0.01,
                        optional=True,
                        tooltip="Below 1: start from latent_image (or late in the trajectory) instead of pure noise.",
                    )
                ),
                *blend_inputs(),
                advanced(
                    io.Int.Input(
                        "edits_per_pass",
                        default=0,
                        min=0,
                        max=64,
                        optional=True,
                        tooltip=(
                            "Edits sampled in one batch; 0 for all. Fewer needs less memory and gives the "
                            "same pictures."
                        ),
                    )
                ),
            ],
            outputs=[
                io.Latent.Output("edited", display_name="edited", tooltip="The edited pictures, edit by edit."),
                io.Latent.Output("source", display_name="source", tooltip="The source picture."),
                io.Mask.Output("MASK", display_name="mask", tooltip="Final soft mask of every edited picture."),
                io.Image.Output("step_masks", display_name="masks per step", tooltip="The mask after each step."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        edit_prompt: EditPrompt,
        negative: list,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        edit_steps: float,
        omega: float,
        latent_image: dict | None = None,
        part_token: PartToken | None = None,
        trajectory: Any = None,
        denoise: float = 1.0,
        edits_per_pass: int = 0,
        paste_back: str = "off",
        **options: Any,
    ) -> io.NodeOutput:
        inputs = make_inputs(edit_prompt, part_token, edit_steps, omega, options)
        sampling = SampleSettings(
            seed, steps, cfg, sampler_name, scheduler, denoise, edits_per_pass, paste_back == "latent"
        )
        progress = latent_preview.prepare_callback(model, steps)
        result = feature_blend(model, inputs, negative, latent_image, sampling, trajectory, progress)
        device = comfy.model_management.intermediate_device()
        images = result.step_masks[..., None].expand(-1, -1, -1, 3).contiguous()
        return io.NodeOutput(
            {"samples": result.edited.to(device)}, {"samples": result.source.to(device)}, result.mask, images
        )


class FeatureBlendGuider(io.ComfyNode):
    """The same edit as a guider, for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FeatureBlendGuider",
            display_name="Feature Blend Guider",
            category="PartEdit",
            description="Part edits as a guider, for SamplerCustomAdvanced with any sampler and sigmas.",
            inputs=[
                io.Model.Input("model", tooltip="SD1.x, SD2.x, SDXL or the demo model."),
                EditPromptType.Input("edit_prompt", tooltip="Source and edited prompts (PartEditPrompt)."),
                io.Conditioning.Input("negative", tooltip="Negative prompt (CLIPTextEncode)."),
                PartTokenType.Input(
                    "part_token", optional=True, tooltip="Finds the part (LoadPartToken). Or give a mask."
                ),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale."),
                io.Float.Input(
                    "edit_steps",
                    default=1.0,
                    min=0.0,
                    max=10000.0,
                    step=0.01,
                    tooltip=(
                        "How long the edit is held to the mask: up to 1 a share of the steps, above 1 a "
                        "number of steps."
                    ),
                ),
                omega_input(),
                io.Combo.Input(
                    "output_rows",
                    options=list(GUIDER_ROWS),
                    default=GUIDER_ROWS[0],
                    tooltip="What the sampler's output holds: the edited pictures, or the source before them.",
                ),
                io.Guider.Input(
                    "guider",
                    optional=True,
                    tooltip=(
                        "A guider to combine predictions with instead of plain CFG (DualCFGGuider …); its "
                        "positive prompt is "
                        "replaced, and cfg and negative above are ignored."
                    ),
                ),
                *blend_inputs(),
            ],
            outputs=[io.Guider.Output("GUIDER", display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
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
        paste_back: str = "off",
        **options: Any,
    ) -> io.NodeOutput:
        inputs = make_inputs(edit_prompt, part_token, edit_steps, omega, options)
        blend = core_guider.FeatureBlendGuider(
            model, inputs, guider, output_rows == GUIDER_ROWS[1], paste_back == "latent"
        )
        blend.set_negative(negative)
        blend.set_cfg(cfg)
        return io.NodeOutput(blend)
