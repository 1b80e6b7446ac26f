"""Jobs on a real server: what runs again after a change, and two people at once."""

from __future__ import annotations

import threading

import pytest

from bench.load import edit_job
from tools.host.client import Client
from tools.host.graph import set_inputs

pytestmark = pytest.mark.slow


def classes(prompt, result):
    return {prompt[node]["class_type"] for node in result.executed if node in prompt}


def test_only_what_depends_on_a_change_runs_again(client, object_info):
    prompt = edit_job(object_info, 71)
    client.run(prompt)
    assert not classes(prompt, client.run(prompt))
    seed = set_inputs(prompt, {"FeatureBlendSampler": {"seed": 72}})
    ran = classes(seed, client.run(seed))
    assert "FeatureBlendSampler" in ran and "SaveImage" in ran
    assert not ran & {"LoadDemoModel", "LoadPartToken", "PartEditPrompt", "CLIPTextEncode", "EmptyLatentImage"}
    token = set_inputs(seed, {"LoadPartToken": {"part_token": "demo_robot_torso.safetensors"}})
    ran = classes(token, client.run(token))
    assert {"LoadPartToken", "FeatureBlendSampler"} <= ran and not ran & {"LoadDemoModel", "PartEditPrompt"}


def test_a_changed_mask_runs_the_edit_again_and_nothing_before_it(client, object_info):
    prompt = edit_job(object_info, 75)
    sampler = next(key for key, node in prompt.items() if node["class_type"] == "FeatureBlendSampler")
    prompt["mask"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 128, "height": 128}}
    prompt[sampler]["inputs"]["mask"] = ["mask", 0]
    first = client.run(prompt)
    half = set_inputs(prompt, {"SolidMask": {"value": 0.5}})
    again = client.run(half)
    ran = classes(half, again)
    assert {"SolidMask", "FeatureBlendSampler", "SaveImage"} <= ran
    assert not ran & {"LoadDemoModel", "LoadPartToken", "PartEditPrompt", "CLIPTextEncode", "EmptyLatentImage"}
    saved = next(key for key, node in prompt.items() if node["class_type"] == "SaveImage")
    before, after = (client.view(one.outputs[saved]["images"][0]) for one in (first, again))
    assert before != after


def test_a_token_file_that_was_exchanged_is_read_again(server, client, object_info, repository):
    target = server.part_tokens / "exchanged.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    prompt = set_inputs(edit_job(object_info, 73), {"LoadPartToken": {"part_token": target.name}})
    for name, again in (("demo_robot_head", True), ("demo_robot_torso", True)):
        target.write_bytes((repository / "tokens" / f"{name}.safetensors").read_bytes())
        assert ("LoadPartToken" in classes(prompt, client.run(prompt))) is again
    assert not classes(prompt, client.run(prompt))


def test_two_clients_at_once_get_their_own_pictures(server, object_info):
    made: dict[int, bytes] = {}
    errors: list[Exception] = []

    def work(seed):
        own = Client(server.base_url, alive=server.alive)
        prompt = edit_job(object_info, seed)
        saved = next(node for node, entry in prompt.items() if entry["class_type"] == "SaveImage")
        try:
            made[seed] = own.view(own.run(prompt).outputs[saved]["images"][0])
        except Exception as error:
            errors.append(error)

    for seeds in ((81, 82), (83, 84)):
        threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors and len(made) == 4 and len(set(made.values())) == 4
