"""The demo's pictures and page, without a server."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tools.demo_edits.make import keep, words
from tools.demo_edits.page import page
from tools.demo_edits.pictures import Shown, measure, previews, role

INFO = {"FeatureBlendSampler": {"output_name": ["edited", "source", "mask"]}}
PROMPT = {
    "1": {"class_type": "FeatureBlendSampler", "inputs": {}},
    "2": {"class_type": "VAEDecode", "inputs": {"samples": ["1", 1], "vae": ["9", 0]}},
    "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    "4": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 2]}},
    "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}},
    "6": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "7": {"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}},
}


def test_an_output_node_is_named_after_the_samplers_output_that_it_shows():
    assert [role(PROMPT, INFO, key) for key in ("3", "5", "7")] == ["source", "mask", ""]


def test_nothing_is_saved_in_the_servers_output_folder():
    changed = previews(PROMPT)
    assert changed["5"] == {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
    assert PROMPT["5"]["class_type"] == "SaveImage"


def test_words_are_one_line_per_edit():
    prompt = {
        "1": {"class_type": "PartEditPrompt", "inputs": {"source": "a cat", "edit": "a dog\n\na fox\n"}},
        "2": {"class_type": "EditingPair", "inputs": {"source_phrase": "a", "target_phrase": "b"}},
    }
    assert words(prompt) == ["a cat → a dog", "a cat → a fox", "a → b"]


def test_a_change_inside_the_mask_is_not_counted_as_background():
    mask = np.zeros((8, 8), np.float32)
    mask[:, :4] = 1
    source = Image.new("RGB", (8, 8), (0, 0, 0))
    edit = Image.fromarray((mask[..., None].repeat(3, -1) * 255).astype(np.uint8))
    assert measure(source, mask, edit) == {"mask_share": 0.5, "psnr_outside_db": None, "change_inside": 1.0}


@pytest.fixture
def kept(tmp_path):
    grey, white = Image.new("RGB", (16, 16), (90, 90, 90)), Image.new("RGB", (16, 16), (255, 255, 255))
    shown = [Shown("Source", "source", grey), Shown("Mask", "mask", white), Shown("Edit", "edited", white)]
    entry = {"name": "one", "title": "One", "inputs": {}, "seconds": 1.0}
    keep(shown, entry, tmp_path, {"nodes": [1]}, {"1": {}})
    return entry, tmp_path


def test_each_picture_carries_its_workflow(kept):
    entry, folder = kept
    assert len(entry["pictures"]) == 3
    for picture in entry["pictures"]:
        assert json.loads(Image.open(folder / picture["file"]).text["workflow"]) == {"nodes": [1]}
    assert json.loads((folder / entry["workflow"]).read_text()) == {"nodes": [1]}


def test_the_page_shows_every_picture_and_failure_as_text(kept):
    entry, folder = kept
    failed = {"name": "bad", "title": "<b>", "words": ["a → <img onerror=x>"], "error": "no & <i>"}
    made = page([{"title": "T", "text": "t", "entries": [entry, failed]}], "about")
    for picture in entry["pictures"]:
        assert f'src="{picture["file"]}"' in made and (folder / picture["file"]).is_file()
    assert "&lt;img onerror=x&gt;" in made and "no &amp; &lt;i&gt;" in made
    assert "<img onerror" not in made and "<b>" not in made
