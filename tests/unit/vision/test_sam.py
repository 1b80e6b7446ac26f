"""The SAM path, run for real on small weights: boxes, points, sizes, and checkpoints that must not be trusted."""

from __future__ import annotations

import pickle

import pytest
import torch

from support.tiny_segmenters import small_sam
from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.vision.prompts import box_lines, boxes_by_picture, check_prompts, parse_points
from partedit_oir.core.vision.sam import READINGS, SamModel, chosen_reading, reading_line
from partedit_oir.core.vision.sam_weights import _architecture, build_sam, read_tensors


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("sams") / "small.pth"
    torch.save(small_sam().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def sam(weights):
    return SamModel.from_file(weights)


@pytest.fixture(scope="module")
def image():
    return torch.rand((48, 72, 3), generator=torch.Generator().manual_seed(1))


def test_a_box_gives_what_the_package_itself_gives(sam, image):
    from segment_anything import SamPredictor

    predictor = SamPredictor(small_sam())
    predictor.set_image((image * 255).round().to(torch.uint8).numpy())
    expected, score, _ = predictor.predict(box=torch.tensor([10.0, 8.0, 50.0, 40.0]).numpy(), multimask_output=False)
    masks, scores = sam.masks(image, boxes=torch.tensor([[10.0, 8.0, 50.0, 40.0]]))
    assert masks.shape == (1, 48, 72) and masks.dtype == torch.bool
    assert masks[0].any() and not masks[0].all()
    assert torch.equal(masks[0], torch.from_numpy(expected[0]))
    assert scores[0].item() == pytest.approx(float(score[0]), abs=1e-5)


def test_points_give_what_the_package_itself_gives(sam, image):
    from segment_anything import SamPredictor

    points, labels = parse_points("20, 20\n60 40 0")
    predictor = SamPredictor(small_sam())
    predictor.set_image((image * 255).round().to(torch.uint8).numpy())
    expected, _, _ = predictor.predict(points.numpy(), labels.int().numpy(), multimask_output=False)
    masks, _ = sam.masks(image, points=points, labels=labels)
    assert torch.equal(masks[0], torch.from_numpy(expected[0]))
    without, _ = sam.masks(image, points=points[:1])
    assert not torch.equal(masks, without)


def test_points_lie_on_the_object_unless_a_0_follows():
    points, labels = parse_points("20, 20\n60 40 0; 1.5 2 1\n \n7, 8, -1")
    assert points.tolist() == [[20, 20], [60, 40], [1.5, 2], [7, 8]] and labels.tolist() == [1, 0, 1, 0]
    points, labels = parse_points(" ;\n")
    assert points.shape == (0, 2) and labels.shape == (0,)
    with pytest.raises(ValueError, match=r"^points: expected 2 or 3 numbers \(pixels, .*\), got '1,'\.$"):
        parse_points("20 20\n  1, ")


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ((), "text, boxes, points: all are empty"),
        ((torch.zeros(0, 4), torch.zeros(0, 2)), "text, boxes, points: all are empty"),
        ((torch.ones(1, 3),), r"boxes: expected a shape \(n, 4\), got \(1, 3\)"),
        ((torch.tensor([[10.0, 8.0, 10.0, 40.0]]),), "boxes: expected x0, y0, x1, y1"),
        ((torch.tensor([[10.0, 40.0, 20.0, 40.0]]),), "boxes: expected x0, y0, x1, y1"),
        ((torch.tensor([[-1.0, 8.0, 20.0, 40.0]]),), "boxes: expected x0, y0, x1, y1"),
        ((torch.tensor([[0.0, 0.0, 72.0, 49.0]]),), "boxes: .* inside the image"),
        ((None, torch.ones(1, 3)), r"points: expected a shape \(n, 2\), got \(1, 3\)"),
        ((None, torch.tensor([[72.0, 0.0]])), "points: expected pixels inside the image"),
        ((None, torch.tensor([[0.0, -1.0]])), "points: expected pixels inside the image"),
        ((None, torch.zeros(2, 2), torch.ones(1)), "points: expected a label for each"),
        ((None, torch.zeros(2, 2), torch.zeros(2)), "points: .* at least one of them on the object"),
    ],
)
def test_prompts_that_do_not_fit_a_picture_are_named(prompts, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        check_prompts(*prompts, *[None] * (3 - len(prompts)), 48, 72)


def test_prompts_at_a_pictures_border_fit_it():
    box, point = torch.tensor([[0.0, 0.0, 72.0, 48.0]]), torch.tensor([[71.9, 0.0]])
    check_prompts(box, torch.zeros(0, 2), torch.zeros(0), 48, 72)
    check_prompts(torch.zeros(0, 4), point, torch.ones(1), 48, 72)


def test_the_host_brings_the_model_onto_its_device_before_each_use(weights, image):
    moved = []

    def manage(model):
        return lambda: moved.append(model)

    managed, point = SamModel.from_file(weights, manage=manage), torch.tensor([[20.0, 20.0]])
    assert moved == []
    masks, _ = managed.masks(image, torch.zeros(0, 4), point)
    assert len(masks) == 1 and len(moved) == 1
    boxed, _ = managed.masks(image, torch.tensor([[10.0, 8.0, 50.0, 40.0]]), torch.zeros(0, 2))
    assert len(boxed) == 1 and len(moved) == 2
    managed.readings(image, point)
    assert moved == [managed.model] * 3


def test_readings_are_chosen_by_size_or_by_their_rating():
    ratings = torch.tensor([0.2, 0.5, 0.9])
    assert [chosen_reading(ratings, reading) for reading in READINGS] == [2, 0, 1, 2]
    assert chosen_reading(ratings.flip(0), "best rated") == 0
    masks = torch.zeros(3, 4, 5, dtype=torch.bool)
    masks[1, :2], masks[2] = True, True
    assert reading_line(2, masks, ratings) == "2: 0.0 % of the image (0.20), 50.0 % of the image (0.50), " + (
        "100.0 % of the image (0.90)"
    )
    with pytest.raises(ValueError, match="reading: 'best' is not one of best rated, smallest, middle, largest"):
        chosen_reading(ratings, "best")


def test_boxes_and_points_together(sam, image):
    (boxes,) = boxes_by_picture("10, 8, 50, 40; 0 0 30 30", 1)
    masks, scores = sam.masks(image, boxes, torch.tensor([[20.0, 20.0]]))
    assert masks.shape == (3, 48, 72) and scores.shape == (3,)
    alone, _ = sam.masks(image, boxes[1:])
    assert torch.equal(masks[1], alone[0])


def test_a_picture_too_thin_to_be_seen_is_refused(sam):
    with pytest.raises(ValueError, match=r"image: is 400 x 2 pixels.*at most 100 times"):
        sam.masks(torch.rand(2, 400, 3), points=torch.tensor([[9.0, 1.0]]))
    assert sam.masks(torch.rand(1, 60, 3), points=torch.tensor([[9.0, 0.0]]))[0].shape == (1, 1, 60)


def test_safetensors_load_alike(weights, sam, image, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "small.safetensors"
    save_file({name: value.clone().contiguous() for name, value in read_tensors(weights).items()}, str(path))
    box = torch.tensor([[10.0, 8.0, 50.0, 40.0]])
    torch.save({"model": read_tensors(weights), "step": 3}, tmp_path / "training.pth")
    for other in (path, tmp_path / "training.pth"):
        loaded = SamModel.from_file(other)
        assert torch.equal(loaded.masks(image, box)[0], sam.masks(image, box)[0])
        assert not loaded.model.training and not any(one.requires_grad for one in loaded.model.parameters())


@pytest.mark.parametrize("size", ["vit_b", "vit_l", "vit_h"])
def test_the_registered_sizes_are_recognised_by_their_shapes(size):
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        registered = sam_model_registry[size]()
    encoder, prompt, decoder, transformer = _architecture(registered.state_dict())
    expected = {
        "vit_b": (768, 12, 12, (2, 5, 8, 11)),
        "vit_l": (1024, 24, 16, (5, 11, 17, 23)),
        "vit_h": (1280, 32, 16, (7, 15, 23, 31)),
    }[size]
    found = tuple(encoder[key] for key in ("embed_dim", "depth", "num_heads", "global_attn_indexes"))
    assert found == expected
    assert (encoder["img_size"], encoder["window_size"], encoder["mlp_ratio"]) == (1024, 14, 4)
    assert (prompt["mask_in_chans"], decoder["num_multimask_outputs"], decoder["iou_head_depth"]) == (16, 3, 3)
    assert (transformer["depth"], transformer["mlp_dim"]) == (2, 2048)


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"weights": Bomb(marker)}, path)
    with pytest.raises(ValueError, match="could not be read as plain weights"):
        SamModel.from_file(path)
    path.write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ValueError, match="could not be read as plain weights"):
        SamModel.from_file(path)
    assert not marker.exists()


def test_missing_damaged_and_foreign_files_are_named(tmp_path, weights):
    with pytest.raises(FileNotFoundError, match=r"sam_vit_b_01ec64\.pth.*models/sams"):
        SamModel.from_file(tmp_path / "sam_vit_b_01ec64.pth")
    (tmp_path / "half.pth").write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"half\.pth"):
        SamModel.from_file(tmp_path / "half.pth")
    torch.save({"unet.weight": torch.zeros(2)}, tmp_path / "unet.pth")
    with pytest.raises(ValueError, match=r"'unet\.pth' is not a Segment Anything checkpoint"):
        SamModel.from_file(tmp_path / "unet.pth")
    state = read_tensors(weights)
    state.pop("mask_decoder.iou_token.weight")
    with pytest.raises(ValueError, match="iou_token"):
        build_sam(state)
    state = read_tensors(weights) | {f"extra.{number}": torch.zeros(1) for number in range(100)}
    state.pop("mask_decoder.iou_token.weight")
    with pytest.raises(
        ValueError, match=r"1 weights are missing.*; 100 weights are unknown, the first is extra\.0\. "
    ) as error:
        build_sam(state)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("HQ-SAM", "mask_decoder.hf_token.weight"),
        ("MobileSAM", "image_encoder.patch_embed.seq.0.c.weight"),
        ("SAM 2", "sam_mask_decoder.iou_token.weight"),
        ("transformers-format", "vision_encoder.pos_embed"),
    ],
)
def test_a_relative_of_sam_is_named_with_the_file_to_use(weights, kind, key):
    with pytest.raises(ValueError, match=rf"'its\.pth' is an? {kind} checkpoint.*sam_vit_b_01ec64\.pth.*models/sams"):
        build_sam(read_tensors(weights) | {key: torch.zeros(1)}, "its.pth")


def test_the_case_of_a_suffix_does_not_matter(weights, tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, str(tmp_path / "SMALL.SAFETENSORS"))
    assert torch.equal(read_tensors(tmp_path / "SMALL.SAFETENSORS")["a"], torch.ones(2))


@pytest.mark.parametrize("text", ["1, 2, 3", "a, b, c, d", "1 2 3 nan"])
def test_bad_boxes_are_named(text):
    with pytest.raises(ValueError, match="boxes: expected 4 numbers"):
        boxes_by_picture(text, 1)


def test_boxes_are_written_as_they_are_read():
    boxes, scores = torch.tensor([[10.04, 8.0, 50.0, 40.0], [1.5, 2.0, 2.5, 72.0]]), torch.tensor([0.91, 0.5])
    lines = [*box_lines(1, boxes, scores), *box_lines(2, boxes[:0], scores[:0]), "3 4 5 6"]
    assert lines[:3] == ["1: 10.0, 8.0, 50.0, 40.0 (0.91)", "1: 1.5, 2.0, 2.5, 72.0 (0.50)", "2: none"]
    first, second = boxes_by_picture("\n".join(lines), 2)
    assert torch.allclose(first[:2], boxes, atol=0.05) and second.tolist() == first[2:].tolist() == [[3, 4, 5, 6]]
    for bad in ("0: 1 2 3 4", "3: 1 2 3 4", "1: 2 3 4", "1: some", "x: 1 2 3 4"):
        with pytest.raises(ValueError, match=f"boxes: .*'{bad}'"):
            boxes_by_picture(bad, 2)


def test_prompts_outside_the_picture_are_refused(sam, image):
    with pytest.raises(ValueError, match="inside the image"):
        sam.masks(image, boxes=torch.tensor([[0.0, 0.0, 100.0, 20.0]]))
    with pytest.raises(ValueError, match="inside the image"):
        sam.masks(image, points=torch.tensor([[72.0, 0.0]]))
    with pytest.raises(ValueError, match="text, boxes, points: all are empty"):
        sam.masks(image)
