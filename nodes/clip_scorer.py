"""LoadCLIPScorer: a local CLIP model that scores regions of an image."""

from __future__ import annotations

from comfy_api.latest import io

from ..core.vision.clip_scorer import WHERE_TO_GET, ClipScorer
from . import io_types
from .checks import checked
from .folders import NONE_FOUND, is_there, managed, model_folder, model_folders

FOLDER = "clip_scorers"


class LoadCLIPScorer(io.ComfyNode):
    """Folder in models/clip_scorers → CLIP_SCORER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadCLIPScorer",
            display_name="Load CLIP Scorer",
            category="OIR/scores and masks",
            description="Loads a CLIP model that scores how well an image, or a masked region of it, matches a text. "
            "Used by Inversion Step Search and Edit Metrics. Nothing is downloaded.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_folders(FOLDER) or [NONE_FOUND],
                    tooltip="A folder in models/clip_scorers with a CLIP model in the transformers format, "
                    "such as openai/clip-vit-large-patch14. Press R after adding one.",
                ),
            ],
            outputs=[
                io_types.ClipScorer.Output(
                    display_name="clip_scorer", tooltip="Connect to Inversion Step Search or Edit Metrics."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None) -> bool | str:
        return is_there(model_folder, FOLDER, model, WHERE_TO_GET)

    @classmethod
    @checked
    def execute(cls, model: str) -> io.NodeOutput:
        return io.NodeOutput(ClipScorer.from_folder(model_folder(FOLDER, model, WHERE_TO_GET), manage=managed))
