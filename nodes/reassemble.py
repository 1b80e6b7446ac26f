"""OIRReassemble: edits all objects in one image, each from its own inversion step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..core.decoding import picture_decoder
from ..core.encoding import encode
from ..core.oir.candidates import parse_steps
from ..core.oir.masks import OVERLAPS
from ..core.oir.prompts import target_prompt as built_target_prompt
from ..core.oir.reassembly import (
    ReassemblySettings,
    composite_pixels,
    reassemble,
)
from ..core.oir.types import StepSearch
from ..core.paste_back import PasteBack, check_originals
from . import io_types
from .checks import checked
from .common import advanced, aliases, guidance_input

STANDARD = ReassemblySettings()


class OIRReassemble(io.ComfyNode):
    """Trajectory and searched steps → edited latent and image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OIRReassemble",
            display_name="OIR Reassemble",
            category="OIR",
            **aliases("OIR", "object-aware inversion", "edit several objects", "reassembly"),
            description="Denoises each object from its own inversion step, splices them into one latent, re-inverts "
            "it a little to blend the seams, and denoises it with the target prompt.",
            inputs=[
                io.Model.Input("model", tooltip="The model the trajectory was made with."),
                io.Vae.Input("vae", tooltip="Decodes the result."),
                io_types.Trajectory.Input("trajectory", tooltip="The trajectory that was searched."),
                io_types.StepSearch.Input("search", tooltip="From Inversion Step Search: the pairs and their steps."),
                io.Float.Input(
                    "cfg",
                    default=STANDARD.cfg,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Guidance scale; 7.5 as published. Use the same as in the search. Flow models: their "
                    "usual one; 1 for guidance-distilled models such as Flux dev.",
                ),
                io.Float.Input(
                    "reassembly",
                    default=STANDARD.reassembly,
                    min=0.0,
                    max=999.0,
                    step=0.01,
                    tooltip="Inversion level at which the objects are spliced, counted from the image. Below 1: "
                    "fraction of the steps; 1 and above: number of steps. The paper uses 20 %: 0.2, or 10 of 50 steps.",
                ),
                io.Float.Input(
                    "reinversion",
                    default=STANDARD.reinversion,
                    min=0.0,
                    max=999.0,
                    step=0.01,
                    tooltip="How far the spliced latent is inverted again before the final denoising, in the same "
                    "units. More blends seams better and changes the image more. The paper uses 20 %.",
                ),
                advanced(
                    io.Combo.Input(
                        "overlap",
                        options=list(OVERLAPS),
                        default=STANDARD.overlap,
                        tooltip="Where masks overlap: the first or last pair of the chain wins, or blend averages "
                        "them.",
                    )
                ),
                io.Boolean.Input(
                    "paste_back",
                    display_name="paste back",
                    default=False,
                    tooltip="Restore the original latent outside the masks at the end.",
                ),
                io.Boolean.Input(
                    "pixel_composite",
                    display_name="pixel composite",
                    default=False,
                    tooltip="Restore the original pixels outside the masks. Needs image.",
                ),
                advanced(
                    io.Float.Input(
                        "feather",
                        default=8.0,
                        min=0.0,
                        max=128.0,
                        step=1.0,
                        tooltip="Soft edge of paste back and pixel composite, in pixels.",
                    )
                ),
                io.String.Input(
                    "target_prompt",
                    display_name="target prompt",
                    multiline=True,
                    default="",
                    tooltip="Describes the image after all edits. Empty: built from the pairs. Needs clip.",
                ),
                advanced(
                    io.String.Input(
                        "overrides",
                        default="",
                        tooltip="Steps to use instead of the search's, one per pair: '24, auto'. Nothing is searched "
                        "again.",
                    )
                ),
                io.Clip.Input("clip", optional=True, tooltip="Encodes the target prompt."),
                io.Conditioning.Input(
                    "target",
                    optional=True,
                    tooltip="Conditioning to use instead of target prompt.",
                ),
                io.Image.Input("image", optional=True, tooltip="The original image, for pixel composite."),
                guidance_input("the target prompt"),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The edited latent."),
                io.Image.Output(display_name="image", tooltip="The edited image."),
                io.String.Output(
                    display_name="target_prompt",
                    tooltip="The prompt used for the final denoising; empty if target is connected.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        vae: Any,
        trajectory: Any,
        search: StepSearch,
        cfg: float,
        reassembly: float,
        reinversion: float,
        overlap: str,
        paste_back: bool,
        pixel_composite: bool,
        feather: float,
        target_prompt: str,
        overrides: str,
        clip: Any = None,
        target: Any = None,
        image: Any = None,
        guidance: float = 0.0,
    ) -> io.NodeOutput:
        pairs = [entry.pair for entry in search.pairs]
        decode = picture_decoder(vae, model)
        scale = vae.spacial_compression_decode()
        height, width = trajectory.size
        back = PasteBack(latent=paste_back, pixels=pixel_composite)
        if back.pixels:
            if image is None:
                raise ValueError("image: not connected, but pixel_composite is on. Connect the original image.")
            check_originals(image, 1, (height * scale, width * scale))
        prompt = ""
        if target is None:
            prompt = target_prompt.strip() or built_target_prompt(pairs)
            if clip is None:
                raise ValueError(
                    "clip: not connected. It is needed to encode the target prompt; connect it, or connect target "
                    "instead."
                )
            target = encode(clip, prompt, guidance)
        steps = parse_steps(overrides, len(pairs))
        entries = [
            entry if step is None else replace(entry, chosen=step, manual=True, latent=None)
            for entry, step in zip(search.pairs, steps, strict=True)
        ]
        settings = ReassemblySettings(
            cfg=cfg,
            reassembly=reassembly,
            reinversion=reinversion,
            overlap=overlap,
            paste_back=back,
            feather=feather / scale,
        )
        result = reassemble(model, trajectory, replace(search, pairs=tuple(entries)), target, settings)
        picture = decode(result.latent).unsqueeze(0)
        if back.pixels:
            picture = composite_pixels(picture, image, pairs, feather, scale)
        return io.NodeOutput({"samples": result.latent}, picture, prompt)
