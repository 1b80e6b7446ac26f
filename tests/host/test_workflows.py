"""Every workflow that ships, through the real server: those on the demo checkpoint run, the others are checked."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch

from tools.demo_edits.make import EDITS
from tools.host.client import PromptError
from tools.host.graph import problems, set_inputs, set_widgets, to_prompt
from tools.templates.compose import compose
from tools.templates.write import ALL

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def uses_demo_model(path: Path) -> bool:
    return '"LoadDemoModel"' in path.read_text(encoding="utf-8")


def test_there_are_workflows_for_the_demo_model_and_for_real_checkpoints():
    assert any(uses_demo_model(path) for path in WORKFLOWS)
    assert any(not uses_demo_model(path) for path in WORKFLOWS)


# Nodes of ComfyUI that templates use and that its oldest supported version does not have yet.
NEWER = {"SAM3_Detect", "BatchImagesNode", "BatchMasksNode"}


def skip_without_newer_nodes(path: Path, object_info: dict) -> None:
    missing = sorted({node["type"] for node in load(path)["nodes"]} & NEWER - set(object_info))
    if missing:
        pytest.skip(f"this ComfyUI has no {', '.join(missing)}")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_converts_without_problems(path, object_info):
    skip_without_newer_nodes(path, object_info)
    prompt = to_prompt(load(path), object_info)
    assert problems(prompt, object_info) == []


SECTIONS = json.loads(EDITS.read_text(encoding="utf-8"))["sections"]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section["template"])
def test_the_demo_sets_what_its_templates_have(section, object_info):
    for edit in section["edits"]:
        workflow = set_widgets(load(named(section["template"])), edit["inputs"], object_info)
        assert problems(to_prompt(workflow, object_info), object_info) == []


def notes(workflow: dict) -> list[str]:
    kinds = ("Note", "MarkdownNote")
    return ["".join(map(str, n.get("widgets_values") or [])) for n in workflow["nodes"] if n["type"] in kinds]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_has_notes_in_the_graph(path):
    assert notes(load(path)) and all(note.strip() for note in notes(load(path)))


@pytest.mark.parametrize("described", ALL, ids=lambda one: one.name)
def test_the_file_is_what_its_description_says(described, object_info):
    skip_without_newer_nodes(named(described.name), object_info)
    made, kept = compose(described, object_info), load(named(described.name))
    again = "write it again: python3 run.py templates"
    assert to_prompt(kept, object_info) == to_prompt(made, object_info), again
    assert notes(kept) == notes(made), again
    for one, other in zip(kept["nodes"], made["nodes"], strict=True):
        assert all(one[name] == other[name] for name in ("pos", "size", "properties")), again


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in WORKFLOWS if uses_demo_model(p)], ids=lambda path: path.stem)
def test_runs_on_the_demo_checkpoint(path, client, object_info):
    prompt = to_prompt(load(path), object_info)
    if path.stem in ("oir_part_token", "oir_single_object_demo"):
        prompt = set_inputs(prompt, {"InvertLatent": {"steps": 8}})  # oir_demo's search runs whole
    result = client.run(prompt)
    made = [item for output in result.outputs.values() for item in output.get("images", [])]
    assert made, f"{path.stem} gave no picture"
    for item in made:
        assert client.view(item)[:8] == b"\x89PNG\r\n\x1a\n"
    if path.stem == "partedit_several_edits":
        check_every_line_gave_a_picture(prompt, result.outputs, client)


def check_every_line_gave_a_picture(prompt, outputs, client):
    lines = next(node["inputs"]["edit"] for node in prompt.values() if node["class_type"] == "PartEditPrompt")
    saved = next(key for key, node in prompt.items() if node["class_type"] == "SaveImage")
    files = [client.view(item) for item in outputs[saved]["images"]]
    assert len(files) == len(lines.splitlines()) == len(set(files))


def named(name: str) -> Path:
    return next(path for path in WORKFLOWS if path.stem == name)


@pytest.mark.slow
def test_a_token_is_trained_saved_and_used_by_its_name(client, server, object_info):
    training = to_prompt(load(named("train_token")), object_info)
    client.run(training)
    file = next(node["inputs"]["file_name"] for node in training.values() if node["class_type"] == "SavePartToken")
    assert (server.part_tokens / f"{file}.safetensors").is_file()
    changes = {"LoadPartToken": {"part_token": f"{file}.safetensors"}, "FeatureBlendSampler": {"steps": 4}}
    result = client.run(set_inputs(to_prompt(load(named("partedit_demo")), object_info), changes))
    assert any(output.get("images") for output in result.outputs.values())


@pytest.mark.slow
def test_a_second_pair_in_the_growing_socket_is_searched_and_edited(client, object_info):
    search_inputs = object_info["InversionStepSearch"]["input"]
    if "more_pairs" not in {**search_inputs["required"], **search_inputs.get("optional", {})}:
        pytest.skip("this ComfyUI has no growing sockets")
    few = {"KSampler": {"steps": 4}, "InvertLatent": {"steps": 5}, "InversionStepSearch": {"stride": 2}}
    prompt = set_inputs(to_prompt(load(named("oir_demo")), object_info), few)
    search = next(key for key, node in prompt.items() if node["class_type"] == "InversionStepSearch")
    last = prompt[search]["inputs"]["pairs"][0]
    first = prompt[last]["inputs"].pop("previous_pairs")
    prompt[search]["inputs"] |= {"pairs": first, "more_pairs.pairs_0": [last, 0]}
    outputs = client.run(prompt).outputs
    lines = outputs[search]["text"][0].splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == [
        f"'{prompt[key]['inputs']['source_phrase']}' → '{prompt[key]['inputs']['target_phrase']}'"
        for key in (first[0], last)
    ]
    assert any(output.get("images") for output in outputs.values())


def test_a_refused_prompt_names_node_input_and_reason(client, object_info):
    prompt = copy.deepcopy(to_prompt(load(named("partedit_demo")), object_info))
    broken = next(key for key, node in prompt.items() if node["class_type"] == "LoadPartToken")
    name, value = next(iter(prompt[broken]["inputs"].items()))
    prompt[broken]["inputs"][name] = "no such token"
    with pytest.raises(PromptError) as error:
        client.run(prompt)
    assert "LoadPartToken" in str(error.value) and name in str(error.value), value


def test_a_published_token_is_found_by_the_same_prompt_once_it_is_saved_as_told(client, server):
    entry = "carhood_custom.pt (published, not installed)"
    prompt = {
        "1": {"class_type": "LoadPartToken", "inputs": {"part_token": entry}},
        "2": {
            "class_type": "SavePartToken",
            "inputs": {"part_token": ["1", 0], "file_name": "kept", "if_it_exists": "replace it"},
        },
    }
    with pytest.raises(PromptError) as error:
        client.run(prompt)
    told = re.search(r"Download (\S+/carhood_custom\.pt) and save it as (\S+) in ([^;(]+)", str(error.value))
    assert told and "cc-by-nc-sa-4.0" in str(error.value)
    place = Path(told[3].strip())
    place.mkdir(exist_ok=True)
    assert told[1].startswith("https://huggingface.co/") and place.samefile(server.part_tokens)
    file = server.part_tokens / told[2]
    try:
        torch.save(torch.full((2, 2048), 0.5), file)
        client.run(prompt)
        assert (server.part_tokens / "kept.safetensors").is_file()
    finally:
        for made in (file, server.part_tokens / "kept.safetensors"):
            made.unlink(missing_ok=True)


def test_a_prompt_that_is_refused_in_part_is_no_success(client, object_info):
    """The host would run the sound outputs and say nothing of the others."""
    prompt = {
        "1": {"class_type": "LoadDemoModel", "inputs": {}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "3": {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0], "vae": ["1", 2]}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    with pytest.raises(PromptError, match=r"node 5 \(PreviewImage\): Return type mismatch"):
        client.run(prompt)
    del prompt["5"]
    assert client.run(prompt).outputs["4"]["images"]
