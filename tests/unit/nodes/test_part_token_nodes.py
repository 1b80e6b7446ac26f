"""TrainPartToken, SavePartToken and LoadPartToken one after the other, and their way of refusing bad input."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tools.bootstrap import load_pack

load_pack()
import folder_paths

from partedit_oir.core.partedit.published import NOT_INSTALLED
from partedit_oir.core.partedit.token_files import load_token
from partedit_oir.core.partedit.tokens import PartToken
from partedit_oir.core.training.augment import augmented_views
from partedit_oir.core.training.inputs import paired, part_names
from partedit_oir.core.training.maps import best_seen
from partedit_oir.nodes.part_token import LoadPartToken, SavePartToken
from partedit_oir.nodes.token_folder import FOLDER
from partedit_oir.nodes.train_part_token import TrainPartToken
from support.trained_tokens import WIDTH, PixelVAE, conditioning, small_model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    made = tmp_path / "models" / FOLDER
    monkeypatch.setitem(folder_paths.folder_names_and_paths, FOLDER, ([str(made)], {".safetensors", ".pt"}))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    folder_paths.filename_list_cache.pop(FOLDER, None)
    yield made
    folder_paths.filename_list_cache.pop(FOLDER, None)


@pytest.fixture(scope="module")
def model():
    return small_model()


def pictures(count=6):
    images, masks = torch.rand(count, 128, 136, 3) * 0.2, torch.zeros(count, 128, 136)
    for index in range(count):
        top, left = 8 * (index + 1), 8 * (2 * index % 9)
        images[index, top : top + 48, left : left + 48] = torch.tensor([1.0, 0.1, 0.9])
        masks[index, top : top + 48, left : left + 48] = 1
    return images, masks


class UnusedVAE:
    def encode(self, images):
        raise AssertionError("pictures were encoded")


def train(model, images, masks, vae=None, **changes):
    values = {"part_names": "square", "steps": 60, "seed": 3, "layers": "decoder", "noise_count": 2} | changes
    with torch.inference_mode():
        return TrainPartToken.execute(model, vae or PixelVAE(), conditioning(), images, masks, **values).result


def test_train_save_and_load(model, folder):
    token, plot, shown, report = train(model, *pictures(), held_out=0.34, padding="zero")
    figures = json.loads(report)
    assert figures["part_iou"]["square"] > 0.4 and len(figures["held_out_pictures"]) == 2
    assert plot.shape == (1, 520, 900, 3) and shown.shape == (2, 128, 136, 3)
    assert plot.min() >= 0 and plot.max() <= 1 and shown.min() >= 0 and shown.max() <= 1
    saved, name = SavePartToken.execute(token, "my square", "number it", "from squares").result
    assert saved is token and name == "my square.safetensors"
    # Beside it, the held-out image on which it finds the part best, as the node shows it.
    with Image.open(folder / "my square.webp") as file:
        picture = torch.from_numpy(np.asarray(file.convert("RGB")).copy()) / 255
    assert picture.shape == (128, 136, 3)
    assert min(float((picture - one).abs().mean()) for one in shown) < 0.04
    assert LoadPartToken.validate_inputs(part_token=name) is True
    loaded = LoadPartToken.execute(name).result[0]
    assert torch.equal(loaded.embedding, token.embedding) and loaded.names == ("square",)
    assert loaded.paddings == ("zero",), "auto reads it as it was trained"
    assert loaded.metadata["note"] == "from squares" and loaded.metadata["pack_version"]
    assert "square 0." in loaded.metadata["iou"]


def test_the_picture_of_a_token_is_of_the_image_where_it_is_best():
    maps, masks = torch.zeros(3, 1, 8, 8), torch.zeros(3, 1, 32, 32)
    masks[..., :16, :16] = 1
    maps[0, 0, 4:, 4:] = maps[1, 0, :4, :4] = maps[2, 0, :6, :6] = 1
    assert best_seen(maps, masks) == 1


def test_saving_never_overwrites_by_itself(folder):
    token = PartToken(torch.zeros(2, 8), (1,), ("a",))
    other = PartToken(torch.ones(2, 8), (1,), ("a",))
    names = [SavePartToken.execute(token, "x.safetensors", "number it").result[1] for _ in range(2)]
    assert names == ["x.safetensors", "x_2.safetensors"]
    SavePartToken.execute(other, "x", "replace it")
    assert load_token(folder / "x.safetensors").embedding.max() == 1
    (folder / "notes.safetensors").write_text("precious")
    with pytest.raises(ValueError, match="is not a part token"):
        SavePartToken.execute(token, "notes", "replace it")
    assert (folder / "notes.safetensors").read_text() == "precious"
    for name in ("../x", "/tmp/x", "a\x00b", ".."):
        with pytest.raises(ValueError, match="file_name"):
            SavePartToken.execute(token, name, "replace it")
    assert sorted(os.listdir(folder)) == ["notes.safetensors", "x.safetensors", "x_2.safetensors"]


def test_the_list_offers_published_tokens_and_says_where_they_are(folder):
    options = LoadPartToken.define_schema().inputs[0].options
    missing = "partimage_human_head.pt" + NOT_INSTALLED
    assert missing in options
    assert "Aleksandar/PartEdit-extra" in LoadPartToken.validate_inputs(part_token=missing)


def test_a_suffix_in_capitals_is_listed_loaded_and_known(folder):
    token = PartToken(torch.arange(8.0).reshape(2, 4), (1,), ("head",))
    name = Path(SavePartToken.execute(token, "mine", "number it").result[1])
    (folder / name).rename(folder / "MINE.SAFETENSORS")
    torch.save(token.embedding, folder / "Other.PT")
    (folder / "NOTES.TXT").write_text("no token")
    folder_paths.filename_list_cache.pop(FOLDER, None)
    listed = LoadPartToken.define_schema().inputs[0].options
    assert {"MINE.SAFETENSORS", "Other.PT"} <= set(listed) and "NOTES.TXT" not in listed
    for file, part in (("MINE.SAFETENSORS", "head"), ("Other.PT", "Other")):
        assert LoadPartToken.validate_inputs(file) is True
        loaded = LoadPartToken.execute(file).result[0]
        assert torch.equal(loaded.embedding, token.embedding) and loaded.names == (part,)


def test_two_parts_and_a_cropped_picture(model, folder):
    images, masks = pictures()
    token, _, _, report = train(
        model, images[:, :, :133], masks[:, :, :133], masks_2=1 - masks[:, :, :133], part_names="square, rest", crops=1
    )
    assert token.names == ("square", "rest") and token.part_rows == (1, 2)
    assert set(json.loads(report)["part_iou"]) == {"square", "rest"}


def test_an_interrupted_run_goes_on(model, folder, monkeypatch):
    import comfy.model_management

    images, masks = pictures()
    whole = train(model, images, masks, steps=450)[0]
    real = comfy.model_management.throw_exception_if_processing_interrupted
    kept = Path(folder_paths.get_output_directory()) / "part_token_training"

    def interrupt():
        if kept.is_dir() and os.listdir(kept):
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(model, images, masks, steps=450, resume_name="my run")
    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", real)
    assert os.listdir(kept) == ["my run.training.safetensors"]
    token, _, _, report = train(model, images, masks, steps=450, resume_name="my run")
    assert json.loads(report)["resumed_from"] == 200
    assert torch.equal(token.embedding, whole.embedding)
    assert os.listdir(kept) == []


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"part_names": "a, b"}, "part_names"),
        ({"part_names": " , "}, "part_names"),
        ({"init_words": "head"}, "clip: not connected, but init_words"),
        ({"masks_2": torch.zeros(2, 128, 136), "part_names": "a, b"}, "masks_2: expected 6"),
        ({"masks_3": torch.zeros(2, 128, 136), "part_names": "a, b"}, "masks_3: expected 6"),
        ({"resume_name": "../x"}, "resume_name"),
        ({"noise_low": 0.5}, "noise_low, noise_high: expected"),
        ({"layers": "output.99"}, "layers: this model has no layer 'output.99'"),
        ({"masks": torch.zeros(6, 128, 136)}, "masks: part 1 is empty"),
        ({"masks": torch.full((6, 128, 136), 255.0)}, "masks: expected values from 0 to 1"),
        ({"images": torch.full((6, 128, 136, 3), float("nan"))}, "images: image 1 of 6 contains NaN"),
    ],
)
def test_bad_input_is_named_before_pictures_are_encoded(model, folder, changes, words):
    images, masks = pictures()
    values = {"images": images, "masks": masks, "vae": UnusedVAE()} | changes
    with pytest.raises(ValueError, match=words):
        train(model, **values)


def test_masks_of_another_size_or_shape():
    images, masks = torch.rand(2, 64, 100, 3), torch.ones(2, 32, 50)
    cropped, resized = paired(images, [masks])
    assert cropped.shape == (2, 64, 96, 3) and resized.shape == (2, 1, 64, 96)
    assert torch.equal(cropped, images[:, :, 2:98])
    with pytest.raises(ValueError, match="another aspect"):
        paired(images, [torch.ones(2, 64, 64)])
    assert part_names("head, left ear", 2) == ("head", "left ear")


def test_views_move_picture_and_mask_together():
    images, masks = pictures(3)
    views, view_masks, sources = augmented_views(images, masks[:, None], True, 2, seed=0)
    assert sources == [0, 1, 2] * 4
    assert torch.equal(views[:3], images) and torch.equal(views[3:6], images.flip(2))
    for image, mask, source in zip(views, view_masks, sources, strict=True):
        inside, outside = mask[0] > 0.99, mask[0] < 0.01
        assert (image[..., 0][inside] > 0.7).all() and (image[..., 0][outside] < 0.35).all(), source
    assert not torch.equal(views[6:9], images)


def test_crops_are_windows_of_any_place_and_size_that_keep_the_parts():
    height, width = 40, 80
    down, right = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    images = torch.stack([down, right, down], dim=-1)[None].repeat(2, 1, 1, 1)
    masks = torch.zeros(2, 1, height, width)
    masks[0, :, 30:, 60:] = 1.0  # a corner, which few windows keep
    masks[1, :, 15:25, 30:50] = 1.0
    views, view_masks, sources = augmented_views(images, masks, False, 40, seed=3)
    assert sources == [0, 1] * 41
    sides, places = [], []
    for view, mask, source in zip(views[2:], view_masks[2:], sources[2:], strict=True):
        tall, wide = float(view[-1, 0, 0] - view[0, 0, 0]), float(view[0, -1, 1] - view[0, 0, 1])
        # Rounding to whole pixels, and the halves of them at the border.
        assert abs(tall - wide) < 0.05 and 0.66 < wide <= 1.0
        assert float(view[..., :2].min()) > -1e-6 and float(view[..., :2].max()) < 1.0
        kept = float(mask.sum()) * wide * tall / float(masks[source].sum())
        assert 0.5 < kept < 1.1
        sides.append(wide)
        places.append((float(view[0, 0, 0]), float(view[0, 0, 1])))
    assert min(sides) < 0.75 and max(sides) > 0.9
    assert min(places)[0] < 0.02 and max(places)[0] > 0.2 and len(set(places)) > 40


def test_every_widget_reaches_the_training(model, folder, monkeypatch):
    from partedit_oir.core.training.inputs import word_rows
    from partedit_oir.core.training.settings import TrainingSettings
    from partedit_oir.nodes import train_part_token as module
    from support.tiny_models import WordClip

    class Called(Exception):
        pass

    def called(*inputs, **options):
        raise Called(inputs, options)

    monkeypatch.setattr(module, "train_part_token", called)
    images, masks = pictures(2)
    names, clip = ("left", "right"), WordClip(WIDTH, 0)
    recipe = {
        "layers": "decoder",
        "noise_low": 0.1,
        "noise_high": 0.4,
        "noise_count": 3,
        "loss": "l2",
        "softmax": "full",
        "learning_rate": 12.0,
        "learning_rate_rule": "embedding",
        "batch_size": 2,
        "held_out": 0.5,
        "patience": 7,
        "recipe": "pack",
        "padding": "background",
    }
    views = {"flip": True, "crops": 2, "resume_name": "mine", "clip": clip, "init_words": "man, robot"}
    known = {entry.id for entry in TrainPartToken.define_schema().inputs if entry.optional}
    assert known == {*recipe, *views, "masks_2", "masks_3", "masks_4"}
    with pytest.raises(Called) as call:
        train(model, images, masks, part_names="left, right", masks_3=masks.flip(2), masks_2=None, **recipe, **views)
    (used, latents, targets, cond, settings), options = call.value.args
    assert used is model and cond[0][1] == conditioning()[0][1]
    init, plain = settings.init, dataclasses.replace(settings, init=None)
    assert plain == TrainingSettings(part_names=names, steps=60, seed=3, **recipe)
    assert torch.equal(init, word_rows(clip, ("man", "robot"))) and not torch.equal(*init)
    # Two images, mirrored, and two crops of each.
    assert options["sources"] == [0, 1] * 4 and len(latents) == len(targets) == 8
    assert torch.equal(targets[:2], torch.stack([masks, masks.flip(2)], dim=1)) and torch.equal(
        targets[2:4], targets[:2].flip(3)
    )
    assert options["state_file"].name == "mine.training.safetensors"
    with pytest.raises(Called) as call:
        train(model, images, masks, flip=False)
    assert call.value.args[1]["sources"] == [0, 1] and call.value.args[1]["state_file"] is None
    assert call.value.args[0][4].init is None
    with pytest.raises(ValueError, match="init_words: 'man, ' gives 1 words for 2 parts"):
        train(model, images, masks, part_names="left, right", masks_2=masks, clip=clip, init_words="man, ")


def test_names_of_parts_and_masks_of_another_size():
    from partedit_oir.core.training.inputs import paired, part_names

    assert part_names(" left ear ,torso,, ", 2) == ("left ear", "torso")
    for text, count, different in (("a", 2, 1), ("a, b, c", 2, 3), ("a, a, b", 2, 2), ("a, a", 2, 1), (" , ", 1, 0)):
        with pytest.raises(ValueError, match=f"^part_names: '{text}' gives {different} different names for {count}"):
            part_names(text, count)
    # 45 x 67 pixels are cut to 40 x 64 at the centre; a mask of three times the size is scaled without losing lines.
    pixels = torch.rand(2, 45, 67, 3)
    fine = torch.zeros(2, 135, 201)
    fine[:, :, 31] = 1.0  # within column 10
    images, masks = paired(pixels, [fine, pixels[..., 0]])
    assert torch.equal(images, pixels[:, 2:42, 1:65]) and torch.equal(masks[:, 1], pixels[:, 2:42, 1:65, 0])
    assert masks.shape == (2, 2, 40, 64) and 0.2 < float(masks[0, 0, 20, 9]) < 0.5
    assert 0.9 < float(masks[0, 0, 20].sum()) * 3 < 1.1
    with pytest.raises(ValueError, match=r"^masks_2: expected 2 masks, one per image, got 1\."):
        paired(pixels, [fine, fine[:1]])


def test_word_rows_are_the_words_own_states():
    from partedit_oir.core.training.inputs import word_rows

    class Clip:
        """Start 1, end 2, padding 2; every letter a token whose state is its number."""

        def tokenize(self, text):
            row = [1, *(ord(letter) for letter in text), 2]
            return {"l": [[(number, 1.0) for number in row + [2] * (8 - len(row))]]}

        def encode_from_tokens_scheduled(self, tokens):
            states = torch.tensor([[float(number)] * 4 for number, _ in tokens["l"][0]])
            return [[states[None], {}]]

    rows = word_rows(Clip(), ["a", "bd"])
    assert rows.shape == (2, 4)
    assert rows[0, 0] == ord("a") and rows[1, 0] == (ord("b") + ord("d")) / 2
