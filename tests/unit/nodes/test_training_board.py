"""Train Part Token while it runs: what a page is sent, and the request that stops it and keeps the best token."""

from __future__ import annotations

import base64
import io
import json

import pytest
import torch
from PIL import Image

from tools.bootstrap import load_pack

load_pack()
import comfy.model_management
import folder_paths

from partedit_oir.nodes import stops, training_board
from partedit_oir.nodes.train_part_token import TrainPartToken
from support.listener import Listener, listening
from support.trained_tokens import PixelVAE, conditioning, small_model

STEPS = 120


@pytest.fixture(scope="module")
def model():
    return small_model()


def pictures(count=6):
    generator = torch.Generator().manual_seed(1)
    images, masks = torch.rand(count, 64, 512, 3, generator=generator) * 0.2, torch.zeros(count, 64, 512)
    for index in range(count):
        left = 64 * index
        images[index, 8:56, left : left + 96] = torch.tensor([1.0, 0.1, 0.9])
        masks[index, 8:56, left : left + 96] = 1
    return images, masks


def train(model, **changes):
    values = {"part_names": "square", "steps": STEPS, "seed": 3, "layers": "decoder", "noise_count": 1, "flip": False}
    images, masks = pictures()
    with torch.inference_mode():
        return TrainPartToken.execute(
            model, PixelVAE(), conditioning(), images, masks, **{**values, "held_out": 0.34, **changes}
        )


class Presser(Listener):
    """A page that asks for the training to stop as soon as it hears of a step."""

    def __init__(self, at):
        super().__init__()
        self.at, self.answers = at, [self.press()]

    def press(self, **changes):
        return stops.answer(json.dumps({"prompt_id": "one", "node": "7", **changes}).encode())

    def send_sync(self, event, data, sid=None):
        super().send_sync(event, data, sid)
        if data["step"] == self.at:
            self.answers += [self.press(node="8"), self.press(prompt_id="two"), self.press()]


@pytest.fixture(scope="module")
def alone(model):
    return train(model)


def test_a_page_is_shown_curves_and_held_out_images(model, alone, monkeypatch, tmp_path):
    monkeypatch.setattr(training_board, "PAUSE", 0.0)
    server = listening(monkeypatch, tmp_path, Listener())
    out = train(model)
    assert torch.equal(out.args[0].embedding, alone.args[0].embedding), "a page changes nothing in the token"
    assert [(event, message["kind"]) for event, message in server.sent] == [("partedit.live", "training")] * STEPS
    messages = [message for _, message in server.sent]
    assert [message["step"] for message in messages] == list(range(1, STEPS + 1))
    assert [message["step"] for message in messages if message["pictures"]] == [50, 100, 120]
    last = messages[-1]
    json.dumps(messages)
    assert (last["node"], last["prompt_id"], last["steps"], last["parts"]) == ("7", "one", STEPS, ["square"])
    assert last["losses"][0][0] == 1 and last["losses"][-1][0] == STEPS and len(last["losses"]) == STEPS
    assert [step for step, _, held in last["evaluations"] if held is not None] == [50, 100, 120]
    shown = [Image.open(io.BytesIO(base64.b64decode(picture))) for picture in last["pictures"]]
    assert [picture.size for picture in shown] == [(256, 32)] * 2  # 64 x 512, shrunk

    (board,) = out.ui["partedit_training"]
    figures = json.loads(out.args[3])
    assert board["losses"] == last["losses"] and board["evaluations"] == last["evaluations"]
    assert (board["step"], board["best"], board["stopped_by"]) == (STEPS, figures["returned_step"], "all steps")
    assert board["part_iou"] == [["square", figures["part_iou"]["square"]]] and board["held_out"]
    assert [Image.open(tmp_path / "partedit" / file["filename"]).size for file in board["pictures"]] == [(512, 64)] * 2
    assert json.loads(out.ui["text"][0]) == figures


def test_without_a_page_nothing_is_kept_and_nothing_sent(alone, model, monkeypatch, tmp_path):
    assert alone.ui["partedit_training"] == [] and alone.ui["text"]
    server = Listener()
    server.client_id = None
    listening(monkeypatch, tmp_path, server)
    train(model, steps=2)
    assert not server.sent and not list(tmp_path.iterdir()) and not stops._running


def test_a_stopped_training_returns_the_best_so_far_and_can_go_on(model, monkeypatch, tmp_path):
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    server = listening(monkeypatch, tmp_path, Presser(at=60))
    out = train(model, resume_name="mine")
    missing = (404, {"error": "this node is not running, or cannot be stopped yet"})
    assert server.answers == [missing, missing, missing, (200, {"stopping": True})]
    figures = json.loads(out.args[3])
    assert figures["stopped_by"] == "hand" and figures["stopped_at"] <= 61
    assert figures["returned_step"] in (50, figures["stopped_at"]) and out.ui["partedit_training"][0]["best"]
    assert server.press() == missing, "it has ended"
    state = tmp_path / "output" / "part_token_training" / "mine.training.safetensors"
    assert state.is_file()
    further = json.loads(train(model, resume_name="mine").args[3])
    assert (further["resumed_from"], further["stopped_at"]) == (figures["stopped_at"], STEPS)
    assert not state.exists()


def test_a_cancelled_training_is_no_longer_there_to_be_stopped(model, monkeypatch, tmp_path):
    class Canceller(Listener):
        def send_sync(self, event, data, sid=None):
            super().send_sync(event, data, sid)
            comfy.model_management.interrupt_current_processing(True)

    listening(monkeypatch, tmp_path, Canceller())
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            train(model)
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert not stops._running


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"null", b"[]", b"7", b'"text"', b"{}", b"[" * 1999, b'{"prompt_id": "one"}']
    + [b'{"prompt_id": 1, "node": "7"}', b'{"prompt_id": "one", "node": ["7"]}', b'{"prompt_id": null, "node": null}'],
)
def test_a_request_that_is_none_is_refused(body):
    event = stops.open_stop("one", "7")
    try:
        status, content = stops.answer(body)
        assert status == 400 and "expected" in content["error"] and not event.is_set()
    finally:
        stops.close_stop("one", "7")
