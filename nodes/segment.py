"""Masks of objects: LoadSAMModel, LoadGroundingModel, GroundedSAMMask and SAMPointMask."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io

from ..core.vision.grounding import WHERE_TO_GET as GROUNDING_SOURCE
from ..core.vision.grounding import GroundingModel
from ..core.vision.prompts import box_lines, boxes_by_picture, check_prompts, parse_points
from ..core.vision.sam import READINGS, SamModel, chosen_reading, reading_line
from ..core.vision.sam_hq import load_sam
from ..core.vision.sam_weights import WHERE_TO_GET as SAM_SOURCE
from . import io_types
from .checks import checked
from .common import advanced, aliases
from .folders import (
    NONE_FOUND,
    folder_or_file,
    is_there,
    loose_files,
    managed,
    model_fingerprint,
    model_folder,
    model_folders,
)

_sam_path = partial(folder_or_file, entry="checkpoint")


class LoadSAMModel(io.ComfyNode):
    """File or folder in models/sams → SAM model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadSAMModel",
            display_name="Load SAM Model (PartEdit/OIR)",
            category="OIR/scores and masks",
            **aliases("Segment Anything", "HQ-SAM", "SAM loader"),
            description="Loads a Segment Anything or HQ-SAM checkpoint (vit_b, vit_l or vit_h) for Grounded SAM Mask "
            "and SAM Point Mask.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=[*model_folders("sams"), *loose_files("sams")] or [NONE_FOUND],
                    tooltip="A file in models/sams, for example sam_vit_b_01ec64.pth or sam_hq_vit_b.pth, or a folder "
                    "with HQ-SAM in the transformers format. The size is detected.",
                ),
            ],
            outputs=[
                io_types.SamModel.Output(
                    display_name="sam_model", tooltip="Connect to Grounded SAM Mask or SAM Point Mask."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, **_: Any) -> str | None:
        return model_fingerprint(_sam_path, "sams", checkpoint, SAM_SOURCE)

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool | str:
        return is_there(_sam_path, "sams", checkpoint, SAM_SOURCE)

    @classmethod
    @checked
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        return io.NodeOutput(load_sam(_sam_path("sams", checkpoint, SAM_SOURCE), manage=managed))


class LoadGroundingModel(io.ComfyNode):
    """Folder in models/grounding → grounding model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadGroundingModel",
            display_name="Load Grounding Model",
            category="OIR/scores and masks",
            **aliases("Grounding DINO", "object detector"),
            description="Loads a detector that finds objects by name (GroundingDINO, OWL-ViT or OWLv2), for Grounded "
            "SAM Mask.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_folders("grounding") or [NONE_FOUND],
                    tooltip="A folder in models/grounding with a detector in the transformers format, "
                    "such as IDEA-Research/grounding-dino-tiny.",
                ),
            ],
            outputs=[
                io_types.GroundingModel.Output(display_name="grounding_model", tooltip="Connect to Grounded SAM Mask.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str | None = None, **_: Any) -> str | None:
        return model_fingerprint(model_folder, "grounding", model, GROUNDING_SOURCE)

    @classmethod
    def validate_inputs(cls, model: str | None = None) -> bool | str:
        return is_there(model_folder, "grounding", model, GROUNDING_SOURCE)

    @classmethod
    @checked
    def execute(cls, model: str) -> io.NodeOutput:
        return io.NodeOutput(
            GroundingModel.from_folder(model_folder("grounding", model, GROUNDING_SOURCE), manage=managed)
        )


class GroundedSAMMask(io.ComfyNode):
    """Text, boxes or points → MASK."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedSAMMask",
            display_name="Grounded SAM Mask",
            category="OIR/scores and masks",
            **aliases("Grounded SAM", "Grounding DINO", "Segment Anything", "text to mask"),
            description="Masks the objects given by text, boxes or points, merged into one mask per image.",
            inputs=[
                io.Image.Input("image", tooltip="Image or batch; each image is segmented separately."),
                io_types.SamModel.Input("sam_model", tooltip="From Load SAM Model."),
                io.String.Input(
                    "text",
                    default="",
                    tooltip="What to find; separate several names with commas. Needs grounding model. "
                    "Leave empty to use only boxes or points.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="Minimum detector confidence for named objects. Lower finds more.",
                ),
                advanced(
                    io.Int.Input(
                        "max_objects",
                        display_name="max objects",
                        default=1,
                        min=1,
                        max=100,
                        tooltip="Maximum number of named objects per image; the most confident are kept.",
                    )
                ),
                io.String.Input(
                    "boxes",
                    default="",
                    multiline=True,
                    tooltip="Boxes of objects: x0, y0, x1, y1 in pixels, one per line. '2: x0, y0, x1, y1' is for "
                    "image 2 only; the boxes output can be connected.",
                ),
                io.String.Input(
                    "points",
                    default="",
                    multiline=True,
                    tooltip="Points on one object: x, y in pixels, one per line. x, y, 0 marks a point outside it.",
                ),
                io_types.GroundingModel.Input(
                    "grounding_model", optional=True, tooltip="From Load Grounding Model; only needed for text."
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="mask",
                    tooltip="One mask per image, all its objects together; empty where none was found.",
                ),
                io.Mask.Output(
                    display_name="object_masks", tooltip="One mask per object, as a batch, grouped by image."
                ),
                io.String.Output(
                    display_name="boxes",
                    tooltip="Boxes of the named objects with image number and score, one per line.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        image: torch.Tensor,
        sam_model: SamModel,
        text: str,
        threshold: float,
        max_objects: int,
        boxes: str,
        points: str,
        grounding_model: GroundingModel | None = None,
    ) -> io.NodeOutput:
        given, (marks, labels) = boxes_by_picture(boxes, len(image)), parse_points(points)
        if text.strip() and grounding_model is None:
            raise ValueError(f"grounding_model: not connected, but text is {text!r}. Connect Load Grounding Model.")
        if not text.strip() and not any(map(len, given)) and not len(marks):
            raise ValueError("text, boxes, points: all are empty. Fill in at least one of them.")
        for own in given:
            if len(own) or len(marks):
                check_prompts(own, marks, labels, *image.shape[1:3])
        joined: list[torch.Tensor] = []
        single: list[torch.Tensor] = []
        report: list[str] = []
        progress = comfy.utils.ProgressBar(image.shape[0])
        for number, (picture, own) in enumerate(zip(image, given), start=1):
            comfy.model_management.throw_exception_if_processing_interrupted()
            found = torch.empty(0, 4)
            if grounding_model is not None and text.strip():
                found, scores = grounding_model.boxes(picture, text, threshold, max_objects)
                report += box_lines(number, found, scores)
            if len(found) or len(own) or len(marks):
                masks, _ = sam_model.masks(picture, torch.cat([found, own]), marks, labels)
                joined.append(masks.any(dim=0).float())
                single += list(masks.float())
            else:
                joined.append(torch.zeros(picture.shape[:2]))
                logging.warning(
                    "Grounded SAM Mask: %s in image %d of %d; its mask is empty.", _nothing(text), number, len(image)
                )
            progress.update(1)
        if not single:
            where = "the image" if len(image) == 1 else f"any of the {len(image)} images"
            raise ValueError(
                f"text: found no {text!r} in {where} at threshold {threshold:g}. Lower the threshold, use a simpler "
                "word, or give a box."
            )
        return io.NodeOutput(torch.stack(joined), torch.stack(single), "\n".join(report))


def _nothing(text: str) -> str:
    return f"found no {text!r}" if text.strip() else "no box given"


class SAMPointMask(io.ComfyNode):
    """A point → the masks it may mean."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAMPointMask",
            display_name="SAM Point Mask",
            category="OIR/scores and masks",
            **aliases("Segment Anything", "SAM point", "click to mask"),
            description="Masks of whatever lies under a point. A point on a head may mean the head or the whole "
            "animal: Segment Anything offers three readings, and all of them can be used.",
            inputs=[
                io.Image.Input("image", tooltip="An image or a batch. Every image is segmented at the same point."),
                io_types.SamModel.Input("sam_model", tooltip="From Load SAM Model."),
                io.String.Input(
                    "point",
                    default="",
                    multiline=True,
                    tooltip="x, y in pixels, from the top left. More lines are further points of the same object; "
                    "x, y, 0 marks a point outside it.",
                ),
                io.Combo.Input(
                    "reading",
                    options=list(READINGS),
                    default=READINGS[0],
                    tooltip="Which reading becomes mask: the one Segment Anything rates best, or by size.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="The chosen reading, one mask per image."),
                io.Mask.Output(
                    display_name="readings", tooltip="All readings, the smallest first: three masks per image."
                ),
                io.String.Output(
                    display_name="ratings", tooltip="Size and rating of every reading, one line per image."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, image: torch.Tensor, sam_model: SamModel, point: str, reading: str) -> io.NodeOutput:
        points, labels = parse_points(point)
        if not len(points):
            raise ValueError("point: is empty. Type x, y in pixels, for example '320, 200'.")
        chosen: list[torch.Tensor] = []
        every: list[torch.Tensor] = []
        report: list[str] = []
        progress = comfy.utils.ProgressBar(image.shape[0])
        for number, picture in enumerate(image, start=1):
            comfy.model_management.throw_exception_if_processing_interrupted()
            masks, ratings = sam_model.readings(picture, points, labels)
            chosen.append(masks[chosen_reading(ratings, reading)].float())
            every += list(masks.float())
            report.append(reading_line(number, masks, ratings))
            progress.update(1)
        return io.NodeOutput(torch.stack(chosen), torch.stack(every), "\n".join(report))
