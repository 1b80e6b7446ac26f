"""FeatureBlendSampler."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.samplers
import latent_preview
import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..core.decoding import check_vae
from ..core.inversion.replay import NOISE_MAPS
from ..core.partedit.feature_blend import SampleSettings, feature_blend
from ..core.partedit.prompt import EditPrompt
from ..core.partedit.tokens import PartToken
from ..core.paste_back import CHOICES, PasteBack, check_originals, paste_pixels
from ..core.unet import latent_scale
from . import io_types
from .blend_inputs import beyond_sliders, blend_inputs, cfg_input, edit_steps_input, make_inputs, omega_input
from .checks import checked
from .common import advanced, aliases, shows_results
from .mask_strip import MaskStrip

STANDARD = SampleSettings()


class FeatureBlendSampler(io.ComfyNode):
    """Samples a source image and its part edits together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="FeatureBlendSampler",
            display_name="Feature Blend Sampler",
            category="PartEdit",
            **aliases("PartEdit", "edit part", "part edit", "KSampler"),
            description="Edits part of an image by text. Inside the model, the edit is blended into the source under a "
            "mask that a part token finds at every step.",
            inputs=[
                io.Model.Input("model", tooltip="SD1.x, SD2.x, SDXL or the demo model."),
                io_types.EditPrompt.Input("edit_prompt", tooltip="Source and edit prompts, from PartEdit Prompt."),
                io.Conditioning.Input("negative", tooltip="Negative prompt, from CLIP Text Encode."),
                io.Latent.Input(
                    "latent_image",
                    optional=True,
                    tooltip="Image size and batch size, from Empty Latent Image. Not needed with a trajectory.",
                ),
                io_types.PartToken.Input(
                    "part_token", optional=True, tooltip="Finds the part, from Load Part Token. Optional with a mask."
                ),
                io.Int.Input(
                    "seed",
                    default=STANDARD.seed,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed for the initial noise.",
                ),
                io.Int.Input("steps", default=STANDARD.steps, min=1, max=10000, tooltip="Sampling steps."),
                cfg_input(),
                io.Combo.Input(
                    "sampler_name",
                    display_name="sampler name",
                    options=comfy.samplers.SAMPLER_NAMES,
                    default=STANDARD.sampler,
                    tooltip="Stochastic samplers use the same noise for source and edits.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.SCHEDULER_NAMES,
                    default=STANDARD.scheduler,
                    tooltip="Spacing of the noise levels.",
                ),
                edit_steps_input(),
                omega_input(),
                io_types.Trajectory.Input(
                    "trajectory",
                    optional=True,
                    tooltip="A real image, from Invert Latent, as the source. It brings its own steps.",
                ),
                io.Float.Input(
                    "denoise",
                    default=STANDARD.denoise,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    optional=True,
                    tooltip="Strength of the edit. Below 1: start from latent image, or later in the trajectory, "
                    "instead of from pure noise.",
                ),
                *blend_inputs(CHOICES),
                advanced(
                    io.Int.Input(
                        "edits_per_pass",
                        display_name="edits per pass",
                        default=STANDARD.edits_per_pass,
                        min=0,
                        max=64,
                        optional=True,
                        tooltip="Edits to sample per batch; 0 for all. Fewer need less memory; the results are the "
                        "same, except with dpm_adaptive.",
                    )
                ),
                io.Vae.Input("vae", optional=True, tooltip="Decodes the edited images for the image output."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="With a trajectory and paste back pixels: the original image, used instead of the decoded "
                    "one.",
                ),
                advanced(
                    io.Combo.Input(
                        "noise_maps",
                        display_name="noise maps",
                        options=list(NOISE_MAPS),
                        default=NOISE_MAPS[0],
                        optional=True,
                        tooltip="Only with a trajectory. from the source row: edits get what the source row needs at "
                        "each step to stay the real image, exact at any cfg. as recorded: the noise maps recorded by "
                        "Invert Latent (none for ddim), as published.",
                    )
                ),
            ],
            outputs=[
                io.Latent.Output("edited", display_name="edited", tooltip="Edited latents, grouped by edit."),
                io.Latent.Output("source", display_name="source", tooltip="Latent of the source image."),
                io.Mask.Output("MASK", display_name="mask", tooltip="Final soft mask of each edited image."),
                io.Image.Output("step_masks", display_name="masks per step", tooltip="The mask after each step."),
                io.Image.Output("images", display_name="image", tooltip="The edited images, decoded. Needs vae."),
                io.Mask.Output(
                    "mean_mask",
                    display_name="mean mask",
                    tooltip="Mean mask of each edited image over the steps that blended with it.",
                ),
            ],
        )
        return shows_results(schema)

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
        denoise: float = STANDARD.denoise,
        edits_per_pass: int = STANDARD.edits_per_pass,
        paste_back: str = CHOICES[0],
        vae: Any = None,
        image: torch.Tensor | None = None,
        noise_maps: str = NOISE_MAPS[0],
        **options: Any,
    ) -> io.NodeOutput:
        inputs = make_inputs(edit_prompt, part_token, edit_steps, omega, options)
        back = PasteBack.of(paste_back)
        sampling = SampleSettings(seed, steps, cfg, sampler_name, scheduler, denoise, edits_per_pass, back, noise_maps)
        if back.pixels and vae is None:
            raise ValueError("vae: not connected, but paste_back is 'pixels'. Connect the checkpoint's VAE.")
        if vae is not None:
            check_vae(vae, model)
        size = trajectory.latent_image if trajectory is not None else (latent_image or {}).get("samples")
        if back.pixels and image is not None and size is not None:
            scale = latent_scale(model)
            check_originals(image, size.shape[0], (size.shape[-2] * scale, size.shape[-1] * scale))
        progress, strip = latent_preview.prepare_callback(model, steps), MaskStrip(model, edit_prompt)
        result = feature_blend(model, inputs, negative, latent_image, sampling, trajectory, progress, strip.watch)
        pictures: Any = ExecutionBlocker("vae: not connected. Feature Blend Sampler needs it for its image output.")
        originals = image if back.pixels else None
        if vae is not None:
            pictures = vae.decode(result.edited)
            if back.pixels:
                originals = vae.decode(result.source) if image is None else image
                pictures = paste_pixels(pictures, originals, result.mask)
        shown = strip.output(result, vae, None if vae is None else pictures, originals)
        device = comfy.model_management.intermediate_device()
        masks = result.step_masks[..., None].expand(-1, -1, -1, 3).contiguous()
        return io.NodeOutput(
            {**kept_for(latent_image, len(edit_prompt.edits)), "samples": result.edited.to(device)},
            {**kept_for(latent_image, 1), "samples": result.source.to(device)},
            result.mask,
            masks,
            pictures,
            result.mean_mask,
            ui=shown,
        )


def kept_for(latent: dict | None, edits: int) -> dict[str, Any]:
    """What a LATENT says besides its samples, for N·B edited ones: a noise mask, and the place of each in its batch.

    KSampler keeps both, and the sampler of a second pass (an upscaled edit) reads them.
    """
    kept = {name: (latent or {})[name] for name in ("noise_mask", "batch_index") if name in (latent or {})}
    if "batch_index" in kept:
        kept["batch_index"] = [*kept["batch_index"]] * edits
    return kept
