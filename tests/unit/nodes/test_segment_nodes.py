"""The loaders' lists and messages, and GroundedSAMMask on small models, through the nodes."""

from __future__ import annotations

import os
import time
import unicodedata

import pytest
import torch

from support.tiny_segmenters import save_owlvit, small_sam
from tools.bootstrap import load_pack

load_pack()
import folder_paths

from partedit_oir.nodes.clip_scorer import LoadCLIPScorer
from partedit_oir.nodes.folders import NONE_FOUND
from partedit_oir.nodes.inversion import InvertLatent
from partedit_oir.nodes.segment import GroundedSAMMask, LoadGroundingModel, LoadSAMModel


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Empty model folders in place of the registered ones."""
    for kind in ("sams", "grounding", "clip_scorers", "captioners"):
        (tmp_path / kind).mkdir()
        extensions = {".pth", ".pt", ".safetensors"} if kind == "sams" else set()
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], extensions))
        folder_paths.filename_list_cache.pop(kind, None)
    yield tmp_path
    for kind in ("sams", "grounding", "clip_scorers"):
        folder_paths.filename_list_cache.pop(kind, None)


def options(node):
    return node.define_schema().inputs[0].options


@pytest.mark.parametrize(
    "node, folder, words",
    [
        (LoadSAMModel, "sams", r"sam_vit_b_01ec64\.pth"),
        (LoadGroundingModel, "grounding", "grounding-dino-tiny"),
        (LoadCLIPScorer, "clip_scorers", "clip-vit-large-patch14"),
    ],
)
def test_a_missing_model_names_file_source_and_folder(models, node, folder, words):
    assert options(node) == [NONE_FOUND]
    (models / "outside").mkdir()
    (models / "outside" / "config.json").write_text("{}")
    (models / "outside.pth").write_bytes(b"x")
    for name in (NONE_FOUND, "../outside", "../outside.pth", str(models / "outside"), "a\x00b"):
        with pytest.raises(ValueError, match=words) as info:
            node.execute(name)
        assert str(models / folder) in str(info.value)
        # the host asks before anything runs, and shows this in place of its own "not in list"
        assert node.validate_inputs(name) == str(info.value)
    assert node.validate_inputs() is True


def test_a_name_from_another_system_means_the_file_of_that_name(models):
    for folder in ("ViT", "Müller"):
        (models / "sams" / folder).mkdir()
        (models / "sams" / folder / "sam b.pth").write_bytes(b"")
    (models / "grounding" / "OWL").mkdir()
    (models / "grounding" / "OWL" / "config.json").write_text("{}")
    decomposed = unicodedata.normalize("NFD", "Müller/sam b.pth")
    for name in ("ViT/sam b.pth", "ViT\\sam b.pth", "vit\\SAM B.pth", "Müller\\sam b.pth", decomposed):
        assert LoadSAMModel.validate_inputs(name) is True
    assert LoadGroundingModel.validate_inputs("owl") is True
    for name in ("sam b.pth", "ViT\\..\\ViT\\sam b.pth", ["ViT/sam b.pth"], 5):
        assert "no file or folder" in LoadSAMModel.validate_inputs(name)
    (models / "sams" / "vit").mkdir()
    (models / "sams" / "vit" / "sam b.pth").write_bytes(b"")
    folder_paths.filename_list_cache.pop("sams", None)
    if len(LoadSAMModel.define_schema().inputs[0].options) == 3:  # not where both are one file
        assert "no file or folder" in LoadSAMModel.validate_inputs("ViT\\sam b.pth")


@pytest.mark.parametrize(
    "node, file",
    [
        (LoadSAMModel, "sams/vit.pth"),
        (LoadSAMModel, "sams/hq/model.safetensors"),
        (LoadGroundingModel, "grounding/hq/model.safetensors"),
        (LoadCLIPScorer, "clip_scorers/hq/model.safetensors"),
        (InvertLatent, "captioners/hq/model.safetensors"),
    ],
)
def test_a_model_that_another_one_has_replaced_is_loaded_again(models, node, file):
    path, other = models / file, models / "other"
    if path.parent.name == "hq":
        path.parent.mkdir(parents=True)
        (path.parent / "config.json").write_text("{}")
    name = "hq" if path.parent.name == "hq" else path.name
    further = {"activation": "auto"} if node is LoadCLIPScorer else {"steps": 3} if node is InvertLatent else {}
    entry = {LoadSAMModel: "checkpoint", InvertLatent: "captioner"}.get(node, "model")
    states = []
    for content in (b"one", b"two"):
        other.write_bytes(content)
        os.utime(other, ns=(10**18, 10**18))  # as unpacked from an archive: same size, same time
        time.sleep(0.02)
        other.replace(path)
        states.append(node.fingerprint_inputs(**{entry: name}, **further))
        assert node.fingerprint_inputs(**{entry: name}, **further) == states[-1]
    path.unlink()
    states.append(node.fingerprint_inputs(**{entry: name}, **further))
    assert len(set(states)) == 3 and node.fingerprint_inputs(**further) is None


def test_boxes_points_and_text_make_masks(models):
    torch.save(small_sam().state_dict(), models / "sams" / "small.pth")
    (models / "grounding" / "tiny").mkdir()
    save_owlvit(models / "grounding" / "tiny")
    assert options(LoadSAMModel) == ["small.pth"] and options(LoadGroundingModel) == ["tiny"]
    assert LoadSAMModel.validate_inputs("small.pth") is True and LoadGroundingModel.validate_inputs("tiny") is True
    sam = LoadSAMModel.execute("small.pth").result[0]
    detector = LoadGroundingModel.execute("tiny").result[0]
    images = torch.rand((2, 48, 72, 3), generator=torch.Generator().manual_seed(1))
    base = {"text": "", "threshold": 0.0, "max_objects": 2, "boxes": "", "points": ""}

    prompts = base | {"boxes": "10 8 50 40", "points": "20, 20"}
    mask, objects, found = GroundedSAMMask.execute(images, sam, **prompts).result
    assert mask.shape == (2, 48, 72) and objects.shape == (4, 48, 72) and found == ""
    direct, _ = sam.masks(images[0], torch.tensor([[10.0, 8.0, 50.0, 40.0]]), torch.tensor([[20.0, 20.0]]))
    assert torch.equal(objects[:2], direct.float()) and torch.equal(mask[0], direct.any(dim=0).float())

    prompts = base | {"text": "cat", "grounding_model": detector}
    mask, objects, found = GroundedSAMMask.execute(images, sam, **prompts).result
    assert mask.shape == (2, 48, 72) and objects.shape == (4, 48, 72)
    assert [line[:2] for line in found.splitlines()] == ["1:", "1:", "2:", "2:"]
    again, objects_again, _ = GroundedSAMMask.execute(images, sam, **base | {"boxes": found}).result
    assert objects_again.shape == objects.shape
    assert (again != mask).float().mean() < 0.02 and (objects_again != objects).float().mean() < 0.02  # rounded boxes

    with pytest.raises(ValueError, match="grounding_model: not connected, but text is 'cat'"):
        GroundedSAMMask.execute(images, sam, **base | {"text": "cat"})
    with pytest.raises(ValueError, match="all are empty"):
        GroundedSAMMask.execute(images, sam, **base)
    with pytest.raises(ValueError, match="text: found no 'cat' in any of the 2 images"):
        GroundedSAMMask.execute(images, sam, **base | {"text": "cat", "threshold": 1.0}, grounding_model=detector)


class Finder:
    """Finds a cat in a picture that is bright at its first corner."""

    def boxes(self, image, text, threshold, limit):
        if float(image[0, 0].min()) < 0.9:
            return torch.empty(0, 4), torch.empty(0)
        return torch.tensor([[10.04, 8.0, 50.0, 40.0], [1.5, 2.0, 2.5, 72.0 / 2]]), torch.tensor([0.9, 0.8])


def test_a_picture_without_an_object_gets_an_empty_mask_and_the_log_names_it(caplog):
    from partedit_oir.core.vision.sam import SamModel

    sam, images = SamModel(small_sam()), torch.rand((3, 48, 72, 3), generator=torch.Generator().manual_seed(1))
    images[:, 0, 0] = torch.tensor([1.0, 0.0, 1.0])[:, None]
    base = {"text": "cat", "threshold": 0.3, "max_objects": 2, "boxes": "", "points": ""}
    mask, objects, boxes = GroundedSAMMask.execute(images, sam, **base, grounding_model=Finder()).result
    assert [bool(one.any()) for one in mask] == [True, False, True] and mask.shape == (3, 48, 72)
    assert objects.shape == (4, 48, 72) and boxes.splitlines()[2] == "2: none"
    assert [record.getMessage() for record in caplog.records] == [
        "Grounded SAM Mask: found no 'cat' in image 2 of 3; its mask is empty."
    ]
    again = GroundedSAMMask.execute(images, sam, **base | {"text": "", "boxes": boxes}).result[0]
    assert not again[1].any() and (again != mask).float().mean() < 0.02
    # a box of one's own, or a point, counts for every picture
    mixed = GroundedSAMMask.execute(images, sam, **base | {"boxes": "5 5 30 30"}, grounding_model=Finder()).result[1]
    assert mixed.shape[0] == 7
    with pytest.raises(ValueError, match=r"found no 'cat' in any of the 2 images at threshold 0\.3"):
        GroundedSAMMask.execute(images[[1, 1]], sam, **base, grounding_model=Finder())
    with pytest.raises(ValueError, match=r"boxes: the line '4: 1 2 3 4' is for image 4, but there are 3"):
        GroundedSAMMask.execute(images, sam, **base | {"boxes": "4: 1 2 3 4"}, grounding_model=Finder())
    with pytest.raises(ValueError, match="inside the image"):  # before SAM has looked at the first
        GroundedSAMMask.execute(images, object(), **base | {"text": "", "boxes": "1: 1 2 3 4\n3: 1 2 300 4"})


def test_a_detector_without_a_text_is_not_asked_and_points_do_alone():
    from partedit_oir.core.vision.sam import SamModel

    sam, images = SamModel(small_sam()), torch.rand((2, 48, 72, 3), generator=torch.Generator().manual_seed(1))
    base = {"text": " ", "threshold": 0.3, "max_objects": 2, "boxes": "", "points": "20, 20\n60 40 0"}
    mask, objects, boxes = GroundedSAMMask.execute(images, sam, **base, grounding_model=object()).result
    assert objects.shape == (2, 48, 72) and torch.equal(mask, objects) and boxes == ""
    points, labels = torch.tensor([[20.0, 20.0], [60.0, 40.0]]), torch.tensor([1.0, 0.0])
    assert torch.equal(objects[1], sam.masks(images[1], points=points, labels=labels)[0][0].float())


def test_an_interrupt_ends_it_between_two_pictures():
    import comfy.model_management

    from partedit_oir.core.vision.sam import SamModel
    from partedit_oir.nodes.segment import SAMPointMask

    asked = []

    class Stopped(SamModel):
        def masks(self, *args):
            asked.append("masks")
            comfy.model_management.interrupt_current_processing(True)
            return super().masks(*args)

        def readings(self, *args):
            asked.append("readings")
            comfy.model_management.interrupt_current_processing(True)
            return super().readings(*args)

    sam, images = Stopped(small_sam()), torch.rand(2, 48, 72, 3)
    stop = comfy.model_management.InterruptProcessingException
    with pytest.raises(stop):
        GroundedSAMMask.execute(images, sam, "", 0.3, 1, "5 5 30 30", "")
    with pytest.raises(stop):
        SAMPointMask.execute(images, sam, "20, 20", "largest")
    assert asked == ["masks", "readings"]
