"""What nodes tell the page that queued them: what is sent, what is kept, and that nothing happens without a page."""

from __future__ import annotations

import importlib
import io
import threading
import types

import numpy as np
import pytest
import torch
from PIL import Image

from support.listener import Listener, listening
from support.stand_ins import FakeVae
from support.tiny_edits import token
from support.tiny_models import WordClip, tiny_sdxl


@pytest.fixture(scope="module")
def model(pack):
    return tiny_sdxl()


@pytest.fixture
def listen(monkeypatch, tmp_path):
    """Starts a server that listens, with a temporary folder of its own."""
    return lambda **options: listening(monkeypatch, tmp_path, Listener(**options))


@pytest.fixture(scope="module")
def sample(model):
    def run(edit="a robot outdoors", images=1, steps=3, **options):
        nodes = importlib.import_module("partedit_oir.nodes")
        clip = WordClip()
        prompt = nodes.PartEditPrompt.execute(clip, "a man outdoors", edit).args[0]
        settings = {
            "seed": 3,
            "steps": steps,
            "cfg": 4.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "edit_steps": 1.0,
            "omega": 1.5,
            "part_token": token(),
            "latent_image": {"samples": torch.zeros(images, 4, 16, 24)},
            **options,
        }
        negative = clip.encode_from_tokens_scheduled(clip.tokenize("ugly"))
        return nodes.FeatureBlendSampler.execute(model, prompt, negative, **settings)

    return run


def picture(tmp_path, file):
    assert file["type"] == "temp" and "/" not in file["filename"]
    return Image.open(tmp_path / file["subfolder"] / file["filename"])


def test_without_a_page_nothing_is_kept_and_nothing_sent(sample, listen, tmp_path):
    server = listen()
    for client, sockets in ((None, {"page": None}), ("page", {})):
        server.client_id, server.sockets = client, sockets
        assert sample().ui is None
    assert not server.sent and not list(tmp_path.iterdir())


def test_a_page_changes_nothing_in_the_results(sample, listen):
    alone = sample(edit="a robot outdoors\na clown outdoors").args
    listen()
    watched = sample(edit="a robot outdoors\na clown outdoors").args
    for one, other in zip(alone[:2], watched[:2]):
        assert torch.equal(one["samples"], other["samples"])
    assert torch.equal(alone[2], watched[2]) and torch.equal(alone[3], watched[3])


def test_each_step_is_sent_with_its_mask_and_its_image(sample, listen):
    server = listen()
    sample(edit="a robot outdoors\na clown outdoors", images=2)
    assert [event for event, _ in server.sent] == ["partedit.live"] * 3
    for number, (_, message) in enumerate(server.sent):
        assert (message["kind"], message["node"], message["step"], message["steps"]) == ("step", "7", number, 3)
        assert message["places"] == [0, 1, 2, 3] and len(message["bands"]) == 4
        assert all(low < level < high for low, level, high in message["bands"])
        mask = decoded(message["mask"])
        assert mask.mode == "L" and mask.size == (4 * 24, 16)
        image = decoded(message["image"])
        assert image.mode == "RGB" and image.size == (4 * 24, 16)


def decoded(text):
    import base64

    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_the_strip_has_the_masks_of_all_steps(sample, listen, tmp_path):
    listen()
    out = sample(edit="a robot outdoors\na clown outdoors", images=2, steps=4, edits_per_pass=1)
    (strip,) = out.ui["partedit_strip"]
    assert strip["steps"] == [0, 1, 2, 3] and strip["size"] == [24, 16] and strip["images"] == 2
    assert [(view["label"], view["image"]) for view in strip["views"]] == [
        ("a robot outdoors", 1),
        ("a robot outdoors", 2),
        ("a clown outdoors", 1),
        ("a clown outdoors", 2),
    ]
    sheet = np.asarray(picture(tmp_path, strip["mask"]))
    assert sheet.shape == (4 * 16, 4 * 24)
    # the mask after each step, as the output has it at image size
    at_image_size = torch.nn.functional.interpolate(out.args[3][None, ..., 0], size=(16, 4 * 24), mode="area")[0]
    assert np.abs(sheet.reshape(4, 16, 4 * 24) / 255 - at_image_size.numpy()).mean() < 0.03
    # without a VAE in preview colours, at the latent's size
    assert {picture(tmp_path, view[kind]).size for view in strip["views"] for kind in ("edit", "source")} == {(24, 16)}
    assert strip["views"][0]["source"] == strip["views"][2]["source"] != strip["views"][1]["source"]


def test_pictures_come_from_the_vae_where_there_is_one(sample, listen, tmp_path):
    listen()
    out = sample(vae=FakeVae())
    (strip,) = out.ui["partedit_strip"]
    (view,) = strip["views"]
    shown = np.asarray(picture(tmp_path, view["edit"]), dtype=np.float32) / 255
    assert np.abs(shown - out.args[4][0].numpy()).mean() < 0.05
    assert picture(tmp_path, view["source"]).size == picture(tmp_path, view["edit"]).size


def test_many_edits_and_many_steps_are_shown_in_part(sample, listen, tmp_path, monkeypatch):
    views = importlib.import_module("partedit_oir.core.partedit.step_views")
    monkeypatch.setattr(views, "KEPT", 2)
    server = listen()
    edits = "\n".join(f"a robot {n} outdoors" for n in range(10))
    (strip,) = sample(edit=edits, steps=5, edits_per_pass=4).ui["partedit_strip"]
    assert len(strip["views"]) == 8 and strip["left_out"] == 2
    assert strip["steps"] == [0, 3, 4]  # every third, and the last
    last = server.sent[-1][1]
    assert last["places"] == [] and last["mask"] is None and last["image"] is None


def test_a_given_mask_is_shown_without_a_band(sample, listen):
    server = listen()
    sample(part_token=None, mask=torch.ones(1, 16, 24))
    assert server.sent[-1][1]["bands"] == [None]


def test_each_candidate_brings_the_whole_search_for_a_page_loaded_meanwhile(pack, listen):
    server = listen()
    board = importlib.import_module("partedit_oir.nodes.search_board")
    run = importlib.import_module("partedit_oir.core.oir.short_runs").Run
    scored = importlib.import_module("partedit_oir.core.oir.memory").Scored
    pairs = [types.SimpleNamespace(label="a cat"), types.SimpleNamespace(label="a dog")]
    search = board.SearchBoard(pairs, 9, 2.0, None)
    note = types.SimpleNamespace(file=search._page.save(b"a picture", "jpg"))
    for pair, one, edit in (
        (0, run(4, 2), 0.1),
        (0, run(5, 5), float("nan")),
        (0, run(4, 4), 0.2),
        (1, run(6, 3), 0.3),
    ):
        search.scored(pair, one, scored(edit, 0.5, note))
    search._page.finish()
    messages = [message for _, message in server.sent]
    assert [message["kind"] for message in messages] == ["search", "candidate", "candidate", "candidate"]
    for message in messages:
        assert (message["pairs"], message["steps"], message["edit_weight"]) == (["a cat", "a dog"], 9, 2.0)
    assert [message["earlier"] for message in messages[1:3]] == [[], []]
    full = {"pair": 0, "n": 4, "edit": 0.2, "keep": 0.5, "file": note.file}
    assert messages[3]["earlier"] == [full]
    assert (messages[3]["n"], messages[3]["length"]) == (6, 3)


def test_a_remembered_picture_that_is_gone_from_the_temporary_folder_is_saved_again(pack, listen, tmp_path):
    listen()
    board = importlib.import_module("partedit_oir.nodes.search_board")
    run = importlib.import_module("partedit_oir.core.oir.short_runs").Run(4, 4)
    scored = importlib.import_module("partedit_oir.core.oir.memory").Scored
    search = board.SearchBoard([types.SimpleNamespace(label="a cat")], 9, 1.0, None)
    kept = search._page.save(b"large", "jpg")
    note = types.SimpleNamespace(file=kept, thumbnail=Image.new("RGB", (8, 6)))
    search.scored(0, run, scored(0.1, 0.5, note))
    assert note.file == kept
    (tmp_path / kept["subfolder"] / kept["filename"]).unlink()
    search.scored(0, run, scored(0.1, 0.5, note))
    search._page.finish()
    assert picture(tmp_path, note.file).size == (8, 6)


def test_a_page_that_goes_and_a_full_disk_stop_nothing(sample, listen, monkeypatch, caplog):
    listen(fails=True)
    live = importlib.import_module("partedit_oir.nodes.live")

    def full(path):
        raise OSError("No space left on device")

    monkeypatch.setattr(live, "whole_file", full)
    assert sample().ui is None
    assert "No space left on device" in caplog.text


def test_a_step_that_comes_too_early_is_left_out(pack, monkeypatch):
    live = importlib.import_module("partedit_oir.nodes.live")
    server, gate = Listener(), threading.Event()
    page = live.Page(server, "page", "7", "one")
    page.send("step", lambda: {"at": gate.wait(10)})
    monkeypatch.setattr(live, "PAUSE", 0.0)
    assert not page.free()  # the first is not out yet
    gate.set()
    page.finish()
    assert page.free()
    monkeypatch.setattr(live, "PAUSE", 60.0)
    assert not page.free()
    assert server.sent == [("partedit.live", {"at": True, "kind": "step", "node": "7", "prompt_id": "one"})]


def test_nodes_that_show_something_show_it_again_after_a_reload(pack):
    nodes = importlib.import_module("partedit_oir.nodes").NODE_CLASSES
    from comfy_api.latest import io as api

    if "has_intermediate_output" not in api.Schema.__dataclass_fields__:
        pytest.skip("this ComfyUI does not show results from its cache")
    showing = {"FeatureBlendSampler", "InversionStepSearch", "PartEditPrompt", "TrainPartToken"}
    assert {node.__name__ for node in nodes if node.GET_SCHEMA().has_intermediate_output} == showing
    import inspect

    for node in nodes:
        if "ui=" in inspect.getsource(node.execute):
            schema = node.GET_SCHEMA()
            assert schema.is_output_node or schema.has_intermediate_output, schema.node_id
