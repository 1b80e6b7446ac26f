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
from tools.train_tokens.task import read_pictures

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


def pair(folder, name, image, mask):
    folder.mkdir(exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(folder / f"{name}.png")
    Image.fromarray(mask).save(folder / f"{name}_mask.png")


def test_masks_are_read_in_every_depth(tmp_path):
    """Label masks of 0 and 1 were once empty, and 16 bits were cut off at 255."""
    grey, mask = np.full((HEIGHT, WIDTH), 100, dtype=np.uint8), box(2, 3, 9, 12).astype(np.uint8)
    pair(tmp_path / "plain", "a", grey, mask * 255)
    pair(tmp_path / "labels", "a", grey.astype(np.uint16) * 257, mask)
    pair(tmp_path / "deep", "a", grey.astype(np.uint16) * 257, mask.astype(np.uint16) * 65535)
    images, masks = load_pairs(tmp_path / "plain", HEIGHT)
    for name in ("labels", "deep"):
        other, found = load_pairs(tmp_path / name, HEIGHT)
        assert (other == images).all() and (found == masks).all(), name


def test_a_picture_that_its_exif_entry_turns_is_learned_upright(tmp_path):
    """A mask painted over what a viewer shows was once squeezed into the picture as it is stored."""
    turned, mask = Image.Exif(), box(2, 3, 9, 12)
    turned[0x0112] = 6
    (tmp_path / "a").mkdir()
    Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB").save(tmp_path / "a" / "x.jpg", exif=turned, quality=100)
    shown = np.rot90(mask, -1)
    Image.fromarray(shown.astype(np.uint8) * 255).save(tmp_path / "a" / "x_mask.png")
    images, masks = load_pairs(tmp_path / "a", HEIGHT)
    assert ((images.mean(-1) > 0.5) == (masks[:, 0] > 0.5)).float().mean() > 0.97
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "a" / "x_mask.png")
    with pytest.raises(ValueError, match=r"x_mask\.png: the mask is 30 × 20 pixels, its picture 20 × 30"):
        load_pairs(tmp_path / "a", HEIGHT)


def test_files_that_would_be_left_out_silently_are_named(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "a_mask.png")
    (tmp_path / "._a.png").write_bytes(b"what macOS leaves behind")
    assert len(list_pairs(tmp_path)) == 1
    picture(tmp_path / "b_mask.png")
    (tmp_path / "b.heic").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no image for the mask of b \(it may be png, jpg,"):
        list_pairs(tmp_path)
    picture(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg' and 'a\.png' have the same name"):
        list_pairs(tmp_path)
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b_mask.png").unlink()
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"a\.png is not a picture that can be read"):
        load_pairs(tmp_path, HEIGHT)


def test_other_parts_of_a_data_set_are_other_pictures(part_imagenet, tmp_path):
    """The pictures of an earlier run were once taken, whatever the file said since."""
    file, images, _ = part_imagenet
    source = {"annotations": str(file), "images": str(images), "parts": ["Quadruped Head"]}
    task = {"name": "t", "output": str(tmp_path / "out"), "size": HEIGHT, "data": {"part_imagenet": source}}
    (tmp_path / "out" / "t.pictures.partial").mkdir(parents=True)  # of a run that was stopped
    count = len(read_pictures(task)[0])
    stamp = tmp_path / "out" / "t.pictures" / "from.json"
    before = stamp.stat().st_mtime_ns
    assert count == len(read_pictures(task)[0]) == 2 and stamp.stat().st_mtime_ns == before, "read once"
    assert len(read_pictures({**task, "data": {"part_imagenet": {**source, "limit": 1}}})[0]) == 1
    source["parts"] = ["Quadruped Body"]
    body = read_pictures({**task, "data": {"part_imagenet": source}})[1]
    assert len(body) == 2 and body[0].mean() > 0.3


def test_two_categories_of_one_name_are_both_taken(part_imagenet):
    file, images, content = part_imagenet
    content["categories"][1]["name"] = "quadruped head"
    file.write_text(json.dumps(content))
    assert len(list(read_part_imagenet(file, images, ["Quadruped Head"]))) == 3
