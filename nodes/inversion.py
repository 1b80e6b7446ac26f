"""InvertLatent: inverts an image latent into a trajectory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..core.encoding import encode
from ..core.inversion.invert import invert, needs_model
from ..core.inversion.schedule import SPACINGS, check_method, inversion_sigmas, model_sampling_of, spaced_sigmas
from ..core.inversion.trajectory import METHODS
from ..core.vision.captioner import WHERE_TO_GET, Captioner, captioner_folders
from . import io_types
from .checks import checked
from .common import advanced, aliases, guidance_input
from .folders import KeptModel, listed, model_fingerprint, model_folder

FOLDER = "captioners"
NO_CAPTIONER = "none"
CAPTIONER: KeptModel[Captioner] = KeptModel()


class InvertLatent(io.ComfyNode):
    """Image latent and source prompt → TRAJECTORY."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        captioners = [NO_CAPTIONER, *captioner_folders(folder_paths.get_folder_paths(FOLDER))]
        return io.Schema(
            node_id="InvertLatent",
            display_name="Invert Latent",
            category="OIR",
            **aliases("DDIM inversion", "edit-friendly DDPM", "LEDITS++", "real image", "unsampler"),
            description="Finds the latents that lead to an image, one for every noise level. "
            "OIR starts its edits from them; PartEdit replays them to edit a real image.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A model with noise or v prediction (SD1.x, SD2.x, SDXL), or a flow model (SD3, Flux, "
                    "Z-Image, Qwen-Image).",
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The image, encoded with the model's VAE. One image for OIR; a batch works for PartEdit.",
                ),
                io.String.Input(
                    "source_prompt",
                    display_name="source prompt",
                    multiline=True,
                    default="",
                    tooltip="Describes the image as it is. Needs clip. Leave empty to use positive or a captioner. Not "
                    "needed for edit_friendly_ddpm and ledits_pp unless record noise maps is on.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=METHODS[0],
                    tooltip="For OIR, one of the deterministic methods: ddim_* for noise or v prediction, euler_* and "
                    "rf_solver for flow models. next_timestep: as published with OIR; current_timestep: textbook "
                    "inversion; fixed_point: iterates each step for a closer reconstruction; rf_solver: second order, "
                    "two model calls per step. edit_friendly_ddpm and ledits_pp: independent noise at every level, "
                    "without running the model; for PartEdit.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=999,
                    tooltip="Number of inversion steps. OIR chooses its candidates among them.",
                ),
                advanced(
                    io.Float.Input(
                        "cfg",
                        default=1.0,
                        min=0.0,
                        max=30.0,
                        step=0.1,
                        tooltip="Guidance scale during inversion. 1: source prompt only, as published for DDIM, and "
                        "for guidance-distilled models such as Flux dev. Values other than 1 need negative. "
                        "edit_friendly_ddpm and ledits_pp use it only with record noise maps (published: 3.5).",
                    )
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Seed for the noise of edit_friendly_ddpm and ledits_pp. Other methods do not use it.",
                ),
                advanced(
                    io.Combo.Input(
                        "spacing",
                        options=list(SPACINGS),
                        default=SPACINGS[0],
                        tooltip="How the steps are spaced over the training timesteps. Both papers' code uses leading. "
                        "On flow models, over the model's own levels with its shift. Ignored when sigmas is "
                        "connected.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "fixed_point_iterations",
                        display_name="fixed point iterations",
                        default=3,
                        min=1,
                        max=20,
                        tooltip="Extra evaluations per step, for ddim_fixed_point and euler_fixed_point. More "
                        "reconstruct the image better and take longer.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "captioner",
                        options=captioners,
                        default=NO_CAPTIONER,
                        tooltip="Writes the source prompt if it is empty: a BLIP model's folder in models/captioners. "
                        "Needs image and clip.",
                    )
                ),
                io.Clip.Input("clip", optional=True, tooltip="Encodes source prompt."),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="Conditioning to use instead of source prompt, for example with ControlNet.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="Needed when cfg is used and not 1."),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Noise levels from a scheduler node, used instead of steps and spacing. A final 0 is "
                    "replaced by the model's lowest noise level.",
                ),
                io.Image.Input("image", optional=True, tooltip="The image, for the captioner."),
                advanced(
                    io.Boolean.Input(
                        "record_noise_maps",
                        display_name="record noise maps",
                        default=False,
                        optional=True,
                        tooltip="For edit_friendly_ddpm and ledits_pp. On: run the model now and keep its noise maps, "
                        "as published; needed for noise maps 'as recorded' in Feature Blend Sampler. Off: the sampler "
                        "finds them while it edits, exact at its own cfg, and inversion takes no time.",
                    )
                ),
                guidance_input("the source prompt; published inversions of Flux use 1"),
            ],
            outputs=[
                io_types.Trajectory.Output(
                    display_name="trajectory",
                    tooltip="Latents at every noise level, with the source conditioning if there is any.",
                ),
                io.String.Output(
                    display_name="source_prompt",
                    tooltip="The prompt that was used, typed or captioned. Connect to Editing Pair.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, captioner: str | None = None) -> bool | str:
        try:
            if captioner not in (None, NO_CAPTIONER):
                _captioner_folder(captioner)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, captioner: str | None = None, **_: Any) -> str | None:
        if captioner == NO_CAPTIONER:
            return None
        return model_fingerprint(model_folder, FOLDER, captioner, WHERE_TO_GET)

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        latent_image: dict[str, Any],
        source_prompt: str,
        method: str,
        steps: int,
        cfg: float,
        seed: int,
        spacing: str,
        fixed_point_iterations: int,
        captioner: str,
        clip: Any = None,
        positive: Any = None,
        negative: Any = None,
        sigmas: Any = None,
        image: Any = None,
        record_noise_maps: bool = False,
        guidance: float = 0.0,
    ) -> io.NodeOutput:
        if latent_image.get("noise_mask") is not None:
            logging.warning(
                "Invert Latent: latent_image has a noise mask, but the whole image is inverted. To edit under the "
                "mask, also connect latent_image to Feature Blend Sampler; OIR uses the masks of its editing pairs."
            )
        sampling = model_sampling_of(model)
        check_method(model, method)
        levels = spaced_sigmas(sampling, steps, spacing) if sigmas is None else inversion_sigmas(sampling, sigmas)
        needed = needs_model(method, record_noise_maps)
        if positive is None:
            source_prompt = source_prompt.strip()
            if not source_prompt and (needed or captioner != NO_CAPTIONER):
                source_prompt = _captioned(captioner, image)
            if needed and clip is None:
                raise ValueError(
                    "clip: not connected. It is needed to encode source_prompt; connect it, or connect positive "
                    "instead."
                )
            if needed:
                positive = encode(clip, source_prompt, guidance)
        trajectory = invert(
            model,
            latent_image["samples"],
            positive,
            sigmas=levels,
            method=method,
            negative=negative,
            cfg=cfg,
            seed=seed,
            fixed_point_iterations=fixed_point_iterations,
            source_prompt=source_prompt,
            record_noise_maps=record_noise_maps,
        )
        return io.NodeOutput(trajectory, source_prompt)


def _captioned(captioner: str, image: Any) -> str:
    """A source prompt written by the captioner.

    Raises:
        ValueError: no captioner is chosen, it does not exist, or there is not exactly one image; the message says how
            to fix it.
    """
    roots = folder_paths.get_folder_paths(FOLDER)
    if captioner == NO_CAPTIONER:
        raise ValueError(
            "source_prompt: is empty. Describe the image, connect positive, or put a BLIP model's folder into "
            f"{roots[0]} and choose it as captioner. {WHERE_TO_GET}."
        )
    if image is None:
        raise ValueError("image: not connected. The captioner needs the image; connect it.")
    if len(image) != 1:
        # All images of a latent are inverted with one prompt, and a caption of the first need not fit the others.
        raise ValueError(
            f"image: holds {len(image)} images, but a caption describes one. Invert them one at a time, connect one "
            "image that stands for all, or type a source_prompt that fits all."
        )
    return CAPTIONER.get(_captioner_folder(captioner), Captioner.from_folder).caption(image[0])


def _captioner_folder(name: str) -> Path:
    """Path of a captioner.

    Raises:
        ValueError: there is none of that name; the message says where to get one and where to put it.
    """
    roots = folder_paths.get_folder_paths(FOLDER)
    folder = listed(name, captioner_folders(roots))
    if folder is None:
        raise ValueError(f"captioner: no folder {name!r} with a BLIP model in {' or '.join(roots)}. {WHERE_TO_GET}.")
    return model_folder(FOLDER, folder, WHERE_TO_GET)
