"""From a saved workflow (the editor's format) to a prompt (what POST /prompt takes), guided by GET /object_info.

Does what the editor does on "Queue": drops notes, follows reroutes, bypassed nodes, primitives and subgraphs, and
assigns each widget value to its input.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

VIRTUAL = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", "COMFY_DYNAMICCOMBO_V3"}
CONTROL_VALUES = {"fixed", "increment", "decrement", "randomize"}
MUTED, BYPASSED = 2, 4
SUBGRAPH_INPUT, SUBGRAPH_OUTPUT = -10, -20


class WorkflowError(ValueError):
    """The workflow cannot be converted to a prompt; the message names the node and the reason."""


@dataclass
class _Link:
    origin: Any
    origin_slot: int
    target: Any
    target_slot: int


class _Scope:
    """The nodes and links of one level: the workflow itself, or one instance of a subgraph."""

    def __init__(self, graph: dict[str, Any], prefix: str = "", parent: _Scope | None = None, instance: Any = None):
        self.graph, self.prefix, self.parent, self.instance = graph, prefix, parent, instance
        self.nodes = {str(node["id"]): node for node in graph.get("nodes", [])}
        self.links: dict[Any, _Link] = {}
        for entry in graph.get("links", []):
            if isinstance(entry, dict):
                link = _Link(entry["origin_id"], entry["origin_slot"], entry["target_id"], entry["target_slot"])
                self.links[entry["id"]] = link
            else:
                self.links[entry[0]] = _Link(*entry[1:5])


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The API-format prompt of a workflow.

    Args:
        workflow: the parsed file, format version 0.4 (links as lists) or 1.0 (links as objects).
        object_info: the answer of GET /object_info from the server that will run it.

    Raises:
        WorkflowError: unknown node, dangling link, or values that do not fit the node's inputs.
    """
    definitions = {entry["id"]: entry for entry in (workflow.get("definitions") or {}).get("subgraphs", [])}
    prompt: dict[str, Any] = {}
    _emit(_Scope(workflow), definitions, object_info, prompt)
    return prompt


def _emit(scope: _Scope, definitions: dict[str, Any], info: dict[str, Any], prompt: dict[str, Any]) -> None:
    for node_id, node in scope.nodes.items():
        kind = node["type"]
        if kind in VIRTUAL or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        if kind in definitions:
            _emit(_Scope(definitions[kind], f"{scope.prefix}{node_id}:", scope, node), definitions, info, prompt)
            continue
        if kind not in info:
            raise WorkflowError(f"node {scope.prefix}{node_id}: this server has no node {kind!r}")
        inputs = _widget_inputs(node, info[kind], f"{scope.prefix}{node_id} ({kind})")
        for entry in node.get("inputs", []):
            if entry.get("link") is None:
                continue
            found = _resolve(scope, entry["link"], definitions)
            if found is not None:
                inputs[entry["name"]] = found
        title = node.get("title") or info[kind].get("display_name") or kind
        prompt[f"{scope.prefix}{node_id}"] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}


def _resolve(scope: _Scope, link_id: Any, definitions: dict[str, Any]) -> Any:
    """[node id, slot], or a plain value from a primitive, or None if nothing is connected."""
    if link_id not in scope.links:
        raise WorkflowError(f"link {link_id} is used by a node but missing from the list of links")
    link = scope.links[link_id]
    if link.origin == SUBGRAPH_INPUT and scope.parent is not None:
        name = scope.graph["inputs"][link.origin_slot]["name"]
        for entry in scope.instance.get("inputs", []):
            if entry["name"] == name and entry.get("link") is not None:
                return _resolve(scope.parent, entry["link"], definitions)
        return None
    origin = scope.nodes.get(str(link.origin))
    if origin is None:
        raise WorkflowError(f"link {link_id} comes from node {link.origin}, which is not in the workflow")
    mode = origin.get("mode", 0)
    if mode == MUTED:
        return None
    if origin["type"] == "PrimitiveNode":
        return (origin.get("widgets_values") or [None])[0]
    if origin["type"] == "Reroute" or mode == BYPASSED:
        passing = _passing_input(origin, link.origin_slot)
        return None if passing is None else _resolve(scope, passing, definitions)
    if origin["type"] in definitions:
        inner = _Scope(definitions[origin["type"]], f"{scope.prefix}{origin['id']}:", scope, origin)
        for inner_id, entry in inner.links.items():
            if entry.target == SUBGRAPH_OUTPUT and entry.target_slot == link.origin_slot:
                return _resolve(inner, inner_id, definitions)
        return None
    return [f"{scope.prefix}{origin['id']}", link.origin_slot]


def _passing_input(node: dict[str, Any], slot: int) -> Any:
    """The link that replaces output ``slot`` of a node that only passes values through."""
    inputs = node.get("inputs", [])
    if node["type"] == "Reroute":
        return inputs[0].get("link") if inputs else None
    kind = node["outputs"][slot]["type"]
    same_place = inputs[slot : slot + 1]
    for entry in [*same_place, *inputs]:
        if entry.get("link") is not None and (entry["type"] == kind or "*" in (entry["type"], kind)):
            return entry["link"]
    return None


def input_specs(node_info: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any], bool]]:
    """(name, type, options, required) of each input of a node, in the editor's order."""
    order = node_info.get("input_order") or {}
    for group in ("required", "optional"):
        specs = (node_info.get("input") or {}).get(group) or {}
        for name in order.get(group, list(specs)):
            spec = specs[name]
            yield name, spec[0], (spec[1] if len(spec) > 1 else {}) or {}, group == "required"


def _is_widget(kind: Any, options: dict[str, Any]) -> bool:
    if options.get("forceInput"):
        return False
    return isinstance(kind, list) or kind in WIDGET_TYPES


def _widget_inputs(node: dict[str, Any], node_info: dict[str, Any], where: str) -> dict[str, Any]:
    return {name: value for name, (_, value) in _placed_widgets(node, node_info, where).items()}


# Where a widget's value is in `widgets_values` (index or key; None: not saved, the default), and the value.
_Placed = tuple[Any, Any]


def _placed_widgets(node: dict[str, Any], node_info: dict[str, Any], where: str) -> dict[str, _Placed]:
    saved = node.get("widgets_values") or []
    declared = {entry["widget"]["name"] for entry in node.get("inputs", []) if entry.get("widget")}
    if isinstance(saved, dict):
        names = {name for name, kind, options, _ in input_specs(node_info) if _is_widget(kind, options)} | declared
        return {name: (name, value) for name, value in saved.items() if name in names}
    values: list[_Placed] = list(enumerate(saved))
    inputs: dict[str, _Placed] = {}
    for name, kind, options, _ in input_specs(node_info):
        if _is_widget(kind, options) or name in declared:
            _take(name, kind, options, values, inputs)
    left = [value for _, value in values if value is not None]
    if left:
        raise WorkflowError(f"node {where}: {len(saved)} widget values, {left!r} left over; inputs: {sorted(inputs)}")
    return inputs


def _take(name: str, kind: Any, options: dict[str, Any], values: list[_Placed], inputs: dict[str, _Placed]) -> None:
    """Assign the next saved value(s) to one widget input, including the inputs a dynamic combo adds."""
    if values:
        inputs[name] = values.pop(0)
    elif "default" in options:
        inputs[name] = (None, options["default"])
    elif kind == "COMFY_DYNAMICCOMBO_V3":
        inputs[name] = (None, options["options"][0]["key"])
    elif isinstance(kind, list) or options.get("options"):
        inputs[name] = (None, (kind if isinstance(kind, list) else options["options"])[0])
    if kind == "COMFY_DYNAMICCOMBO_V3":
        for option in options["options"]:
            if name in inputs and option["key"] == inputs[name][1]:
                for inner, inner_kind, inner_options, _ in input_specs({"input": option["inputs"]}):
                    if _is_widget(inner_kind, inner_options):
                        _take(f"{name}.{inner}", inner_kind, inner_options, values, inputs)
    # The editor adds a second widget after a seed, and a button after an upload.
    has_control = options.get("control_after_generate") or (kind == "INT" and name in ("seed", "noise_seed"))
    if has_control and values and values[0][1] in CONTROL_VALUES:
        values.pop(0)
    if any(options.get(key) for key in ("image_upload", "video_upload", "audio_upload")) and values:
        values.pop(0)


def problems(prompt: dict[str, Any], object_info: dict[str, Any]) -> list[str]:
    """What the server would reject, apart from missing files: missing inputs, dangling or mistyped links."""
    found: list[str] = []
    for node_id, node in prompt.items():
        where = f"node {node_id} ({node['class_type']})"
        info = object_info.get(node["class_type"])
        if info is None:
            found.append(f"{where}: unknown node")
            continue
        kinds: dict[str, Any] = {}
        for name, kind, options, required in input_specs(info):
            kinds[name] = kind
            template = options.get("template") or {}
            dotted = any(key.startswith(f"{name}.") for key in node["inputs"])
            optional = kind == "COMFY_AUTOGROW_V3" and template.get("min", 1) == 0
            if required and not optional and name not in node["inputs"] and not dotted:
                found.append(f"{where}: input {name!r} is missing")
        for name, value in node["inputs"].items():
            if name not in kinds and name.split(".")[0] not in kinds:
                found.append(f"{where}: has no input {name!r}")
            elif (
                isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
            ):
                found.extend(_link_problem(where, name, kinds.get(name), value, prompt, object_info))
    return found


def _link_problem(
    where: str, name: str, kind: Any, link: list[Any], prompt: dict[str, Any], info: dict[str, Any]
) -> list[str]:
    origin = prompt.get(link[0])
    if origin is None:
        return [f"{where}: input {name!r} comes from node {link[0]}, which does not exist"]
    outputs = info.get(origin["class_type"], {}).get("output", [])
    if link[1] >= len(outputs):
        return [f"{where}: input {name!r} takes output {link[1]} of {origin['class_type']}, which has {len(outputs)}"]
    given = outputs[link[1]]
    if isinstance(kind, list) or isinstance(given, list) or kind is None or kind.startswith("COMFY_"):
        return []
    accepted, offered = set(kind.split(",")), set(given.split(","))
    if "*" in accepted or given.startswith("COMFY_") or "*" in offered or accepted & offered:
        return []
    return [f"{where}: input {name!r} takes {kind}, but {origin['class_type']} gives {given}"]


def set_inputs(prompt: dict[str, Any], changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A copy of the prompt with ``changes[class][input]`` set on every node of that class.

    Raises:
        WorkflowError: no node of that class, or it has no such input.
    """
    changed = {key: {**node, "inputs": dict(node["inputs"])} for key, node in prompt.items()}
    for kind, inputs in changes.items():
        nodes = [node for node in changed.values() if node["class_type"] == kind]
        if not nodes:
            raise WorkflowError(f"the workflow has no node {kind!r} to set {sorted(inputs)} on")
        for node in nodes:
            for name, value in inputs.items():
                if name not in node["inputs"]:
                    raise WorkflowError(f"{kind} has no input {name!r}; it has {sorted(node['inputs'])}")
                node["inputs"][name] = value
    return changed


def set_widgets(
    workflow: dict[str, Any], changes: dict[str, dict[str, Any]], object_info: dict[str, Any]
) -> dict[str, Any]:
    """A copy of a saved workflow with the widget ``changes[class][input]`` set on every node of that class.

    What `set_inputs` does to a prompt, done to the file that the editor opens. Nodes inside subgraphs are left alone.

    Raises:
        WorkflowError: no node of that class, or it has no such widget.
    """
    changed = copy.deepcopy(workflow)
    for kind, inputs in changes.items():
        nodes = [node for node in changed["nodes"] if node["type"] == kind]
        if not nodes or kind not in object_info:
            raise WorkflowError(f"the workflow has no node {kind!r} to set {sorted(inputs)} on")
        for node in nodes:
            placed = _placed_widgets(node, object_info[kind], f"{node['id']} ({kind})")
            for name, value in inputs.items():
                if name not in placed:
                    raise WorkflowError(f"{kind} has no widget {name!r}; it has {sorted(placed)}")
                place = placed[name][0]
                if place is None:
                    raise WorkflowError(f"{kind}.{name} is not in the saved workflow, which is of an older version")
                node["widgets_values"][place] = value
    return changed
