"""Choosing a step by hand in a running ComfyUI: what was made before is not made again."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.host.client import PromptError
from tools.host.graph import set_inputs, to_prompt

WORKFLOW = Path(__file__).resolve().parents[2] / "workflows" / "oir_demo.json"
FEW = {"KSampler": {"steps": 4}, "InvertLatent": {"steps": 6}, "EmptyLatentImage": {"width": 128, "height": 128}}


@pytest.fixture
def graph(object_info):
    """The search of the demo template on a small picture, its outputs shown; and the key of the search's node."""
    prompt = set_inputs(to_prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")), object_info), FEW)
    prompt = {key: node for key, node in prompt.items() if node["class_type"] not in ("OIRReassemble", "SaveImage")}
    for node in prompt.values():
        if node["class_type"] == "SolidMask":
            node["inputs"] |= {"width": min(node["inputs"]["width"], 128), "height": min(node["inputs"]["height"], 128)}
        if node["class_type"] == "MaskComposite":
            node["inputs"] |= {"x": min(node["inputs"]["x"], 64), "y": 0}
    key = next(key for key, node in prompt.items() if node["class_type"] == "InversionStepSearch")
    prompt["chosen"] = {"class_type": "PreviewImage", "inputs": {"images": [key, 4]}}
    prompt["vae"] = {
        "class_type": "VAEDecode",
        "inputs": {"samples": [key, 5], "vae": prompt[key]["inputs"]["vae"]},
    }
    prompt["decoded"] = {"class_type": "PreviewImage", "inputs": {"images": ["vae", 0]}}
    return prompt, key


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)


def rows(outputs, key):
    return int(re.search(r"(\d+) UNet rows", outputs[key]["text"][0]).group(1))


def test_an_override_takes_a_candidate_that_is_there(client, graph):
    prompt, key = graph
    prompt[key]["inputs"] |= {"strategy": "exhaustive", "overrides": ""}
    first = client.run(prompt).outputs
    assert rows(first, key) == 2 * 2 * sum(range(1, 7))
    assert len(first["chosen"]["images"]) == len(first["decoded"]["images"]) == 2
    prompt[key]["inputs"]["overrides"] = "2, 5"
    second = client.run(prompt).outputs
    assert rows(second, key) == 0 and "2 candidates from an earlier search" in second[key]["text"][0]
    pictures, decoded = (
        [pixels(client.view(item)) for item in second[name]["images"]] for name in ("chosen", "decoded")
    )
    # decoded one by one and together, which may round a value otherwise
    assert all(np.abs(one - other).max() <= 1 for one, other in zip(pictures, decoded, strict=True))
    assert np.abs(pictures[0] - pictures[1]).max() > 10
    # another guidance makes other candidates
    prompt[key]["inputs"]["cfg"] = 2.5
    assert rows(client.run(prompt).outputs, key) == 2 * (2 + 5)


def test_candidates_are_shown_when_they_are_kept(client, graph):
    prompt, key = graph
    prompt[key]["inputs"] |= {"strategy": "exhaustive", "stride": 2, "keep_candidates": True}
    prompt["all"] = {"class_type": "PreviewImage", "inputs": {"images": [key, 6]}}
    outputs = client.run(prompt).outputs
    assert len(outputs["all"]["images"]) == 2 * 3
    prompt[key]["inputs"]["keep_candidates"] = False
    with pytest.raises(PromptError, match="turn on keep_candidates"):
        client.run(prompt)
