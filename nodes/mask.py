"""PartAttentionMask and AdaptiveOtsuThreshold."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..core.mask_inputs import mask_batch, picture_masks
from ..core.partedit.guider import NOWHERE
from ..core.partedit.masks import THRESHOLDS, stretch, threshold
from ..core.partedit.part_maps import map_cell, part_maps, soft_masks
from ..core.partedit.tokens import PartToken
from ..core.partedit.upsampling import UPSAMPLINGS, latent_guide, picture_guide
from ..core.unet import latent_scale
from . import io_types
from .blend_inputs import STANDARD, beyond_sliders, fixed_threshold_input, layers_input, omega_input, padding_input
from .checks import checked
from .common import advanced, aliases


class PartAttentionMask(io.ComfyNode):
    """Where a part token finds its part in an image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PartAttentionMask",
            display_name="Part Attention Mask",
            category="PartEdit/mask",
            **aliases("attention map", "segment part", "part segmentation", "part mask"),
            description="Finds a part in an image with a part token. Gives a soft mask; nothing is edited.",
            inputs=[
                io.Model.Input("model", tooltip="A model of the family the token was trained for."),
                io_types.PartToken.Input("part_token", tooltip="The part to find, from Load Part Token."),
                io.Conditioning.Input(
                    "positive", tooltip="Prompt that describes the image, from CLIP Text Encode. May be empty."
                ),
                io.Latent.Input("latent_image", tooltip="The image, from VAE Encode."),
                io.Float.Input(
                    "noise_level",
                    display_name="noise level",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="How much noise to add to the image before the model sees it, 0 to 1. Low finds fine "
                    "parts, high the layout.",
                ),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Seed for that noise."),
                advanced(
                    io.Int.Input(
                        "samples",
                        default=1,
                        min=1,
                        max=64,
                        optional=True,
                        tooltip="Number of noise draws to average. More is steadier and slower.",
                    )
                ),
                layers_input(),
                padding_input(),
                io.Mask.Input("region", optional=True, tooltip="Where to look; multiplied into the map."),
                advanced(
                    io.Combo.Input(
                        "upsampling",
                        options=list(UPSAMPLINGS),
                        default=UPSAMPLINGS[0],
                        optional=True,
                        tooltip="guided: the mask's border follows the edges of image, or of the latent if image is "
                        "not connected.",
                    )
                ),
                io.Image.Input("image", optional=True, tooltip="The original image, for guided upsampling."),
            ],
            outputs=[
                io.Mask.Output("MASK", display_name="mask", tooltip="Soft mask of all parts together, one per image."),
                io.Mask.Output("parts", display_name="parts", tooltip="A soft mask for each part, grouped by image."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        part_token: PartToken,
        positive: list,
        latent_image: dict,
        noise_level: float,
        seed: int,
        samples: int = 1,
        layers: str = STANDARD.layers,
        padding: str = STANDARD.padding,
        region: torch.Tensor | None = None,
        upsampling: str = UPSAMPLINGS[0],
        image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        latent = latent_image["samples"]
        height, width = latent.shape[-2:]
        scale = latent_scale(model)
        size = (height * scale, width * scale)
        if region is not None:
            region = picture_masks(region, latent.shape[0], size, "region", NOWHERE)
        guide = None
        if upsampling != UPSAMPLINGS[0]:
            guide = latent_guide(latent) if image is None else picture_guide(image, latent.shape[0], (height, width))
        maps = part_maps(model, part_token, latent, positive, noise_level, samples, seed, layers, padding)
        masks = soft_masks(maps, size, region, guide, map_cell(model, part_token, layers))
        return io.NodeOutput(*(mask.cpu() for mask in masks))


class AdaptiveOtsuThreshold(io.ComfyNode):
    """Thresholds a soft mask, keeping a soft band around the threshold."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaptiveOtsuThreshold",
            display_name="Adaptive Otsu Threshold",
            category="PartEdit/mask",
            **aliases("Otsu", "binarize mask", "threshold mask"),
            description="Turns a soft mask into 0 where it is clearly off and 1 where it is clearly on, with a soft "
            "band in between.",
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="Soft mask, 0 to 1. Each mask in a batch gets its own threshold. Empty stays empty, "
                    "and full stays full.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(THRESHOLDS[:3]),
                    default=STANDARD.threshold,
                    tooltip="adaptive: 0 below k/2, 1 from omega·k, soft in between; k is Otsu's threshold. otsu: 1 "
                    "from k on. fixed: 1 from fixed threshold on.",
                ),
                omega_input(
                    "For adaptive: where the mask reaches 1, in multiples of k. Larger gives a wider soft band."
                ),
                fixed_threshold_input(),
                advanced(
                    io.Boolean.Input(
                        "normalize",
                        default=True,
                        optional=True,
                        tooltip="Stretch each mask to 0 … 1 before thresholding.",
                    )
                ),
            ],
            outputs=[
                io.Mask.Output("MASK", display_name="mask", tooltip="The thresholded mask."),
                io.Float.Output(
                    "k", display_name="threshold", tooltip="Threshold of the first mask: Otsu's k, or the fixed value."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, omega: Any = None) -> bool | str:
        return beyond_sliders(omega=omega)

    @classmethod
    @checked
    def execute(
        cls,
        mask: torch.Tensor,
        method: str,
        omega: float,
        fixed_threshold: float = STANDARD.fixed,
        normalize: bool = True,
    ) -> io.NodeOutput:
        soft = mask_batch(mask, "mask")
        result, levels = threshold(stretch(soft) if normalize else soft, method, omega, fixed_threshold)
        return io.NodeOutput(result, levels[0])
