"""Every IMAGE input of every node follows one rule, whatever it is used for."""

from __future__ import annotations

import inspect
import json

import pytest
import torch

from support.tiny_segmenters import small_sam
from tools.bootstrap import load_pack

load_pack()
from comfy_api.latest import io

from partedit_oir.core.image_inputs import checked_images
from partedit_oir.nodes import NODE_CLASSES

INPUTS = [
    (node, entry.id)
    for node in NODE_CLASSES
    for entry in node.define_schema().inputs
    if isinstance(entry, io.Image.Input)
]


def images(count: int = 2, channels: int = 3, size: tuple[int, int] = (16, 24)) -> torch.Tensor:
    return torch.rand((count, *size, channels), generator=torch.Generator().manual_seed(3))


def spoilt(value: float) -> torch.Tensor:
    bad = images()
    bad[1, 2, 3, 0] = value
    return bad


BAD = {
    "two channels": (images(channels=2), "has 2 channels; expected 3"),
    "five channels": (images(channels=5), "has 5 channels; expected 3"),
    "no batch": (images()[0], r"shape \(batch, height, width, channels\), got shape \(16, 24, 3\)"),
    "a video": (images()[None], r"got shape \(1, 2, 16, 24, 3\)"),
    "a list": ([images()], "expected an IMAGE .* got list"),
    "an empty batch": (images(0), r"is empty \(0 images of 24 x 16 pixels\)"),
    "no pixels": (images(size=(0, 24)), r"is empty \(2 images of 24 x 0 pixels\)"),
    "NaN": (spoilt(float("nan")), "image 2 of 2 contains NaN or infinite values"),
    "infinite": (spoilt(float("-inf")), "image 2 of 2 contains NaN or infinite values"),
    "whole numbers": ((images() * 255).to(torch.uint8), "contains torch.uint8 values"),
    "0 to 255": (images() * 255, r"contains values from .* an IMAGE has values from 0 to 1"),
}


def test_nodes_with_images_are_found():
    assert {node.__name__ for node, _ in INPUTS} >= {"EditMetrics", "GroundedSAMMask", "TrainPartToken"}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(("node", "name"), INPUTS, ids=lambda part: getattr(part, "__name__", part))
def test_a_bad_image_is_named_before_anything_else_is_looked_at(node, name, kind):
    bad, message = BAD[kind]
    parameters = inspect.signature(node.execute).parameters.values()
    others = {p.name: None for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    others |= {other: images() for owner, other in INPUTS if owner is node}
    with pytest.raises(ValueError, match=rf"^{name}: .*{message}"):
        node.execute(**others | {name: bad})


def test_grey_and_transparent_images_are_read_as_colours():
    colours = images()
    assert torch.equal(checked_images(colours, "image"), colours)
    rgba = torch.cat([colours, images(channels=1)], dim=-1)
    assert torch.equal(checked_images(rgba, "image"), colours)
    grey = images(channels=1)
    assert torch.equal(checked_images(grey, "image"), grey.expand(-1, -1, -1, 3))
    assert checked_images(colours.half(), "image").dtype == torch.float32
    overshot = checked_images(colours * 1.2 - 0.1, "image")
    assert torch.equal(overshot, colours * 1.2 - 0.1)  # a resize may leave 0 … 1 a little
    assert checked_images(None, "image") is None


def test_scores_and_masks_of_grey_and_transparent_images():
    from partedit_oir.core.vision.sam import SamModel
    from partedit_oir.nodes.metrics import EditMetrics
    from partedit_oir.nodes.segment import GroundedSAMMask

    source, edited, alpha = images(1), images(1).flip(1), images(1, 1)
    expected = json.loads(EditMetrics.execute(source, edited).result[1])
    rgba = [torch.cat([image, alpha], dim=-1) for image in (source, edited)]
    assert json.loads(EditMetrics.execute(*rgba).result[1]) == expected
    grey = [image[..., :1] for image in (source, edited)]
    tripled = [image.expand(-1, -1, -1, 3) for image in grey]
    assert EditMetrics.execute(*grey).result == EditMetrics.execute(*tripled).result
    sam, box = SamModel(small_sam()), ("", 0.3, 1, "2 2 20 12", "")
    for one, three in ((rgba[0], source), (grey[0], tripled[0])):
        assert torch.equal(*(GroundedSAMMask.execute(image, sam, *box).result[0] for image in (one, three)))


def test_training_images_are_read_alike():
    from partedit_oir.core.training.inputs import paired

    masks = torch.ones(2, 16, 24)
    rgba = torch.cat([images(), images(channels=1)], dim=-1)
    assert torch.equal(paired(checked_images(rgba, "images"), [masks])[0], images())
