"""From the editor's workflow to a prompt, on small graphs; the browser tests compare with the editor itself."""

from __future__ import annotations

import pytest

from tools.host.graph import WorkflowError, problems, set_inputs, set_widgets, to_prompt

OPTIONS = {
    "options": [{"key": "a", "inputs": {"required": {"n": ["INT", {"default": 3}]}}}, {"key": "b", "inputs": {}}]
}
TEMPLATE = {"template": {"input": {"required": {"pair": ["PAIR", {}]}}, "prefix": "pair", "min": 1, "max": 4}}
INFO = {
    "Load": {"input": {"required": {"name": [["m1", "m2"], {}]}}, "output": ["MODEL"], "output_node": False},
    "Text": {"input": {"required": {"text": ["STRING", {"multiline": True}]}}, "output": ["COND"]},
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {"control_after_generate": True}],
                "steps": ["INT", {}],
            },
            "optional": {"cond": ["COND", {}], "eta": ["FLOAT", {"default": 0.5}]},
        },
        "input_order": {"required": ["model", "seed", "steps"], "optional": ["cond", "eta"]},
        "output": ["LATENT"],
        "display_name": "Sampler",
    },
    "Dynamic": {"input": {"required": {"mode": ["COMFY_DYNAMICCOMBO_V3", OPTIONS]}}, "output": ["MODEL"]},
    "Join": {"input": {"required": {"pairs": ["COMFY_AUTOGROW_V3", TEMPLATE]}}, "output": ["LATENT"]},
    "Save": {"input": {"required": {"latent": ["LATENT", {}], "any": ["*", {}]}}, "output": [], "output_node": True},
}


def node(identity, kind, inputs=(), outputs=(), values=None, mode=0, **more):
    slots = [{"name": name, "type": typ, "link": link} for name, typ, link in inputs]
    outs = [{"name": typ, "type": typ, "links": []} for typ in outputs]
    return {
        "id": identity,
        "type": kind,
        "inputs": slots,
        "outputs": outs,
        "widgets_values": values,
        "mode": mode,
        **more,
    }


def base(middle=(), link_to_sampler=1, links=()):
    nodes = [
        node(1, "Load", outputs=["MODEL"], values=["m2"]),
        node(2, "Sample", [("model", "MODEL", link_to_sampler)], ["LATENT"], [7, "randomize", 20, 0.25]),
        node(3, "Note", values=["hello"]),
        *middle,
    ]
    return {"nodes": nodes, "links": [[1, 1, 0, 2, 0, "MODEL"], *links]}


def test_values_get_their_names_and_the_seed_s_second_widget_is_dropped():
    prompt = to_prompt(base(), INFO)
    assert set(prompt) == {"1", "2"}
    assert prompt["1"]["inputs"] == {"name": "m2"}
    assert prompt["2"]["inputs"] == {"model": ["1", 0], "seed": 7, "steps": 20, "eta": 0.25}
    assert prompt["2"]["_meta"]["title"] == "Sampler"


def test_missing_values_take_the_default_and_superfluous_ones_are_an_error():
    graph = base()
    graph["nodes"][1]["widgets_values"] = [7, "fixed", 20]
    assert to_prompt(graph, INFO)["2"]["inputs"]["eta"] == 0.5
    graph["nodes"][1]["widgets_values"] = [7, "fixed", 20, 0.1, "what"]
    with pytest.raises(WorkflowError, match=r"2 .Sample.*left over"):
        to_prompt(graph, INFO)


def test_a_widget_that_is_linked_takes_the_link():
    graph = base([node(4, "PrimitiveNode", outputs=["INT"], values=[99, "fixed"])], links=[[5, 4, 0, 2, 1, "INT"]])
    graph["nodes"][1]["inputs"].append({"name": "steps", "type": "INT", "link": 5, "widget": {"name": "steps"}})
    assert to_prompt(graph, INFO)["2"]["inputs"]["steps"] == 99


@pytest.mark.parametrize("mode, expected", [(4, ["1", 0]), (2, None)])
def test_bypassed_nodes_pass_on_and_muted_ones_do_not(mode, expected):
    middle = node(4, "Dynamic", [("model", "MODEL", 6)], ["MODEL"], ["b"], mode=mode)
    graph = base([middle], 7, [[6, 1, 0, 4, 0, "MODEL"], [7, 4, 0, 2, 0, "MODEL"]])
    prompt = to_prompt(graph, INFO)
    assert "4" not in prompt and prompt["2"]["inputs"].get("model") == expected


def test_reroutes_are_followed():
    graph = base([node(4, "Reroute", [("", "*", 6)], ["MODEL"])], 7, [[6, 1, 0, 4, 0, "*"], [7, 4, 0, 2, 0, "MODEL"]])
    assert to_prompt(graph, INFO)["2"]["inputs"]["model"] == ["1", 0]


def test_a_dynamic_combo_unfolds():
    graph = {"nodes": [node(1, "Dynamic", values=["a", 8]), node(2, "Dynamic", values=["b"])], "links": []}
    prompt = to_prompt(graph, INFO)
    assert prompt["1"]["inputs"] == {"mode": "a", "mode.n": 8} and prompt["2"]["inputs"] == {"mode": "b"}


def test_subgraphs_are_unfolded_inwards_and_outwards():
    inner = {
        "id": "sub",
        "inputs": [{"name": "model"}],
        "outputs": [{"name": "LATENT"}],
        "nodes": [node(5, "Sample", [("model", "MODEL", 1)], ["LATENT"], [1, "fixed", 2, 0.0])],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 5, "target_slot": 0, "type": "MODEL"},
            {"id": 2, "origin_id": 5, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "LATENT"},
        ],
    }
    graph = {
        "nodes": [
            node(1, "Load", outputs=["MODEL"], values=["m1"]),
            node(8, "sub", [("model", "MODEL", 1)], ["LATENT"]),
            node(9, "Save", [("latent", "LATENT", 2), ("any", "*", 3)]),
        ],
        "links": [[1, 1, 0, 8, 0, "MODEL"], [2, 8, 0, 9, 0, "LATENT"], [3, 1, 0, 9, 1, "MODEL"]],
        "definitions": {"subgraphs": [inner]},
    }
    prompt = to_prompt(graph, INFO)
    assert set(prompt) == {"1", "8:5", "9"}
    assert prompt["8:5"]["inputs"]["model"] == ["1", 0] and prompt["9"]["inputs"]["latent"] == ["8:5", 0]
    assert problems(prompt, INFO) == []


def test_unknown_nodes_and_dangling_links_are_named():
    with pytest.raises(WorkflowError, match="no node 'Nope'"):
        to_prompt({"nodes": [node(1, "Nope")], "links": []}, INFO)
    with pytest.raises(WorkflowError, match="link 44"):
        to_prompt(base(link_to_sampler=44), INFO)


def test_problems_are_found():
    prompt = {
        "1": {"class_type": "Text", "inputs": {"text": "x"}},
        "2": {"class_type": "Sample", "inputs": {"model": ["1", 0], "seed": 1, "wrong": 2}},
        "3": {"class_type": "Save", "inputs": {"latent": ["2", 1], "any": ["7", 0]}},
        "4": {"class_type": "Join", "inputs": {}},
        "5": {"class_type": "Gone", "inputs": {}},
    }
    found = "\n".join(problems(prompt, INFO))
    for part in ("takes MODEL, but Text gives COND", "'steps' is missing", "no input 'wrong'", "which has 1"):
        assert part in found
    for part in ("comes from node 7", "node 4 (Join): input 'pairs' is missing", "unknown node"):
        assert part in found
    prompt["4"]["inputs"] = {"pairs.pair0": ["1", 0]}
    assert "node 4" not in "\n".join(problems(prompt, INFO))


def test_inputs_are_set_on_a_copy_and_unknown_ones_refused():
    prompt = to_prompt(base(), INFO)
    changed = set_inputs(prompt, {"Sample": {"steps": 5}})
    assert changed["2"]["inputs"]["steps"] == 5 and prompt["2"]["inputs"]["steps"] == 20
    with pytest.raises(WorkflowError, match="no node 'Save'"):
        set_inputs(prompt, {"Save": {"x": 1}})
    with pytest.raises(WorkflowError, match="no input 'stepz'"):
        set_inputs(prompt, {"Sample": {"stepz": 5}})


@pytest.mark.parametrize("saved", [[7, "randomize", 20, 0.25], {"seed": 7, "steps": 20, "eta": 0.25}])
def test_widgets_of_the_saved_file_are_set_by_name(saved):
    workflow = {"nodes": [node(1, "Sample", [("model", "MODEL", None)], ["LATENT"], saved)], "links": []}
    changed = set_widgets(workflow, {"Sample": {"steps": 4, "eta": 0.75}}, INFO)
    assert to_prompt(changed, INFO)["1"]["inputs"] == {"seed": 7, "steps": 4, "eta": 0.75}
    assert workflow["nodes"][0]["widgets_values"] == saved
    with pytest.raises(WorkflowError, match="no widget 'stepz'"):
        set_widgets(workflow, {"Sample": {"stepz": 4}}, INFO)
    with pytest.raises(WorkflowError, match="no node 'Load'"):
        set_widgets(workflow, {"Load": {"name": "m1"}}, INFO)


def test_a_widget_that_the_file_does_not_hold_is_not_set_in_silence():
    workflow = {"nodes": [node(1, "Sample", [], ["LATENT"], [7, "fixed", 20])], "links": []}
    with pytest.raises(WorkflowError, match="older version"):
        set_widgets(workflow, {"Sample": {"eta": 0.75}}, INFO)
