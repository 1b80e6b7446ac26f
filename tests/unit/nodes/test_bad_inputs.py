"""Every input of every node refuses what it cannot work with, by name, before any model runs.

The cases are made from the nodes' own schemas, so a new input is covered when it is added.
"""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.tiny_edits import edit_prompt, token
from support.tiny_models import text_conditioning
from tools.bootstrap import load_pack

load_pack()
import comfy.samplers
from comfy_api.latest import io

from partedit_oir.core.inversion.trajectory import Trajectory
from partedit_oir.nodes import NODE_CLASSES
from partedit_oir.nodes.checks import ABILITIES, OWN_TYPES, check_inputs

NAN = float("nan")
OBJECTS = {"a text": "word", "a number": 7, "a tensor": torch.zeros(1, 3), "a list": [1, 2]}
LATENTS = {
    **OBJECTS,
    "an empty dictionary": {},
    "no samples": {"samples": None},
}
MASKS = {
    "a text": "word",
    "NaN": torch.full((1, 8, 8), NAN),
    "infinite": torch.full((1, 8, 8), math.inf),
    "no pixels": torch.zeros(0, 8, 8),
    "five dimensions": torch.zeros(1, 1, 1, 8, 8),
    "0 to 255": torch.full((1, 8, 8), 255.0),
    "complex": torch.zeros(1, 8, 8, dtype=torch.complex64),
}
IMAGES = {
    "a text": "word",
    "a dictionary": {},
    "NaN": torch.full((1, 8, 8, 3), NAN),
    "no images": torch.zeros(0, 8, 8, 3),
    "two channels": torch.zeros(1, 8, 8, 2),
    "three dimensions": torch.zeros(8, 8, 3),
    "a video": torch.zeros(1, 2, 8, 8, 3),
    "whole numbers": torch.zeros(1, 8, 8, 3, dtype=torch.uint8),
}
CONDITIONINGS = {"a text": "word", "an empty list": [], "numbers": [1, 2], "no options": [[torch.zeros(1, 77, 64)]]}
NUMBERS = {"a text": "7", "a list": [7], "NaN": NAN, "infinite": math.inf, "a switch": True}
BAD = {
    "LATENT": LATENTS,
    "MASK": MASKS,
    "IMAGE": IMAGES,
    "CONDITIONING": CONDITIONINGS,
    "EDITING_PAIR": {"a text": "word", "a number": 7, "texts": ("a", "b")},
    "SIGMAS": {"a text": "word", "one level": torch.ones(1), "NaN": torch.tensor([NAN, 1.0])},
    "INT": {**NUMBERS, "a fraction": 1.5},
    "FLOAT": NUMBERS,
    "STRING": {"a number": 7, "a list": ["word"]},
    "BOOLEAN": {"a text": "yes", "a number": 1},
    "COMBO": {"a number": 7, "a list": ["word"], "none of the list": "word"},
    **dict.fromkeys((*ABILITIES, *OWN_TYPES), OBJECTS),
    # What another node hands over, which cannot do what is asked of it; models of the pack's own have nothing to ask.
    **{kind: {**OBJECTS, "other": object()} for kind, (abilities, _) in ABILITIES.items() if abilities},
}


def cases():
    for node in NODE_CLASSES:
        for entry in node.define_schema().inputs:
            kind = entry.get_io_type()
            for label, value in BAD.get(kind, {}).items():
                yield pytest.param(node, entry.id, value, id=f"{node.__name__}-{entry.id}-{label}")
            for label, bound in (("below", getattr(entry, "min", None)), ("above", getattr(entry, "max", None))):
                if kind in ("INT", "FLOAT") and bound is not None:
                    value = bound + (-1 if label == "below" else 1) * (1 if kind == "INT" else 0.5)
                    if label == "above" and entry.id in inspect.signature(node.validate_inputs).parameters:
                        value = 1e6  # a slider ends before what the node takes
                    yield pytest.param(node, entry.id, value, id=f"{node.__name__}-{entry.id}-{label}")


CASES = list(cases())


def test_there_are_enough_of_them():
    assert len(CASES) >= 200


@pytest.fixture
def nothing_runs(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("sampling started")

    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", refuse)


@pytest.mark.parametrize(("node", "name", "value"), CASES)
def test_a_bad_input_is_named_before_anything_runs(node, name, value, nothing_runs):
    parameters = inspect.signature(node.execute).parameters.values()
    others = {p.name: None for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    with pytest.raises(ValueError) as error:
        node.execute(**{**others, name: value})
    message = str(error.value)
    assert message.startswith(f"{name}: ") and len(message) > len(name) + 15


@pytest.mark.parametrize("node", NODE_CLASSES, ids=lambda node: node.__name__)
def test_what_is_required_and_missing_is_named_with_where_to_get_it(node, nothing_runs):
    needed = [e for e in node.define_schema().inputs if not e.optional and e.get_io_type() in BAD]
    parameters = inspect.signature(node.execute).parameters.values()
    missing = {p.name: None for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    needed = [entry for entry in needed if entry.id in missing]
    if needed:
        with pytest.raises(ValueError, match=rf"^{needed[0].id}: is empty\. .*(Load|Connect)"):
            node.execute(**missing)


@pytest.mark.parametrize("node", NODE_CLASSES, ids=lambda node: node.__name__)
def test_an_input_that_a_node_does_not_have_is_refused(node, nothing_runs):
    """ComfyUI hands on every link of a prompt, also one of another version's input or with a slip in its name."""
    with pytest.raises(ValueError, match=r"^masks_9: .* has no input of this name.* Remove the link"):
        node.execute(masks_9=torch.ones(1, 8, 8))
    if "fingerprint_inputs" in vars(node):  # which ComfyUI asks first, with the same links
        node.fingerprint_inputs(masks_9=None)


def test_what_came_instead_is_said():
    schema = SimpleNamespace(inputs=[io.Model.Input("model"), io.String.Input("text"), io.Vae.Input("vae")])
    for sent, words in (
        ({"model": torch.zeros(1, 3)}, r"model: expected a MODEL, got a tensor of shape \(1, 3\)\. Connect Load"),
        ({"text": [1]}, r"text: expected text, got list\."),
        ({"text": 7}, r"text: expected text, got 7\."),
        ({"vae": SimpleNamespace(score=1)}, r"vae: expected a VAE, got SimpleNamespace\. Connect Load Checkpoint, or"),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            check_inputs(schema, sent)
    check_inputs(schema, {"model": SimpleNamespace(clone=1), "text": "", "vae": SimpleNamespace(decode=1)})


def test_good_values_pass():
    zeros = torch.zeros(1, 4, 8, 8)
    path = Trajectory(zeros[None].repeat(3, 1, 1, 1, 1), torch.tensor([3.0, 2.0, 1.0]), "ddim_next_timestep", zeros)
    schema = SimpleNamespace(
        inputs=[
            io.Latent.Input("latent"),
            io.Mask.Input("mask"),
            io.Conditioning.Input("positive"),
            io.Custom("PART_TOKEN").Input("token"),
            io.Custom("EDIT_PROMPT").Input("prompt"),
            io.Custom("TRAJECTORY").Input("path"),
            io.Int.Input("count", min=1, max=4),
            io.Float.Input("share", min=0.0, max=1.0),
            io.Boolean.Input("on"),
            io.Latent.Input("other", optional=True),
        ]
    )
    values = {
        "latent": {"samples": zeros},
        "mask": torch.ones(8, 8),
        "positive": text_conditioning("a"),
        "token": token(),
        "prompt": edit_prompt(),
        "path": path,
        "count": 4,
        "share": 1,
        "on": False,
        "other": None,
    }
    check_inputs(schema, values)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(value=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())))
def test_a_number_passes_if_and_only_if_it_is_one_in_range(value):
    schema = SimpleNamespace(inputs=[io.Float.Input("omega", min=0.5, max=10.0)])
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0.5 <= value <= 10.0
    if good or value is None:
        check_inputs(schema, {"omega": value} if good else {})
    else:
        with pytest.raises(ValueError, match=r"^omega: "):
            check_inputs(schema, {"omega": value})
