"""The pack's blueprints on the real server: listed, up to date, and what is in them really edits a picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tools.host.graph import problems, set_inputs, to_prompt
from tools.templates.blueprint import Blueprint, compose_blueprint
from tools.templates.blueprints import BLUEPRINTS, OBJECTS, PART
from tools.templates.compose import ComposeError, Node
from tools.templates.oir import DEMO_SEARCH
from tools.templates.partedit import DEMO_PROMPT, DEMO_SAMPLING

FOLDER = Path(__file__).resolve().parents[2] / "subgraphs"


def test_the_server_lists_them(client):
    listed = {one["name"] for one in client.get_json("/global_subgraphs").values() if one["source"] == "custom_node"}
    assert listed >= {one.name for one in BLUEPRINTS} == {path.stem for path in FOLDER.glob("*.json")}


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda one: one.name)
def test_the_file_is_what_its_description_says(blueprint, object_info):
    if "SAM3_Detect" not in object_info:
        pytest.skip("the files are written with a newer ComfyUI, whose nodes have other widgets")
    kept = json.loads((FOLDER / f"{blueprint.name}.json").read_text(encoding="utf-8"))
    assert kept == compose_blueprint(blueprint, object_info), "write it again: python3 run.py templates"
    prompt = to_prompt(kept, object_info)
    assert {one.split("'")[1] for one in problems(prompt, object_info)} == {"image"}, "all but the image is inside"


def test_what_is_shown_has_to_exist_and_to_be_free(object_info):
    shown = PART.inputs[0]
    for target, message in (("prompt.nothing", "has no input 'nothing'"), ("prompt.clip", "linked inside already")):
        with pytest.raises(ComposeError, match=message):
            compose_blueprint(replace(PART, inputs=(replace(shown, target=target),)), object_info)


def on_demo(blueprint: Blueprint, changed: dict[str, Node], gone: tuple[str, ...] = ()) -> Blueprint:
    """The blueprint with the demo model and others' nodes in the places of downloads."""
    nodes = tuple(changed.get(node.key, node) for node in blueprint.nodes if node.key not in gone)
    keys = {node.key: node for node in nodes}
    inputs = tuple(
        one
        for one in blueprint.inputs
        if one.target.split(".")[0] in keys and one.name not in ("ckpt_name", "part_token")
    )
    return replace(blueprint, nodes=nodes, inputs=inputs)


def run(client, object_info, blueprint: Blueprint, **changes):
    prompt = set_inputs(to_prompt(compose_blueprint(blueprint, object_info), object_info), changes)
    (scale,) = [key for key, node in prompt.items() if node["class_type"] == "ImageScaleToTotalPixels"]
    prompt["image"] = {"class_type": "LoadImage", "inputs": {"image": "robot_pictures.webp"}}
    prompt["first"] = {"class_type": "ImageFromBatch", "inputs": {"image": ["image", 0], "batch_index": 0, "length": 1}}
    prompt[scale]["inputs"] |= {"image": ["first", 0], "megapixels": 0.0625}
    final, slot = {PART.name: ("VAEDecode", 0), OBJECTS.name: ("OIRReassemble", 1)}[blueprint.name]
    assert object_info[final]["output"][slot] == "IMAGE"
    (key,) = [key for key, node in prompt.items() if node["class_type"] == final]
    prompt["show"] = {"class_type": "PreviewImage", "inputs": {"images": [key, slot]}}
    return client.run(prompt)


DEMO = Node("checkpoint", "LoadDemoModel", 0)


@pytest.mark.slow
def test_the_part_edit_runs(client, object_info):
    sampling = {**DEMO_SAMPLING, "paste_back": "latent"}
    prompt = {"source": "a red robot in the snow", "edit": "red -> blue", **DEMO_PROMPT}
    by_key = {node.key: node for node in PART.nodes}
    changed = {
        "checkpoint": DEMO,
        "token": Node("token", "LoadPartToken", 0, {"part_token": "demo_robot_head.safetensors"}),
        "prompt": replace(by_key["prompt"], values=prompt),
        "edit": replace(by_key["edit"], values=sampling),
    }
    result = run(client, object_info, on_demo(PART, changed), InvertLatent={"steps": 4})
    assert client.view(result.outputs["show"]["images"][0])[:4] == b"\x89PNG"


@pytest.mark.slow
def test_the_edit_of_objects_runs(client, object_info):
    by_key = {node.key: node for node in OBJECTS.nodes}
    changed = {
        "checkpoint": DEMO,
        "source": replace(by_key["source"], values={"value": "a red robot and a blue cat in the snow"}),
        "search": replace(
            by_key["search"],
            values=dict(DEMO_SEARCH),
            links={**by_key["search"].links, "clip_scorer": "checkpoint.CLIP_SCORER"},
        ),
    }
    for number, (name, target) in enumerate((("a red robot", "a blue robot"), ("a blue cat", "a red cat")), 1):
        changed[f"name{number}"] = replace(by_key[f"name{number}"], values={"value": name})
        box = {"value": 1.0, "width": 256, "height": 256}
        changed[f"mask{number}"] = Node(f"mask{number}", "SolidMask", 2, box)
        made = by_key[f"pair{number}"]
        links = {**made.links, "mask": f"mask{number}"}
        changed[made.key] = replace(made, values={"target_phrase": target}, links=links)
    gone = ("sam3", "vision", "scorer", "text1", "text2")
    changes = {"InvertLatent": {"steps": 4}}
    result = run(client, object_info, on_demo(OBJECTS, changed, gone), **changes)
    assert client.view(result.outputs["show"]["images"][0])[:4] == b"\x89PNG"
