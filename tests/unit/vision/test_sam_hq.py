"""HQ-SAM from its authors' checkpoints and from transformers folders, against transformers' own path to a mask."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from support.tiny_segmenters import drawn_sam_hq_checkpoint, sam_hq_checkpoint, small_sam, small_sam_hq
from tools.bootstrap import load_pack
from tools.parity.drawn_weights import standard_normal

load_pack()
import folder_paths

from partedit_oir.core.vision.sam import SamModel
from partedit_oir.core.vision.sam_hq import SamHqModel, _mended, build_sam_hq, load_sam, transformers_name
from partedit_oir.nodes.segment import GroundedSAMMask, LoadSAMModel, SAMPointMask

pytest.importorskip("transformers", "4.52")


@pytest.fixture(scope="module")
def reference():
    return _mended(small_sam_hq())


@pytest.fixture(scope="module")
def checkpoint(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("sams") / "small_hq.pth"
    torch.save(sam_hq_checkpoint(reference), path)
    return path


@pytest.fixture
def picture():
    """Already of the size and the 256 levels that the encoder sees, so that no resizing comes between."""
    levels = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(1))
    return levels.float() / 255


def expected(reference, picture, several, boxes=None, points=None):
    from transformers import SamHQProcessor, SamImageProcessor

    side = {"height": 64, "width": 64}
    images = SamImageProcessor(size={"longest_edge": 64}, pad_size=side, mask_size={"longest_edge": 64})
    processor = SamHQProcessor(images)
    inputs = processor(
        images=(picture * 255).round().to(torch.uint8).numpy(),
        input_boxes=None if boxes is None else [boxes],
        input_points=None if points is None else [[points]],
        return_tensors="pt",
    )
    with torch.no_grad():
        output = reference(
            **{
                name: value for name, value in inputs.items() if name in ("pixel_values", "input_points", "input_boxes")
            },
            multimask_output=several,
        )
    masks = processor.post_process_masks(
        output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"], pad_size=side
    )[0]
    return masks.bool(), output.iou_scores[0]


# What the authors' package (segment-anything-hq 0.3) makes of the drawn checkpoint: pixels, mean row, column, rating.
BOXES = {(10, 8, 50, 40): (1723, 24.75, 37.31, 0.42017), (30, 3, 60, 30): (2792, 24.16, 36.25, 0.46176)}
ONE_POINT = (2293, 24.91, 36.03, 0.46703)
TWO_POINTS = (1743, 25.92, 36.90, 0.35106)


def told(masks, ratings):
    rows, columns = torch.arange(48.0)[:, None], torch.arange(72.0)
    for mask, rating in zip(masks.float(), ratings.tolist()):
        pixels = mask.sum().item()
        yield pixels, (mask * rows).sum().item() / pixels, (mask * columns).sum().item() / pixels, rating


def test_the_masks_are_those_of_the_authors_package(tmp_path):
    torch.save(drawn_sam_hq_checkpoint(), tmp_path / "drawn.pth")
    sam, image = load_sam(tmp_path / "drawn.pth"), torch.from_numpy(standard_normal(1, 48, 72, 3)).abs().clamp(0, 1)
    for found, wanted in zip(told(*sam.masks(image, torch.tensor(list(BOXES), dtype=torch.float32))), BOXES.values()):
        assert found == pytest.approx(wanted, rel=2e-3)
    points = torch.tensor([[20.0, 20.0], [60.0, 40.0]])
    assert next(told(*sam.masks(image, points=points[:1]))) == pytest.approx(ONE_POINT, rel=2e-3)
    found = next(told(*sam.masks(image, points=points, labels=torch.tensor([1.0, 0.0]))))
    assert found == pytest.approx(TWO_POINTS, rel=2e-3)


def test_boxes_give_the_masks_of_transformers(reference, checkpoint, picture):
    boxes = [[4.0, 8.0, 40.0, 50.0], [20.0, 10.0, 60.0, 60.0]]
    wanted, rating = expected(reference, picture, False, boxes=boxes)
    sam = load_sam(checkpoint)
    assert isinstance(sam, SamHqModel) and sam.name == "small_hq"
    masks, ratings = sam.masks(picture, torch.tensor(boxes))
    assert torch.equal(masks, wanted[:, 0]) and torch.allclose(ratings, rating[:, 0], atol=1e-5)
    assert 0 < masks.float().mean() < 1 and not torch.equal(masks[0], masks[1])


def test_a_point_gives_three_readings(reference, checkpoint, picture):
    wanted, rating = expected(reference, picture, True, points=[[30.0, 20.0]])
    sam = load_sam(checkpoint)
    masks, ratings = sam.readings(picture, torch.tensor([[30.0, 20.0]]))
    order = wanted[0].flatten(1).sum(dim=1).argsort(stable=True)
    assert torch.equal(masks, wanted[0][order]) and torch.allclose(ratings, rating[0][order], atol=1e-5)
    best, _ = sam.masks(picture, points=torch.tensor([[30.0, 20.0]]))
    assert torch.equal(best[0], wanted[0][rating[0].argmax()])


def test_another_shape_and_points_beside(checkpoint):
    image = torch.rand(48, 96, 3, generator=torch.Generator().manual_seed(2))
    masks, _ = load_sam(checkpoint).masks(
        image,
        torch.tensor([[0.0, 0.0, 50.0, 40.0]]),
        torch.tensor([[80.0, 20.0], [10.0, 10.0]]),
        torch.tensor([1.0, 0.0]),
    )
    assert masks.shape == (2, 48, 96) and masks.dtype == torch.bool


def test_a_folder_of_transformers_is_the_same_model(reference, checkpoint, picture, tmp_path):
    reference.save_pretrained(tmp_path / "hq")
    box = torch.tensor([[4.0, 8.0, 40.0, 50.0]])
    assert torch.equal(load_sam(tmp_path / "hq").masks(picture, box)[0], load_sam(checkpoint).masks(picture, box)[0])


def test_published_sizes_are_told_by_their_shapes(reference, monkeypatch):
    """vit_h of HQ-SAM: 1280 wide, 32 blocks of 16 heads, its first global block after seven windowed ones."""
    import partedit_oir.core.vision.sam_hq as module

    built = []

    class Recorder:
        def __init__(self, config):
            built.append(config)

        def load_state_dict(self, state):
            return None

        def eval(self):
            return self

        def requires_grad_(self, _):
            return self

    monkeypatch.setattr(module, "_model_class", lambda: Recorder)
    monkeypatch.setattr(module, "_mended", lambda model: model)

    def shape(*sizes):
        return torch.empty(sizes, device="meta")

    state = {name: shape(*tensor.shape) for name, tensor in sam_hq_checkpoint(reference).items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith("image_encoder.blocks.")}
    for block in range(32):
        span = 127 if block in (7, 15, 23, 31) else 27
        state[f"image_encoder.blocks.{block}.attn.rel_pos_h"] = shape(span, 80)
        state[f"image_encoder.blocks.{block}.mlp.lin1.weight"] = shape(5120, 1280)
    state |= {
        "image_encoder.patch_embed.proj.weight": shape(1280, 3, 16, 16),
        "image_encoder.pos_embed": shape(1, 64, 64, 1280),
        "image_encoder.neck.0.weight": shape(256, 1280, 1, 1),
        "mask_decoder.compress_vit_feat.0.weight": shape(1280, 256, 2, 2),
        "mask_decoder.iou_prediction_head.layers.0.weight": shape(256, 256),
    }
    build_sam_hq(state, "sam_hq_vit_h.pth")
    vision, decoder = built[0].vision_config, built[0].mask_decoder_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (1280, 32, 16)
    assert (vision.image_size, vision.window_size, list(vision.global_attn_indexes)) == (1024, 14, [7, 15, 23, 31])
    assert (vision.mlp_dim, vision.num_pos_feats, decoder.vit_dim) == (5120, 128, 1280)


def test_what_cannot_be_loaded_names_what_to_load(reference, checkpoint, tmp_path, monkeypatch):
    tiny = {"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(1), "mask_decoder.hf_token.weight": torch.zeros(1)}
    torch.save(tiny, tmp_path / "tiny.pth")
    with pytest.raises(ValueError, match=r"'tiny\.pth' is an HQ-SAM checkpoint with a TinyViT.*sam_hq_vit_b\.pth"):
        load_sam(tmp_path / "tiny.pth")
    torch.save({"sam_mask_decoder.iou_token.weight": torch.zeros(1)}, tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"'two\.pth' is a SAM 2 checkpoint.*sam_vit_b_01ec64\.pth"):
        load_sam(tmp_path / "two.pth")
    state = sam_hq_checkpoint(reference)
    del state["mask_decoder.hf_mlp.layers.1.weight"]
    torch.save(state, tmp_path / "gap.pth")
    with pytest.raises(ValueError, match=r"'gap\.pth' does not fit the HQ-SAM model.*hq_mask_mlp"):
        load_sam(tmp_path / "gap.pth")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_sam(tmp_path / "none.pth")
    old = types.ModuleType("transformers")
    old.__version__ = "4.51.0"
    monkeypatch.setitem(sys.modules, "transformers", old)
    with pytest.raises(ValueError, match=r"HQ-SAM needs transformers 4\.52 or later, but this is 4\.51\.0"):
        load_sam(checkpoint)


def test_names_of_transformers_are_left_alone(reference):
    names = [name for name in reference.state_dict() if name.startswith(("vision_encoder.", "shared_"))]
    assert [transformers_name(name) for name in names] == names


@pytest.fixture
def folder(reference, tmp_path, monkeypatch):
    torch.save(sam_hq_checkpoint(reference), tmp_path / "sam_hq.pth")
    torch.save(small_sam().state_dict(), tmp_path / "sam.pth")
    reference.save_pretrained(tmp_path / "hq")
    entry = ([str(tmp_path)], {".pth", ".pt", ".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sams", entry)
    folder_paths.filename_list_cache.pop("sams", None)
    yield tmp_path
    folder_paths.filename_list_cache.pop("sams", None)


def test_the_loader_lists_files_and_folders_once(folder):
    assert LoadSAMModel.define_schema().inputs[0].options == ["hq", "sam.pth", "sam_hq.pth"]
    kinds = [type(LoadSAMModel.execute(name).result[0]) for name in ("hq", "sam.pth", "sam_hq.pth")]
    assert kinds == [SamHqModel, SamModel, SamHqModel]
    assert LoadSAMModel.validate_inputs("hq") is True
    with pytest.raises(ValueError, match=r"^checkpoint: no file or folder 'hq/model.safetensors'"):
        LoadSAMModel.execute("hq/model.safetensors")


@pytest.mark.parametrize("name", ["sam.pth", "sam_hq.pth"])
def test_a_point_gives_all_masks_through_the_node(folder, name):
    sam = LoadSAMModel.execute(name).result[0]
    images = torch.rand(2, 48, 72, 3, generator=torch.Generator().manual_seed(3))
    every, sizes = None, []
    for reading in ("best rated", "smallest", "middle", "largest"):
        mask, readings, ratings = SAMPointMask.execute(images, sam, "40, 20", reading).result
        assert mask.shape == (2, 48, 72) and readings.shape == (6, 48, 72) and mask.dtype == torch.float32
        assert every is None or torch.equal(every, readings)
        every = readings
        sizes.append(mask.flatten(1).sum(dim=1))
    assert torch.equal(sizes[1], every[[0, 3]].flatten(1).sum(1)) and torch.equal(
        sizes[3], every[[2, 5]].flatten(1).sum(1)
    )
    assert (sizes[1] <= sizes[2]).all() and (sizes[2] <= sizes[3]).all()
    for number in range(2):
        own, rating = sam.readings(images[number], torch.tensor([[40.0, 20.0]]))
        assert torch.equal(own.float(), every[3 * number : 3 * number + 3])
        best, _ = sam.masks(images[number], points=torch.tensor([[40.0, 20.0]]))
        assert torch.equal(best[0], own[rating.argmax()])
    assert [line[:2] for line in ratings.splitlines()] == ["1:", "2:"] and ratings.count("% of the image") == 6


def test_bad_points_are_named(folder):
    sam, image = LoadSAMModel.execute("sam.pth").result[0], torch.zeros(1, 32, 32, 3)
    for point, words in (("", "^point: is empty"), ("40, 5", "inside the image"), ("a b", "expected 2 or 3 numbers")):
        with pytest.raises(ValueError, match=words):
            SAMPointMask.execute(image, sam, point, "best rated")
    with pytest.raises(ValueError, match="is not one of best rated"):
        SAMPointMask.execute(image, sam, "5, 5", "best")


def test_grounded_sam_works_with_hq(folder):
    sam = LoadSAMModel.execute("sam_hq.pth").result[0]
    image = torch.rand(1, 48, 72, 3, generator=torch.Generator().manual_seed(3))
    mask, objects, _ = GroundedSAMMask.execute(image, sam, "", 0.3, 1, "10 8 50 40", "20, 20").result
    assert mask.shape == (1, 48, 72) and objects.shape == (2, 48, 72)
