"""LoadDemoModel: the small checkpoint that ships with the pack."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..demo.loader import load_demo_model, load_demo_scorer
from . import io_types
from .checks import checked
from .common import aliases


class LoadDemoModel(io.ComfyNode):
    """The bundled checkpoint as MODEL, CLIP, VAE and CLIP_SCORER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadDemoModel",
            display_name="Load Demo Model",
            category="PartEdit/demo",
            **aliases("demo checkpoint", "mini model", "no download"),
            description="A very small SDXL-shaped checkpoint that comes with the pack, for trying the workflows "
            "without a download. It draws simple cats, dogs, rabbits, robots, cars and chairs at 256 x 256 and knows "
            "few words.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The image model; works with every core sampler."),
                io.Clip.Output(display_name="clip", tooltip="Both text encoders. Unknown words are listed in the log."),
                io.Vae.Output(display_name="vae", tooltip="The VAE, with SDXL's latent format and 8x downscaling."),
                io_types.ClipScorer.Output(
                    display_name="clip_scorer", tooltip="A small CLIP trained on the same images."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls) -> io.NodeOutput:
        model, clip, vae = load_demo_model(folder_paths.get_folder_paths("embeddings"))
        return io.NodeOutput(model, clip, vae, load_demo_scorer())
