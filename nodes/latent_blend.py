"""LatentBlendSampler: edits a masked region of an inverted image on any model, by blending latents."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..core.decoding import picture_decoder
from ..core.inversion.masked_replay import MaskedReplaySettings, masked_replay
from . import io_types
from .checks import checked
from .common import aliases

STANDARD = MaskedReplaySettings()
NOT_DECODED = "vae: not connected. Latent Blend Sampler needs it for its image output."


class LatentBlendSampler(io.ComfyNode):
    """Trajectory, edit prompt and mask → edited latent, without touching the model's attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentBlendSampler",
            display_name="Latent Blend Sampler",
            category="PartEdit",
            **aliases("latent blending", "blended diffusion", "part edit", "Flux edit", "masked edit"),
            description="Edits a masked region of an inverted image on any model, flow models too. Outside the mask "
            "the latent is held at the image's own at every step. Unlike Feature Blend Sampler, it blends latents, not "
            "features.",
            inputs=[
                io.Model.Input("model", tooltip="The model the trajectory was made with; any that can be inverted."),
                io_types.Trajectory.Input("trajectory", tooltip="From Invert Latent, in any method."),
                io.Conditioning.Input("edit", tooltip="Describes the image after the edit, from CLIP Text Encode."),
                io.Mask.Input("mask", tooltip="Where to edit: one mask, or one per image. Soft values blend."),
                io.Float.Input(
                    "cfg",
                    default=STANDARD.cfg,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Guidance scale. Flow models: their usual one; 1 for guidance-distilled models such as "
                    "Flux dev. Values other than 1 need negative.",
                ),
                io.Float.Input(
                    "strength",
                    default=STANDARD.strength,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="How much may change: the fraction of the trajectory's steps that is edited. 1 starts from "
                    "its noisiest level.",
                ),
                io.Float.Input(
                    "blend_until",
                    display_name="blend until",
                    default=STANDARD.blend_until,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="How long the outside is held: fraction of the edited steps. 1: to the end, so that "
                    "nothing changes there. Lower values blend the seams and let the edit grow beyond the mask.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="Negative prompt, or the source prompt for a stronger edit. Needed when cfg is not 1.",
                ),
                io.Conditioning.Input(
                    "source",
                    optional=True,
                    tooltip="Describes the image as it is. Not needed if Invert Latent had a prompt.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Decodes the result for the image output."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The edited latent."),
                io.Image.Output(display_name="image", tooltip="The edited image, decoded. Needs vae."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        trajectory: Any,
        edit: list,
        mask: torch.Tensor,
        cfg: float,
        strength: float,
        blend_until: float,
        negative: list | None = None,
        source: list | None = None,
        vae: Any = None,
    ) -> io.NodeOutput:
        settings = MaskedReplaySettings(cfg, strength, blend_until)
        decode = None if vae is None else picture_decoder(vae, model)
        latent = masked_replay(model, trajectory, edit, mask, settings, negative=negative, source=source)
        if decode is None:
            return io.NodeOutput({"samples": latent}, ExecutionBlocker(NOT_DECODED))
        return io.NodeOutput({"samples": latent}, torch.stack([decode(one[None]) for one in latent]))
