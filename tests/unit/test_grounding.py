"""Text grounding on small transformers models that the test saves itself: loading, boxes, and messages."""

from __future__ import annotations

import json

import pytest
import torch

from bench.bootstrap import load_pack

load_pack()
from partedit_oir.core.segment.grounding import GroundingModel

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def tamed(model):
    """Small random weights everywhere: the libraries' own initial ones saturate at this size."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape) * 0.15)
    return model


def save_owlvit(folder):
    from transformers import OwlViTConfig, OwlViTForObjectDetection

    torch.manual_seed(0)
    # As in CLIP's vocabulary, 0 pads and the end of the text has the largest number: OWL-ViT relies on both.
    words = ["!", "cat</w>", "dog</w>", *"catdog", "t</w>", "g</w>", "ca", "do", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    config = OwlViTConfig(
        text_config={
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 16,
            "bos_token_id": len(vocabulary) - 2,
            "eos_token_id": len(vocabulary) - 1,
            **TOWER,
        },
        vision_config={"image_size": 32, "patch_size": 8, **TOWER},
        projection_dim=32,
    )
    tamed(OwlViTForObjectDetection(config)).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\nd o\ndo g</w>\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, "pad_token": "!"})
    )
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "OwlViTImageProcessor",
                "processor_class": "OwlViTProcessor",
                "size": {"height": 32, "width": 32},
                "do_center_crop": False,
            }
        )
    )


def save_grounding_dino(folder):
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "cat", "dog"]
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "image_size": 64,
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 4,
            "out_indices": [2, 3, 4],
        },
        text_config={"model_type": "bert", "vocab_size": len(words), "max_position_embeddings": 64, **TOWER},
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=10,
        num_feature_levels=4,
        max_text_len=16,
        disable_custom_kernels=True,
    )
    tamed(GroundingDinoForObjectDetection(config)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": 16})
    )
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "GroundingDinoImageProcessor",
                "processor_class": "GroundingDinoProcessor",
                "size": {"shortest_edge": 64, "longest_edge": 96},
            }
        )
    )


SAVERS = {"owlvit": save_owlvit, "grounding-dino": save_grounding_dino}


@pytest.fixture(scope="module", params=sorted(SAVERS))
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp("grounding") / request.param
    made.mkdir()
    SAVERS[request.param](made)
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


def test_boxes_agree_with_transformers_own_reading(detector, folder):
    """The published post-processing of OWL-ViT, on the same picture, gives the same boxes."""
    if folder.name != "owlvit":
        pytest.skip("GroundingDINO's own post-processing also reads labels; its boxes are the same formula")
    from transformers.image_transforms import center_to_corners_format

    image = torch.rand((40, 60, 3), generator=torch.Generator().manual_seed(0))
    pixels = (image * 255).round().to(torch.uint8).numpy()
    with torch.no_grad():
        output = detector.model(**detector.processor(images=pixels, text=[["cat"]], return_tensors="pt"))
    corners = center_to_corners_format(output.pred_boxes[0]) * torch.tensor([60, 40, 60, 40])
    best = output.logits[0, :, 0].argmax()
    boxes, scores = detector.boxes(image, "cat", threshold=0.0)
    assert torch.allclose(boxes[0], corners[best].clamp(min=0).minimum(torch.tensor([60, 40, 60, 40])), atol=1e-4)
    assert scores[0].item() == pytest.approx(output.logits[0, best, 0].sigmoid().item(), abs=1e-6)


def test_several_names_in_one_text(detector):
    image = torch.rand((40, 60, 3), generator=torch.Generator().manual_seed(0))
    boxes, _ = detector.boxes(image, "Cat, dog.", threshold=0.0, limit=100)
    assert len(boxes) >= len(detector.boxes(image, "cat", threshold=0.0, limit=1)[0])
    with pytest.raises(ValueError, match="text: is empty"):
        detector.boxes(image, " . , ")


def test_missing_files_say_where_they_come_from(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"grounding-dino-tiny.*models/grounding"):
        GroundingModel.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ValueError, match="'clip'"):
        GroundingModel.from_folder(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"processor|tokenizer"):
        GroundingModel.from_folder(tmp_path)
