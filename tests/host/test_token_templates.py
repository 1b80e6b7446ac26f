"""The templates that train a token on a real checkpoint as a whole, with the demo in place of checkpoint and SAM 3."""

from __future__ import annotations

import json
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageSequence

from tools.host.graph import BYPASSED, set_inputs, to_prompt

NAME = "word_token_test"
INPUT = Path(__file__).resolve().parents[2] / "workflows" / "input"


def on_the_demo(prompt: dict[str, Any]) -> dict[str, Any]:
    """The template's graph with the demo model, and its pictures and exact masks where pictures are made and segmented.

    Everything from TrainPartToken on stays as the template has it.
    """
    (segmenter,) = named(prompt, "SAM3_Detect")
    pictures = prompt[segmenter]["inputs"]["image"][0]
    text, loader = (prompt[segmenter]["inputs"][name][0] for name in ("conditioning", "model"))
    del prompt[text], prompt[loader]
    prompt[pictures] = load_image("robot_pictures.webp")
    prompt["mask_pictures"] = load_image("robot_head_masks.webp")
    prompt[segmenter] = {"class_type": "ImageToMask", "inputs": {"image": ["mask_pictures", 0], "channel": "red"}}
    for key in named(prompt, "KSampler"):
        del prompt[key]
    return shortened(prompt)


def shortened(prompt: dict[str, Any]) -> dict[str, Any]:
    """With the demo's checkpoint and few steps."""
    (checkpoint,) = named(prompt, "CheckpointLoaderSimple")
    prompt[checkpoint] = {"class_type": "LoadDemoModel", "inputs": {}}  # MODEL, CLIP, VAE: the same order
    changes = {
        "TrainPartToken": {"steps": 60, "flip": False, "noise_count": 1},
        "SavePartToken": {"file_name": NAME},
        "LoadPartToken": {"part_token": f"{NAME}.safetensors"} if not linked(prompt, "LoadPartToken") else {},
        "PartEditPrompt": {"source": "a red robot", "edit": "a blue robot"},
        "FeatureBlendSampler": {"steps": 3},
    }
    if not named(prompt, "TrainPartToken"):  # bypassed
        del changes["TrainPartToken"]
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


def template(repository: Path, name: str) -> dict[str, Any]:
    return json.loads((repository / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def check(result: Any, prompt: dict[str, Any], client: Any, server: Any, shown: int) -> None:
    assert (server.part_tokens / f"{NAME}.safetensors").is_file()
    # Its picture is what the editor gets from ComfyUI for the picker.
    known = client.object_info()["LoadPartToken"]["input"]["required"]["part_token"][1]["partedit_tokens"]
    folder = known[f"{NAME}.safetensors"]["preview"]
    picture = client.request(f"/experiment/models/preview/part_tokens/{folder}/{NAME}.safetensors")
    assert max(Image.open(BytesIO(picture)).size) == 192
    (saved,) = named(prompt, "SaveImage")
    assert result.outputs[saved]["images"]
    assert len([key for key in named(prompt, "PreviewImage") if result.outputs[key]["images"]]) >= shown


@pytest.mark.slow
def test_a_token_from_a_word(client, server, object_info, repository):
    if "SAM3_Detect" not in object_info:
        pytest.skip("this ComfyUI has no SAM 3")
    prompt = on_the_demo(to_prompt(template(repository, "train_token_from_word"), object_info))
    check(client.run(prompt), prompt, client, server, 4)  # masks, plot, held-out overlays, source


@pytest.mark.slow
def test_a_token_from_painted_masks(client, server, object_info, repository, tmp_path):
    """As the mask editor saves an image: what is painted is transparent."""
    if "BatchMasksNode" not in object_info:
        pytest.skip("this ComfyUI cannot batch masks")
    prompt = to_prompt(template(repository, "train_token_from_painted_masks"), object_info)
    pictures = [Image.open(INPUT / name) for name in ("robot_pictures.webp", "robot_head_masks.webp")]
    frames = zip(*(ImageSequence.Iterator(picture) for picture in pictures))
    for number, (key, (picture, mask)) in enumerate(zip(named(prompt, "LoadImage"), frames)):
        painted = picture.convert("RGB")
        painted.putalpha(mask.convert("L").point(lambda value: 255 - value))
        painted.save(tmp_path / f"painted_{number}.png")
        prompt[key]["inputs"]["image"] = client.upload_image(tmp_path / f"painted_{number}.png")
    (scale,) = named(prompt, "ImageScale")
    prompt[scale]["inputs"]["width"] = 256
    prompt = shortened(prompt)
    check(client.run(prompt), prompt, client, server, 3)


def test_masks_are_seen_before_anything_is_trained(client, object_info, repository):
    """As the note says, by running the selected *Masks: check them*. With the training bypassed, the masks are made as
    well, but the editor shows an error.

    The editor sends the selected node as the only target.
    """
    if "SAM3_Detect" not in object_info:
        pytest.skip("this ComfyUI has no SAM 3")
    graph = template(repository, "train_token_from_word")
    # A seed of its own: what another test trained would be shown again from the cache.
    prompt = set_inputs(on_the_demo(to_prompt(graph, object_info)), {"TrainPartToken": {"seed": 4321}})
    (shown,) = (key for key in named(prompt, "PreviewImage") if prompt[key]["_meta"]["title"] == "Masks: check them")
    body = {"prompt": prompt, "client_id": client.client_id, "partial_execution_targets": [shown]}
    number = client.post_json("/prompt", body)["prompt_id"]
    entry = finished(client, number)
    assert entry["status"]["status_str"] == "success" and shown in entry["outputs"]
    # The prompt's alignment may be among them, from the cache.
    assert {prompt[key]["class_type"] for key in entry["outputs"]} <= {"PreviewImage", "PartEditPrompt"}
    assert len([key for key in named(prompt, "PreviewImage") if key in entry["outputs"]]) == 1

    next(node for node in graph["nodes"] if node["type"] == "TrainPartToken")["mode"] = BYPASSED
    bypassed = on_the_demo(to_prompt(graph, object_info))
    answer = client.post_json("/prompt", {"prompt": bypassed, "client_id": client.client_id})
    (error,) = answer["node_errors"].values()
    assert error["class_type"] == "SavePartToken" and error["errors"][0]["details"] == "part_token"
    assert shown in finished(client, answer["prompt_id"])["outputs"]


def finished(client: Any, number: str) -> dict[str, Any]:
    for _ in range(600):
        entry = client.get_json(f"/history/{number}").get(number)
        if entry is not None and entry["status"]["completed"]:
            return entry
        time.sleep(0.1)
    raise AssertionError("the run did not end")
