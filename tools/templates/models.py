"""The model files that templates for real checkpoints name, and where they are to be had.

The editor looks for them in the property ``models`` of the node that loads a file: it lists the missing ones when a
workflow is opened, and offers the download. The form is that of the templates ComfyUI comes with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..host.layout import PACK_DIR

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class ModelFile:
    """A file, the folder in ``models`` it belongs into, and its address."""

    name: str
    directory: str
    url: str

    @property
    def entry(self) -> dict[str, str]:
        """As the editor reads it."""
        return {"name": self.name, "url": self.url, "directory": self.directory}


def _published_tokens() -> dict[str, ModelFile]:
    """The part tokens that PartEdit's authors publish, by the names of their files."""
    index = json.loads((PACK_DIR / "tokens" / "index.json").read_text(encoding="utf-8"))
    return {token["file"]: ModelFile(token["file"], index["directory"], token["url"]) for token in index["tokens"]}


SDXL = ModelFile(
    "sd_xl_base_1.0.safetensors",
    "checkpoints",
    f"{HUB}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
)
SDXL_TURBO = ModelFile(
    "sd_xl_turbo_1.0_fp16.safetensors",
    "checkpoints",
    f"{HUB}/stabilityai/sdxl-turbo/resolve/main/sd_xl_turbo_1.0_fp16.safetensors",
)
SD15 = ModelFile(
    "v1-5-pruned-emaonly-fp16.safetensors",
    "checkpoints",
    f"{HUB}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
)
CLIP_VISION_G = ModelFile(
    "clip_vision_g.safetensors",
    "clip_vision",
    f"{HUB}/comfyanonymous/clip_vision_g/resolve/main/clip_vision_g.safetensors",
)
SAM3 = ModelFile(
    "sam3.1_multiplex_fp16.safetensors",
    "checkpoints",
    f"{HUB}/Comfy-Org/sam3.1/resolve/main/checkpoints/sam3.1_multiplex_fp16.safetensors",
)
Z_IMAGE = ModelFile(
    "z_image_bf16.safetensors",
    "diffusion_models",
    f"{HUB}/Comfy-Org/z_image/resolve/main/split_files/diffusion_models/z_image_bf16.safetensors",
)
QWEN_3_4B = ModelFile(
    "qwen_3_4b.safetensors",
    "text_encoders",
    f"{HUB}/Comfy-Org/z_image_turbo/resolve/main/split_files/text_encoders/qwen_3_4b.safetensors",
)
FLUX_VAE = ModelFile(
    "ae.safetensors", "vae", f"{HUB}/Comfy-Org/z_image_turbo/resolve/main/split_files/vae/ae.safetensors"
)
FLUX_DEV = ModelFile(
    "flux1-dev-fp8.safetensors", "checkpoints", f"{HUB}/Comfy-Org/flux1-dev/resolve/main/flux1-dev-fp8.safetensors"
)
PUBLISHED_TOKENS = _published_tokens()
HUMAN_HEAD = PUBLISHED_TOKENS["partimage_human_head.pt"]
HUMAN_TORSO = PUBLISHED_TOKENS["torso_custom.pt"]
LINKED = {
    **{one.name: one for one in (SDXL, SDXL_TURBO, SD15, CLIP_VISION_G, SAM3, Z_IMAGE, QWEN_3_4B, FLUX_VAE, FLUX_DEV)},
    **PUBLISHED_TOKENS,
}

# A whole CLIP, and Segment Anything: their addresses are in the notes of the templates that need them.
CLIP_FILE = "clip-vit-large-patch14.safetensors"
SAM_FILE = "sam_vit_h_4b8939.pth"
SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pth", ".pt")


def linked(values: Iterable[Any]) -> list[dict[str, str]]:
    """The property ``models`` of a node with these widget values."""
    return [LINKED[value].entry for value in values if isinstance(value, str) and value in LINKED]


def files_note(*files: ModelFile, more: str = "") -> str:
    """A section of a note that lists files with folder and address."""
    lines = [f"- [{one.name}]({one.url}) → `models/{one.directory}`" for one in files]
    return "\n".join(
        [
            "## What to load",
            "",
            "The editor lists what is missing and offers the download. In the desktop app the files go to their "
            "folders; in a browser, move them there and press **R**.",
            "",
            *lines,
            *([more] if more else []),
            "",
        ]
    )
