"""LoadCLIPScorer and CLIPScorerFromModels: a CLIP model that scores regions of an image."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.vision.clip_file import ACTIVATIONS, WHERE_TO_GET, Activation, scorer_from_file
from ..core.vision.clip_scorer import ClipScorer
from ..core.vision.host_clip import HostClipScorer
from . import io_types
from .checks import checked
from .common import advanced, aliases
from .folders import NONE_FOUND, folder_or_file, is_there, loose_files, managed, model_fingerprint, model_folders

FOLDER = "clip_scorers"


class LoadCLIPScorer(io.ComfyNode):
    """Folder or file in models/clip_scorers → CLIP_SCORER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadCLIPScorer",
            display_name="Load CLIP Scorer",
            category="OIR/scores and masks",
            **aliases("CLIP score", "CLIP similarity"),
            description="Loads a CLIP model that scores how well an image, or a masked region of it, matches a text. "
            "Used by Inversion Step Search and Edit Metrics. Nothing is downloaded.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[*model_folders(FOLDER), *loose_files(FOLDER)] or [NONE_FOUND],
                    tooltip="A .safetensors file with a whole CLIP model, or a folder in the transformers format, in "
                    "models/clip_scorers. The paper searches with CLIP base (openai/clip-vit-base-patch32). Press R "
                    "after adding one.",
                ),
                advanced(
                    io.Combo.Input(
                        "activation",
                        options=list(ACTIVATIONS),
                        default="auto",
                        optional=True,
                        tooltip="Only for a single file, which does not name its activation. auto: quick_gelu for "
                        "base and large models (OpenAI), gelu for H, g and bigG and for files in OpenCLIP's format. "
                        "Choose gelu for LAION's base and large models in the transformers format.",
                    )
                ),
            ],
            outputs=[
                io_types.ClipScorer.Output(
                    display_name="clip_scorer", tooltip="Connect to Inversion Step Search or Edit Metrics."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str | None = None, **_: Any) -> str | None:
        return model_fingerprint(folder_or_file, FOLDER, model, WHERE_TO_GET)

    @classmethod
    def validate_inputs(cls, model: str | None = None) -> bool | str:
        return is_there(folder_or_file, FOLDER, model, WHERE_TO_GET)

    @classmethod
    @checked
    def execute(cls, model: str, activation: Activation = "auto") -> io.NodeOutput:
        path = folder_or_file(FOLDER, model, WHERE_TO_GET)
        if path.is_dir():
            return io.NodeOutput(ClipScorer.from_folder(path, manage=managed))
        return io.NodeOutput(scorer_from_file(path, activation=activation, manage=managed))


class CLIPScorerFromModels(io.ComfyNode):
    """CLIP_VISION and CLIP → CLIP_SCORER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CLIPScorerFromModels",
            display_name="CLIP Scorer from Models",
            category="OIR/scores and masks",
            **aliases("CLIP score", "CLIP similarity", "clip_vision_g"),
            description="Builds a CLIP scorer from a CLIP_VISION and a CLIP: clip_vision_g and the CLIP of an SDXL "
            "checkpoint are the two towers of the same model. No other file is needed.",
            inputs=[
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="From Load CLIP Vision: clip_vision_g.safetensors for an SDXL checkpoint, ViT-H/14 for "
                    "SD2.x.",
                ),
                io.Clip.Input(
                    "clip",
                    tooltip="The checkpoint's CLIP. SD1.x's has no text projection and is refused: use Load CLIP "
                    "Scorer instead.",
                ),
            ],
            outputs=[
                io_types.ClipScorer.Output(
                    display_name="clip_scorer", tooltip="Connect to Inversion Step Search or Edit Metrics."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, clip_vision: Any, clip: Any) -> io.NodeOutput:
        return io.NodeOutput(HostClipScorer.from_models(clip_vision, clip))
