"""Text grounding on small transformers models that are saved for it: loading, boxes, and messages."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from support.tiny_segmenters import DETECTORS
from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.vision.grounding import GroundingModel, names_in


@pytest.fixture(scope="module", params=sorted(DETECTORS))
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp("grounding") / request.param
    made.mkdir()
    DETECTORS[request.param](made)
    return made


@pytest.fixture(scope="module")
def detector(folder):
    return GroundingModel.from_folder(folder)


def test_boxes_lie_in_the_picture_best_first(detector, folder):
    assert detector.kind == folder.name
    image = torch.rand((40, 60, 3), generator=torch.Generator().manual_seed(0))
    boxes, scores = detector.boxes(image, "cat", threshold=0.0, limit=5)
    assert 0 < len(boxes) <= 5 and boxes.shape[1] == 4
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert boxes.min() >= 0 and (boxes[:, 0::2] <= 60).all() and (boxes[:, 1::2] <= 40).all()
    assert torch.equal(scores, scores.sort(descending=True).values)
    assert scores.min() >= 0 and scores.max() <= 1


def test_the_text_and_the_threshold_matter(detector):
    image = torch.rand((40, 60, 3), generator=torch.Generator().manual_seed(0))
    _, cat = detector.boxes(image, "cat", threshold=0.0)
    _, dog = detector.boxes(image, "dog", threshold=0.0)
    assert not torch.equal(cat, dog)
    some, scores = detector.boxes(image, "cat", threshold=float(cat[1]) - 1e-7)
    assert len(some) == 2 and torch.equal(scores, cat[:2])
    none, _ = detector.boxes(image, "cat", threshold=1.0)
    assert none.shape == (0, 4)


def test_the_rows_of_a_narrow_strip_are_not_taken_for_its_channels(detector):
    """Cut from an image as a three-pixel strip, whose shape begins as that of an image with channels first."""
    seen = []

    def read(**given):
        seen.append(detector.processor(**given))
        return seen[-1]

    red = torch.zeros(3, 50, 3)
    red[..., 0] = 1.0
    replace(detector, processor=read).boxes(red, "cat")
    inside = seen[0]["pixel_values"][0, :, 0, 0]
    assert inside[0] > inside[1] and inside[0] > inside[2]


@pytest.mark.parametrize("height, width", [(1, 1), (2, 400), (400, 2)])
def test_a_picture_too_thin_to_be_seen_is_refused(detector, height, width):
    with pytest.raises(ValueError, match=f"image: is {width} x {height} pixels.*at most 100 times"):
        detector.boxes(torch.rand(height, width, 3), "cat")


@pytest.mark.parametrize("height, width", [(40, 60), (60, 40)])
def test_boxes_agree_with_transformers_own_reading(detector, folder, height, width):
    """The published post-processing, on the same picture, gives the same boxes and scores."""
    image = torch.rand((height, width, 3), generator=torch.Generator().manual_seed(0))
    pixels = (image * 255).round().to(torch.uint8).numpy()
    text = "cat ." if folder.name == "grounding-dino" else [["cat"]]
    inputs = detector.processor(images=pixels, text=text, return_tensors="pt")
    with torch.no_grad():
        output = detector.model(**inputs)
    read = detector.processor.post_process_grounded_object_detection
    more = {"input_ids": inputs["input_ids"]} if folder.name == "grounding-dino" else {}
    expected = read(output, threshold=0.0, target_sizes=[(height, width)], **more)[0]
    best = expected["scores"].argmax()
    boxes, scores = detector.boxes(image, "cat", threshold=0.0)
    limit = torch.tensor([width, height, width, height])
    assert torch.allclose(boxes[0], expected["boxes"][best].clamp(min=0).minimum(limit), atol=1e-3)
    assert scores[0].item() == pytest.approx(expected["scores"][best].item(), abs=1e-6)


def test_several_names_in_one_text(detector):
    image = torch.rand((40, 60, 3), generator=torch.Generator().manual_seed(0))
    boxes, _ = detector.boxes(image, "Cat, dog.", threshold=0.0, limit=100)
    assert len(boxes) >= len(detector.boxes(image, "cat", threshold=0.0, limit=1)[0])
    with pytest.raises(ValueError, match="text: is empty"):
        detector.boxes(image, " . , ")


def test_weights_of_a_prompt_do_not_reach_the_detector(detector):
    image = torch.rand((40, 60, 3), generator=torch.Generator().manual_seed(0))
    plain, weighted = (detector.boxes(image, text, threshold=0.0) for text in ("cat, dog", "(cat:1.4), ((dog))"))
    assert torch.equal(plain[0], weighted[0]) and torch.equal(plain[1], weighted[1])
    assert names_in("a (green Dog:1.4). a 1.5m chair\nembedding:style, cat \\(left\\)") == [
        "a green dog",
        "a 1.5m chair",
        "cat (left)",
    ]


def test_names_may_be_separated_as_in_chinese():
    assert names_in("cat\uff0cdog\u3001bird\u3002red chair\uff1bcup") == ["cat", "dog", "bird", "red chair", "cup"]


def test_a_text_beyond_the_detectors_context_is_named(detector, folder):
    """The small detectors read 16 tokens: OWL-ViT of each name, GroundingDINO of all together."""
    image = torch.rand((40, 60, 3), generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"^text: 'cat cat .* has 2. tokens, but .* reads at most 16 (a name|in all)"):
        detector.boxes(image, "cat " * 20)
    if folder.name != "grounding-dino":
        assert len(detector.boxes(image, "cat, " * 20, threshold=0.0, limit=1)[0]) == 1


def test_missing_files_say_where_they_come_from(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"grounding-dino-tiny.*models/grounding"):
        GroundingModel.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ValueError, match="'clip'"):
        GroundingModel.from_folder(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"processor|tokenizer"):
        GroundingModel.from_folder(tmp_path)
