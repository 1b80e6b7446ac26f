"""EditMetrics: how much an edit preserved, and how well it matches its text."""

from __future__ import annotations

import json

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io, ui

from ..core.mask_inputs import picture_masks
from ..core.metrics import MeanScore, edit_scores, mean_scores
from ..core.vision.clip_scorer import ClipScorer
from . import io_types
from .checks import checked
from .common import aliases

LABELS = {
    "psnr": "PSNR (dB)",
    "psnr_outside": "PSNR outside the mask (dB)",
    "psnr_inside": "PSNR inside the mask (dB)",
    "ssim": "SSIM",
    "ssim_outside": "SSIM outside the mask",
    "ms_ssim": "MS-SSIM",
    "changed_outside": "changed pixels outside the mask",
    "clip_edited_target": "CLIP, edited region and target text",
    "clip_before_target": "CLIP, same before the edit",
    "clip_edited_source": "CLIP, edited region and source text",
    "clip_unedited": "CLIP, other region and source text",
    "clip_unedited_before": "CLIP, same before the edit",
    "clip_unedited_regions": "CLIP, other region after and before the edit",
}


class EditMetrics(io.ComfyNode):
    """Source and edited images → PSNR, SSIM, MS-SSIM, CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EditMetrics",
            display_name="Edit Metrics",
            category="PartEdit/analysis",
            **aliases("PSNR", "SSIM", "MS-SSIM", "CLIP score", "evaluate edit"),
            description="Compares an edited image with its source: how well the background was preserved, and how well "
            "the edited region matches the text. For a batch, each score is the mean over the images that have it.",
            is_output_node=True,
            inputs=[
                io.Image.Input("source", tooltip="Images before the edit."),
                io.Image.Input(
                    "edited", tooltip="Images after the edit, same size. One source can be compared with many edits."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The region meant to change. The scores outside it measure how well the rest was "
                    "preserved.",
                ),
                io_types.ClipScorer.Input(
                    "clip_scorer",
                    optional=True,
                    tooltip="For the CLIP scores: from Load CLIP Scorer, CLIP Scorer from Models or Load Demo Model.",
                ),
                io.String.Input(
                    "source_text",
                    display_name="source text",
                    default="",
                    optional=True,
                    tooltip="What the region showed before, for CLIP: 'a cat'.",
                ),
                io.String.Input(
                    "target_text",
                    display_name="target text",
                    default="",
                    optional=True,
                    tooltip="What the region should show now, for CLIP: 'a dog'.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="text",
                    tooltip="All scores, one per line. If images of a batch lack a score, how many have it.",
                ),
                io.String.Output(display_name="json", tooltip="All scores of each image, as JSON."),
                io.Float.Output(
                    display_name="psnr",
                    tooltip="PSNR of the whole image in dB. Identical images are left out of a mean; 1000 if all are.",
                ),
                io.Float.Output(
                    display_name="psnr_outside",
                    tooltip="PSNR outside the mask in dB; the same as psnr without a mask, or if it covers everything.",
                ),
                io.Float.Output(display_name="ssim", tooltip="SSIM of the whole image; 1 if identical."),
                io.Float.Output(
                    display_name="ssim_outside",
                    tooltip="SSIM outside the mask; the same as ssim without a mask, or if it covers everything.",
                ),
                io.Float.Output(display_name="ms_ssim", tooltip="Multi-scale SSIM of the whole image."),
                io.Float.Output(
                    display_name="clip_edited",
                    tooltip="CLIP score of the edited region and target text; 0 without CLIP scorer or text, or if all "
                    "masks are empty.",
                ),
                io.Float.Output(
                    display_name="clip_unedited",
                    tooltip="CLIP score of the rest and source text; 0 without CLIP scorer, mask or text, or if masks "
                    "cover everything.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        source: torch.Tensor,
        edited: torch.Tensor,
        mask: torch.Tensor | None = None,
        clip_scorer: ClipScorer | None = None,
        source_text: str = "",
        target_text: str = "",
    ) -> io.NodeOutput:
        count = edited.shape[0]
        if source.shape[0] not in (1, count):
            raise ValueError(f"source: expected 1 or {count}, one for each edited image, got {source.shape[0]}.")
        masks = None if mask is None else picture_masks(mask, count, (edited.shape[1], edited.shape[2]), "mask")
        scores = []
        progress = comfy.utils.ProgressBar(count)
        for index in range(count):
            comfy.model_management.throw_exception_if_processing_interrupted()
            before = source[index % source.shape[0]]
            region = None if masks is None else masks[index]
            scores.append(edit_scores(before, edited[index], region, clip_scorer, source_text, target_text))
            progress.update(1)
        means = mean_scores(scores)
        lines = [f"{label}: {_shown(mean, count)}" for key, label in LABELS.items() if (mean := means[key]) is not None]
        if masks is not None and means["psnr_outside"] is None:
            lines.append("Nothing lies outside the mask: the outputs for it are those of the whole image.")
        if masks is not None and means["psnr_inside"] is None:
            lines.append("The mask is empty: there is no edited region to score.")
        text = "\n".join(lines)
        values = {key: None if mean is None else mean.value for key, mean in means.items()}
        report = {
            "mean": values,
            "images": {key: mean.images for key, mean in means.items() if mean is not None},
            "identical": {key: mean.identical for key, mean in means.items() if mean is not None and mean.identical},
            "pictures": [score.finite() for score in scores],
        }
        return io.NodeOutput(
            text,
            json.dumps(report, indent=1),
            values["psnr"],
            values["psnr"] if values["psnr_outside"] is None else values["psnr_outside"],
            values["ssim"],
            values["ssim"] if values["ssim_outside"] is None else values["ssim_outside"],
            values["ms_ssim"],
            values["clip_edited_target"] or 0.0,
            values["clip_unedited"] or 0.0,
            ui=ui.PreviewText(text),
        )


def _shown(mean: MeanScore, count: int) -> str:
    """A mean over ``count`` images as text, with the number of those that are not in it."""
    averaged = mean.images - mean.identical
    notes = [] if mean.images == count else [f"{mean.images} of {count} images have it"]
    if not averaged:
        return "; ".join(["identical", *notes])
    if mean.identical:
        notes.append(f"{mean.identical} identical left out")
    return f"{mean.value:.4g}" + (f" ({'; '.join(notes)})" if notes else "")
