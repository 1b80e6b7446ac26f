"""The template "Token from a word" as a whole, with the demo in place of a checkpoint and of a segmenter."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tools.host.graph import set_inputs, to_prompt

NAME = "word_token_test"


def on_the_demo(prompt: dict[str, Any]) -> dict[str, Any]:
    """The template's graph with the demo model, and its pictures and exact masks where pictures are made and segmented.

    Everything from TrainPartToken on stays as the template has it.
    """
    (checkpoint,) = named(prompt, "CheckpointLoaderSimple")
    (segmenter,) = named(prompt, "GroundedSAMMask")
    pictures = prompt[segmenter]["inputs"]["image"][0]
    prompt[checkpoint] = {"class_type": "LoadDemoModel", "inputs": {}}  # MODEL, CLIP, VAE: the same order
    prompt[pictures] = load_image("robot_pictures.webp")
    prompt["mask_pictures"] = load_image("robot_head_masks.webp")
    prompt[segmenter] = {"class_type": "ImageToMask", "inputs": {"image": ["mask_pictures", 0], "channel": "red"}}
    for kind in ("LoadSAMModel", "LoadGroundingModel", "KSampler"):
        for key in named(prompt, kind):
            del prompt[key]
    changes = {
        "TrainPartToken": {"steps": 60, "flip": False, "noise_count": 1},
        "SavePartToken": {"file_name": NAME},
        "LoadPartToken": {"part_token": f"{NAME}.safetensors"} if not linked(prompt, "LoadPartToken") else {},
        "PartEditPrompt": {"source": "a red robot", "edit": "a blue robot"},
        "FeatureBlendSampler": {"steps": 3},
    }
    changed = set_inputs(prompt, changes)
    for key in named(changed, "EmptyLatentImage"):
        changed[key]["inputs"].update(width=256, height=256, batch_size=1)
    return changed


def named(prompt: dict[str, Any], kind: str) -> list[str]:
    return [key for key, node in prompt.items() if node["class_type"] == kind]


def linked(prompt: dict[str, Any], kind: str) -> bool:
    return any(isinstance(prompt[key]["inputs"]["part_token"], list) for key in named(prompt, kind))


def load_image(name: str) -> dict[str, Any]:
    return {"class_type": "LoadImage", "inputs": {"image": name}}


@pytest.mark.slow
def test_a_token_from_a_word(client, server, object_info, repository):
    workflow = json.loads((repository / "workflows" / "train_token_from_word.json").read_text(encoding="utf-8"))
    prompt = on_the_demo(to_prompt(workflow, object_info))
    result = client.run(prompt)
    assert (server.part_tokens / f"{NAME}.safetensors").is_file()
    (saved,) = named(prompt, "SaveImage")
    assert result.outputs[saved]["images"]
    # masks, plot and held-out overlays are shown
    assert len([key for key in named(prompt, "PreviewImage") if result.outputs[key]["images"]]) >= 3
