"""Readers of part data sets, on small files in their real formats."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tools.bootstrap import load_pack

load_pack()
from tools.train_tokens.coco_masks import decode_segmentation, unpack_counts
from tools.train_tokens.datasets import (
    list_pairs,
    load_pairs,
    read_part_imagenet,
    read_pascal_part,
    square_around,
    write_pairs,
)

HEIGHT, WIDTH = 20, 30


def pack_counts(counts):
    """COCO's packing, written out independently of the reader."""
    text = ""
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            group, value = value & 31, value >> 5
            last = value == (-1 if group & 16 else 0)
            text += chr(48 + (group if last else group | 32))
            if last:
                break
    return text


def runs(mask):
    flat, counts, value = mask.T.ravel(), [], False
    position = 0
    while position < flat.size:
        length = 0
        while position < flat.size and bool(flat[position]) == value:
            length, position = length + 1, position + 1
        counts.append(length)
        value = not value
    return counts


def box(top, left, bottom, right):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def picture(path, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)


@pytest.fixture
def part_imagenet(tmp_path):
    """PartImageNet's layout: train.json, and pictures in folders by class."""
    images = tmp_path / "images"
    for number in range(3):
        picture(images / "n01440764" / f"n01440764_{number}.JPEG")
    head, body, tail = box(2, 3, 9, 12), box(5, 12, 15, 25), box(0, 0, 4, 4)
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 5, "segmentation": [[3, 2, 11, 2, 11, 8, 3, 8]]},
        {"id": 2, "image_id": 7, "category_id": 6, "segmentation": {"size": [HEIGHT, WIDTH], "counts": runs(body)}},
        {
            "id": 3,
            "image_id": 8,
            "category_id": 5,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": pack_counts(runs(head))},
        },
        {
            "id": 4,
            "image_id": 8,
            "category_id": 5,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": pack_counts(runs(tail))},
        },
        {"id": 5, "image_id": 9, "category_id": 6, "segmentation": [[0, 0, 5, 0, 5, 5], [10, 10, 20, 10, 20, 15]]},
    ]
    content = {
        "images": [
            {"id": 7 + n, "file_name": f"n01440764/n01440764_{n}.JPEG", "height": HEIGHT, "width": WIDTH}
            for n in range(3)
        ],
        "categories": [
            {"id": 5, "name": "Quadruped Head", "supercategory": "Quadruped"},
            {"id": 6, "name": "Quadruped Body", "supercategory": "Quadruped"},
        ],
        "annotations": annotations,
    }
    file = tmp_path / "train.json"
    file.write_text(json.dumps(content))
    return file, images, content


def test_part_imagenet(part_imagenet):
    file, images, _ = part_imagenet
    found = list(read_part_imagenet(file, images, ["quadruped head"]))
    assert [example.image.name for example in found] == ["n01440764_0.JPEG", "n01440764_1.JPEG"]
    assert np.array_equal(found[0].mask, box(2, 3, 9, 12))
    assert np.array_equal(found[1].mask, box(2, 3, 9, 12) | box(0, 0, 4, 4))
    both = list(read_part_imagenet(file, images, ["Quadruped Head", "Quadruped Body"], limit=1))
    assert len(both) == 1 and np.array_equal(both[0].mask, box(2, 3, 9, 12) | box(5, 12, 15, 25))
    assert len(list(read_part_imagenet(file, images, ["Quadruped Head"], min_share=0.12))) == 1


def test_part_imagenet_says_what_is_wrong(part_imagenet, tmp_path):
    file, images, content = part_imagenet
    with pytest.raises(ValueError, match="Quadruped Body, Quadruped Head"):
        list(read_part_imagenet(file, images, ["Bird Head"]))
    content["images"][0]["file_name"] = "../../secret.png"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="leaves the folder"):
        list(read_part_imagenet(file, images, ["Quadruped Head"]))
    file.write_text(json.dumps({**content, "images": content["images"][1:]}))
    with pytest.raises(ValueError, match="its images lack 7"):
        list(read_part_imagenet(file, images, ["Quadruped Head"]))
    nameless = [{"id": 1, "image_id": 7, "category_id": 5}]
    for broken in ({}, {**content, "annotations": nameless}, {**content, "images": [3]}):
        file.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match="is not a COCO file"):
            list(read_part_imagenet(file, images, ["Quadruped Head"]))
    file.write_text("[" * 100000)
    with pytest.raises(ValueError, match="is not valid JSON"):
        list(read_part_imagenet(file, images, ["Quadruped Head"]))


def test_packed_counts_against_a_known_code():
    assert unpack_counts(pack_counts([6, 1, 40, 4, 5, 4, 5, 4, 21])) == [6, 1, 40, 4, 5, 4, 5, 4, 21]
    # From the format's own documentation in cocoapi: these run lengths are packed like this.
    assert pack_counts([6, 1, 40, 4, 5, 4, 5, 4, 21]) == "61X13mN000`0"
    for seed in range(20):
        mask = np.random.default_rng(seed).random((HEIGHT, WIDTH)) > 0.5
        code = {"size": [HEIGHT, WIDTH], "counts": pack_counts(runs(mask))}
        assert np.array_equal(decode_segmentation(code, HEIGHT, WIDTH), mask)


@pytest.mark.parametrize(
    "segmentation, words",
    [
        ({"size": [1, 1], "counts": [1]}, "size"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, 5]}, "cover 10 of 600"),
        ({"size": [HEIGHT, WIDTH], "counts": [-5, 605]}, "whole numbers"),
        ({"size": [HEIGHT, WIDTH], "counts": "~~~"}, "is not a character"),
        ({"size": [HEIGHT, WIDTH], "counts": "o"}, "middle of a number"),
        ([[1, 2, 3, 4]], "three points"),
        ([["a"] * 6], "could not convert"),
        ("text", "neither"),
    ],
)
def test_damaged_codes_are_refused(segmentation, words):
    with pytest.raises(ValueError, match=words):
        decode_segmentation(segmentation, HEIGHT, WIDTH)


@pytest.fixture
def pascal_part(tmp_path):
    """Pascal-Part's layout: Annotations_Part/NAME.mat with anno.objects(i).parts(j).mask, and JPEGImages."""
    from scipy.io import savemat

    folder, images = tmp_path / "Annotations_Part", tmp_path / "JPEGImages"
    folder.mkdir()

    def struct(entries):
        kinds = [(key, object) for key in entries[0]]
        array = np.empty((1, len(entries)), dtype=kinds)
        for index, entry in enumerate(entries):
            for key, value in entry.items():
                array[key][0, index] = value
        return array

    def part(name, mask):
        return {"part_name": name, "mask": mask.astype(np.uint8)}

    person = {
        "class": "person",
        "class_ind": 15.0,
        "mask": box(0, 0, 18, 14).astype(np.uint8),
        "parts": struct([part("head", box(0, 2, 6, 9)), part("torso", box(6, 0, 18, 14))]),
    }
    second = person | {"parts": struct([part("head", box(1, 20, 5, 26))])}
    bare = {"class": "person", "class_ind": 15.0, "mask": box(0, 0, 2, 2).astype(np.uint8), "parts": np.empty((0, 0))}
    chair = {
        "class": "chair",
        "class_ind": 9.0,
        "mask": box(0, 0, 5, 5).astype(np.uint8),
        "parts": struct([part("head", box(10, 10, 12, 12))]),
    }
    for name, objects in (("2008_000001", [person, second, chair]), ("2008_000002", [bare]), ("2008_000003", [second])):
        savemat(folder / f"{name}.mat", {"anno": struct([{"imname": name, "objects": struct(objects)}])})
        picture(images / f"{name}.jpg")
    return folder, images


def test_pascal_part(pascal_part):
    folder, images = pascal_part
    found = list(read_pascal_part(folder, images, "person", ["head"]))
    assert [example.image.name for example in found] == ["2008_000001.jpg", "2008_000003.jpg"]
    assert np.array_equal(found[0].mask, box(0, 2, 6, 9) | box(1, 20, 5, 26))
    assert np.array_equal(found[1].mask, box(1, 20, 5, 26))
    joined = next(read_pascal_part(folder, images, "Person", ["HEAD", "torso"]))
    assert np.array_equal(joined.mask, box(0, 2, 6, 9) | box(1, 20, 5, 26) | box(6, 0, 18, 14))


def test_pascal_part_says_what_is_wrong(pascal_part, tmp_path):
    folder, images = pascal_part
    with pytest.raises(ValueError, match="It has: head, torso"):
        list(read_pascal_part(folder, images, "person", ["hair"]))
    with pytest.raises(ValueError, match=r"no \.mat file in"):
        list(read_pascal_part(tmp_path, images, "person", ["head"]))
    (folder / "2008_000001.mat").write_bytes(b"no matlab")
    with pytest.raises(ValueError, match="is not a Pascal-Part annotation"):
        list(read_pascal_part(folder, images, "person", ["head"]))


def test_written_pairs_are_read_back(pascal_part, tmp_path):
    folder, images = pascal_part
    examples = list(read_pascal_part(folder, images, "person", ["head"]))
    assert write_pairs(examples, tmp_path / "pairs") == 2
    pairs = list_pairs(tmp_path / "pairs")
    assert [mask.name for _, mask in pairs] == ["00001_2008_000001_mask.png", "00002_2008_000003_mask.png"]
    pictures, masks = load_pairs(tmp_path / "pairs", 20)
    assert pictures.shape == (2, 20, 20, 3) and masks.shape == (2, 1, 20, 20)
    # The square moves to the mask, which lies in columns 20 to 26 of 30.
    assert np.array_equal(masks[1, 0].numpy() > 0.5, box(1, 20, 5, 26)[:, 10:])


def test_folders_of_images_and_masks(tmp_path):
    picture(tmp_path / "images" / "a.png")
    Image.fromarray(box(2, 3, 9, 12).astype(np.uint8) * 255).resize((WIDTH * 2, HEIGHT * 2)).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="no mask for"):
        list_pairs(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    (tmp_path / "mask.png").rename(tmp_path / "masks" / "a.png")
    assert [file.name for file in list_pairs(tmp_path)[0]] == ["a.png", "a.png"]
    _, masks = load_pairs(tmp_path, HEIGHT)
    assert np.array_equal(masks[0, 0].numpy() > 0.5, box(2, 3, 9, 12)[:, :HEIGHT])
    with pytest.raises(ValueError, match="no images in"):
        list_pairs(_empty(tmp_path))


def _empty(folder):
    made = folder / "empty"
    made.mkdir()
    return made


def test_the_square_holds_the_mask():
    assert square_around(box(0, 22, 5, 30)) == (10, 0, 30, 20)
    assert square_around(np.zeros((HEIGHT, WIDTH), dtype=bool)) == (5, 0, 25, 20)
