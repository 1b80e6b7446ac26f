"""Descriptions of templates become graphs that turn into the prompt they describe."""

from __future__ import annotations

import pytest

from tools.host.graph import problems, to_prompt
from tools.templates.compose import ComposeError, Node, Note, Workflow, compose

TEMPLATE = {"template": {"input": {"required": {"pair": ["PAIR", {}]}}, "prefix": "pair", "min": 1, "max": 4}}
INFO = {
    "Load": {
        "input": {"required": {"name": [["m1", "m2"], {}]}},
        "output": ["MODEL", "CLIP"],
        "output_name": ["model", "clip"],
    },
    "Sample": {
        "input": {
            "required": {"model": ["MODEL", {}], "seed": ["INT", {"control_after_generate": True, "default": 3}]},
            "optional": {"eta": ["FLOAT", {"default": 0.5}]},
        },
        "output": ["PAIR"],
    },
    "Join": {"input": {"required": {"pairs": ["COMFY_AUTOGROW_V3", TEMPLATE]}}, "output": [], "output_node": True},
}
NODES = (
    Node("load", "Load", 0, {"name": "m2"}),
    Node("a", "Sample", 1, {"seed": 9}, {"model": "load.model"}),
    Node("b", "Sample", 1, {}, {"model": "load"}),
    Node("join", "Join", 2, {}, {"pairs.pair0": "a", "pairs.pair1": "b"}),
)


def test_a_description_becomes_the_prompt_it_describes():
    graph = compose(Workflow("w", (Note("hello", 0),), NODES), INFO)
    prompt = to_prompt(graph, INFO)
    assert {key: node["inputs"] for key, node in prompt.items()} == {
        "1": {"name": "m2"},
        "2": {"model": ["1", 0], "seed": 9, "eta": 0.5},
        "3": {"model": ["1", 0], "seed": 3, "eta": 0.5},
        "4": {"pairs.pair0": ["2", 0], "pairs.pair1": ["3", 0]},
    }
    assert problems(prompt, INFO) == []
    assert graph == compose(Workflow("w", (Note("hello", 0),), NODES), INFO)


def test_nodes_of_a_column_do_not_overlap():
    graph = compose(Workflow("w", (Note("line\n" * 9, 1),), NODES), INFO)
    for one in graph["nodes"]:
        for other in graph["nodes"]:
            if one is other:
                continue
            (x1, y1), (w1, h1), (x2, y2), (w2, h2) = one["pos"], one["size"], other["pos"], other["size"]
            assert x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 <= y2 or y2 + h2 <= y1


@pytest.mark.parametrize(
    "node, message",
    [
        (Node("x", "Nope", 0), "no node 'Nope'"),
        (Node("x", "Load", 0, {"nmae": "m1"}), r"no inputs \['nmae'\]"),
        (Node("x", "Sample", 0, {}, {"model": "load.vae"}), "no output 'vae'"),
        (Node("x", "Sample", 0, {}, {"modell": "load.model"}), "no input 'modell'"),
        (Node("x", "Sample", 0, {}, {"model": "gone"}), "'gone', which does not exist"),
    ],
)
def test_descriptions_that_do_not_fit_the_nodes_are_refused(node, message):
    with pytest.raises(ComposeError, match=message):
        compose(Workflow("w", (), (NODES[0], node)), INFO)
