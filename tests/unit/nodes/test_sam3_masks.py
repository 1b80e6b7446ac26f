"""Masks of ComfyUI's own SAM 3 node go into Editing Pair: one object, several, and none.

The node runs as it is; only the network's answers are written down, because its weights are not at hand.
"""

from __future__ import annotations

import pytest
import torch

from support.stand_ins import FakeClip
from tools.bootstrap import load_pack

load_pack()
from comfy_api.latest import io

from partedit_oir.nodes.editing_pair import EditingPair

sam3 = pytest.importorskip("comfy_extras.nodes_sam3", reason="this ComfyUI has no SAM 3")

HEIGHT, WIDTH = 48, 64
BOXES = torch.tensor([[4.0, 8.0, 28.0, 40.0], [36.0, 8.0, 60.0, 40.0]])


class Answers(torch.nn.Module):
    """The detector's answers: a mask filling each box, and how sure it is of each."""

    def __init__(self, *sure: float) -> None:
        super().__init__()
        self.sure = torch.tensor(sure)

    def forward(self, frame, *, orig_size, **_):
        height, width = orig_size
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        count = len(self.sure)
        inside = [(columns >= a) & (columns < c) & (rows >= b) & (rows < d) for a, b, c, d in BOXES[:count].tolist()]
        masks = torch.stack(inside).float() * 20 - 10 if count else torch.zeros(0, height, width)
        return {"boxes": [BOXES[:count]], "scores": [self.sure.logit()], "masks": [masks]}


class Network(torch.nn.Module):
    def __init__(self, *sure: float) -> None:
        super().__init__()
        self.diffusion_model, self.device = Answers(*sure), torch.device("cpu")

    def get_dtype(self):
        return torch.float32


def conditioning(most: int):
    """What CLIPTextEncode gives for 'cat:2' with SAM 3's text encoder; for plain 'cat' there is no list."""
    words = torch.zeros(1, 4, 8)
    many = [{"cond": words, "attention_mask": None, "max_detections": most}]
    return [[words, {"sam3_multi_cond": many} if most > 1 else {}]]


def detect(*sure: float, most: int = 1, individual: bool = False, pictures: int = 1) -> torch.Tensor:
    from comfy.model_patcher import ModelPatcher

    model = ModelPatcher(Network(*sure), torch.device("cpu"), torch.device("cpu"))
    output = sam3.SAM3_Detect.execute(
        model,
        torch.rand(pictures, HEIGHT, WIDTH, 3),
        conditioning(most),
        refine_iterations=0,
        individual_masks=individual,
    )
    return output.args[0]


def pair(mask: torch.Tensor):
    return EditingPair.execute(FakeClip(), "a cat and a chair", "cat", "tiger", mask, 1, "").args[0][0]


def test_the_sockets_fit():
    detector, own = sam3.SAM3_Detect.define_schema(), EditingPair.define_schema()
    mask = next(entry for entry in own.inputs if entry.id == "mask")
    assert detector.outputs[0].io_type == mask.io_type == io.Mask.io_type
    assert next(entry for entry in detector.inputs if entry.id == "image").io_type == io.Image.io_type


def test_the_surest_object_is_the_pair_s_mask():
    masks = detect(0.7, 0.9)
    assert masks.shape == (1, HEIGHT, WIDTH)
    found = pair(masks)
    assert found.mask.shape == (HEIGHT, WIDTH) and found.mask[:, 36:60].any() and not found.mask[:, :30].any()


def test_several_objects_become_one_mask():
    """'cat:2' asks for two; without individual_masks they come joined, which is what a pair edits at once."""
    masks = detect(0.7, 0.9, most=2)
    assert masks.shape == (1, HEIGHT, WIDTH) and pair(masks).mask.sum() == 2 * 24 * 32


def test_a_batch_of_objects_is_refused_with_what_to_do():
    masks = detect(0.7, 0.9, most=2, individual=True)
    assert masks.shape == (2, HEIGHT, WIDTH)
    with pytest.raises(
        ValueError, match=r"mask of 'cat' → 'tiger': expected one mask .* got \(2, 48, 64\)\. Choose one"
    ):
        pair(masks)
    assert pair(masks[1:]).mask.sum() == 24 * 32
    with pytest.raises(ValueError, match="expected one mask"):
        pair(detect(0.9, pictures=2))


@pytest.mark.parametrize("individual", [False, True])
def test_nothing_found_is_an_error_that_names_the_pair(individual):
    masks = detect(0.2, individual=individual)
    assert masks.shape == ((0, HEIGHT, WIDTH) if individual else (1, HEIGHT, WIDTH))
    # No mask at all is named by the input, before the pair is looked at; an empty one by the pair.
    message = r"mask: has no pixels .* found nothing" if individual else "mask of 'cat' → 'tiger'"
    with pytest.raises(ValueError, match=message):
        pair(masks)
