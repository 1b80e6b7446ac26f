"""From a short description of a graph to the editor's workflow format, with positions, sockets and widget values."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from ..host.graph import WIDGET_TYPES, input_specs
from .layout import PICTURES, WIDTH, own_height, place
from .models import linked


@dataclass(frozen=True)
class Node:
    """One node of a description.

    Attributes:
        key: name within the description.
        kind: node id.
        column: position from left to right; nodes of a column are stacked in the given order.
        values: widget values by input name; missing ones use the node's default.
        links: input name → "key" or "key.output name" of another node.
        title: shown instead of the node's display name.
        width: of the node; a picture grows with it.
    """

    key: str
    kind: str
    column: int
    values: dict[str, Any] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    title: str = ""
    width: int = WIDTH


@dataclass(frozen=True)
class Note:
    """A Markdown note at the top of a column."""

    text: str
    column: int
    width: int = WIDTH


@dataclass(frozen=True)
class Workflow:
    """A template: file name without suffix, its notes and nodes, and the node whose image is its thumbnail."""

    name: str
    notes: tuple[Note, ...]
    nodes: tuple[Node, ...]
    thumbnail: str = ""


class ComposeError(ValueError):
    """A description does not match the node schemas; names the workflow, node and input."""


def compose(workflow: Workflow, info: dict[str, Any]) -> dict[str, Any]:
    """The workflow in the editor's format (0.4).

    Raises:
        ComposeError: unknown node, input or output.
    """
    numbers = {node.key: index for index, node in enumerate(workflow.nodes, 1)}
    kinds = {node.key: node.kind for node in workflow.nodes}
    built: dict[str, dict[str, Any]] = {}
    for order, node in enumerate(workflow.nodes):
        if node.kind not in info:
            raise ComposeError(f"{workflow.name}: there is no node {node.kind!r}")
        built[node.key] = _node(workflow.name, node, numbers[node.key], order, info[node.kind])
    links: list[list[Any]] = []
    for node in workflow.nodes:
        for name, origin in node.links.items():
            key, _, output = origin.partition(".")
            if key not in built:
                raise ComposeError(f"{workflow.name}: {node.key}.{name} comes from {key!r}, which does not exist")
            slot = output_slot(workflow.name, key, output, info[kinds[key]])
            target = _input_slot(workflow.name, node, name, built[node.key])
            source = built[key]["outputs"][slot]
            number = len(links) + 1
            links.append([number, numbers[key], slot, numbers[node.key], target, source["type"]])
            source["links"].append(number)
            built[node.key]["inputs"][target]["link"] = number
    notes = [_note(note, len(numbers) + index, len(numbers) + index) for index, note in enumerate(workflow.notes, 1)]
    nodes = [*notes, *built.values()]
    place(nodes, [*(note.column for note in workflow.notes), *(node.column for node in workflow.nodes)])
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"partedit-oir/{workflow.name}")),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {"ds": {"scale": 0.8, "offset": [0, 0]}},
        "version": 0.4,
    }


def _is_widget(kind: Any, options: dict[str, Any]) -> bool:
    return (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput")


def _node(where: str, node: Node, number: int, order: int, info: dict[str, Any]) -> dict[str, Any]:
    inputs: list[dict[str, Any]] = []
    values: list[Any] = []
    lines = 0
    unknown = set(node.values)
    for name, kind, options, required in input_specs(info):
        shown = "COMBO" if isinstance(kind, list) else kind
        entry: dict[str, Any] = {"name": name, "type": shown, "link": None}
        if not required:
            entry["shape"] = 7
        unknown.discard(name)
        if kind == "COMFY_AUTOGROW_V3":
            inputs += _grown(name, options, node)
            continue
        if _is_widget(kind, options):
            entry["widget"] = {"name": name}
            values.append(node.values.get(name, _default(kind, options)))
            lines += 4 if options.get("multiline") else 1
            if options.get("control_after_generate") or (kind == "INT" and name in ("seed", "noise_seed")):
                values.append("fixed")
                lines += 1
            if options.get("image_upload"):
                values.append("image")
                lines += 12
        inputs.append(entry)
    if unknown:
        raise ComposeError(f"{where}: {node.kind} has no inputs {sorted(unknown)}")
    outputs = [
        {"name": name, "type": "COMBO" if isinstance(kind, list) else kind, "links": [], "slot_index": slot}
        for slot, (name, kind) in enumerate(zip(info.get("output_name") or info["output"], info["output"]))
    ]
    sockets = max(sum(1 for entry in inputs if "widget" not in entry), len(outputs))
    properties: dict[str, Any] = {"Node name for S&R": node.kind}
    if files := linked(values):
        properties["models"] = files
    # A wider node shows a larger picture.
    height = own_height(node.kind, sockets, lines) + (node.width - WIDTH if node.kind in PICTURES else 0)
    result: dict[str, Any] = {
        "id": number,
        "type": node.kind,
        "pos": [0, 0],
        "size": [node.width, height],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        "properties": properties,
        "widgets_values": values,
    }
    if node.title:
        result["title"] = node.title
    return result


def _grown(name: str, options: dict[str, Any], node: Node) -> list[dict[str, Any]]:
    """The linked slots of an autogrow input, and the empty one after them."""
    template = options["template"]
    kind = next(iter(next(iter(template["input"].values())).values()))[0]
    used = [link for link in node.links if link.startswith(f"{name}.")]
    free = f"{name}.{template.get('prefix', '')}{len(used)}"
    return [{"name": slot, "type": kind, "link": None, "shape": 7} for slot in [*used, free]]


def _default(kind: Any, options: dict[str, Any]) -> Any:
    if "default" in options:
        return options["default"]
    choices = kind if isinstance(kind, list) else options.get("options") or []
    if choices:
        return choices[0]
    if isinstance(kind, list):
        return ""
    return {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(kind, "")


def output_slot(where: str, key: str, output: str, info: dict[str, Any]) -> int:
    names = info.get("output_name") or info["output"]
    if not output:
        return 0
    for slot, (name, kind) in enumerate(zip(names, info["output"])):
        if output in (name, kind):
            return slot
    raise ComposeError(f"{where}: {key} has no output {output!r}; it has {names}")


def _input_slot(where: str, node: Node, name: str, built: dict[str, Any]) -> int:
    for slot, entry in enumerate(built["inputs"]):
        if entry["name"] == name:
            return slot
    raise ComposeError(f"{where}: {node.kind} has no input {name!r}")


def _note(note: Note, number: int, order: int) -> dict[str, Any]:
    letters = max(20, note.width // 8)
    lines = sum(1 + len(line) // letters for line in note.text.splitlines())
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": [0, 0],
        "size": [note.width, 50 + 22 * lines],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [note.text],
        "color": "#432",
        "bgcolor": "#653",
    }
