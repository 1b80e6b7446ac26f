"""From a short description of a subgraph to a blueprint: a node of many nodes, listed in the editor's node library.

ComfyUI lists the files of a pack's folder ``subgraphs``; the form is that of the blueprints it comes with.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from .compose import ComposeError, Node, Workflow, compose, output_slot
from .layout import GAP, WIDTH, own_height

# Ids of the nodes that stand for a subgraph's inputs and outputs.
INPUTS, OUTPUTS = -10, -20


@dataclass(frozen=True)
class Shown:
    """An input or widget of an inner node that the outer node shows: its name and label there, and "key.input"."""

    name: str
    label: str
    target: str


@dataclass(frozen=True)
class Blueprint:
    """A subgraph: name (of the file and the node), what it does, its nodes, and what of them is shown.

    Attributes:
        outputs: (name, "key.output") each.
    """

    name: str
    description: str
    nodes: tuple[Node, ...]
    inputs: tuple[Shown, ...]
    outputs: tuple[tuple[str, str], ...]


def compose_blueprint(blueprint: Blueprint, info: dict[str, Any]) -> dict[str, Any]:
    """The file: a workflow with the one node, and the subgraph's definition.

    Raises:
        ComposeError: unknown node, input or output.
    """
    inner = compose(Workflow(blueprint.name, (), blueprint.nodes), info)
    numbers = {node.key: index for index, node in enumerate(blueprint.nodes, 1)}
    nodes = {node["id"]: node for node in inner["nodes"]}
    kinds = {node.key: node.kind for node in blueprint.nodes}
    fields = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links: list[dict[str, Any]] = [dict(zip(fields, link)) for link in inner["links"]]
    shown, sockets, proxies = [], [], []
    for slot, one in enumerate(blueprint.inputs):
        key, _, name = one.target.partition(".")
        node = nodes[numbers[key]]
        target = next((place for place, entry in enumerate(node["inputs"]) if entry["name"] == name), None)
        if target is None:
            raise ComposeError(f"{blueprint.name}: {key} has no input {name!r}")
        entry = node["inputs"][target]
        if entry["link"] is not None:
            raise ComposeError(f"{blueprint.name}: {one.target} is linked inside already")
        entry["link"] = len(links) + 1
        links.append(dict(zip(fields, (entry["link"], INPUTS, slot, node["id"], target, entry["type"]))))
        shared = {"name": one.name, "type": entry["type"], "label": one.label}
        shown.append({"id": _id(blueprint, one.name), **shared, "linkIds": [entry["link"]], "pos": [0, 20 * slot]})
        sockets.append({**shared, "link": None})
        if "widget" in entry:
            sockets[-1]["widget"] = {"name": one.name}
            proxies.append([str(node["id"]), name])
    given = []
    for slot, (name, origin) in enumerate(blueprint.outputs):
        key, _, output = origin.partition(".")
        place = output_slot(blueprint.name, key, output, info[kinds[key]])
        entry = nodes[numbers[key]]["outputs"][place]
        number = len(links) + 1
        entry["links"].append(number)
        links.append(dict(zip(fields, (number, numbers[key], place, OUTPUTS, slot, entry["type"]))))
        given.append({"id": _id(blueprint, f"out/{name}"), "name": name, "type": entry["type"], "linkIds": [number]})
    right = max(node["pos"][0] + node["size"][0] for node in nodes.values()) + 60
    identity = _id(blueprint, "")
    outer = {
        "id": len(nodes) + 1,
        "type": identity,
        "pos": [0, 0],
        "size": [WIDTH, own_height("", len(sockets) - len(proxies), 2 * len(proxies))],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": sockets,
        "outputs": [{"name": one["name"], "type": one["type"], "links": []} for one in given],
        "properties": {"proxyWidgets": proxies},
        "widgets_values": [],
        "title": blueprint.name,
    }
    definition = {
        "id": identity,
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": len(nodes) + 1, "lastLinkId": len(links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": blueprint.name,
        "inputNode": {"id": INPUTS, "bounding": [-220, 0, 160, 40 + GAP * len(shown)]},
        "outputNode": {"id": OUTPUTS, "bounding": [right, 0, 160, 40 + GAP * len(given)]},
        "inputs": shown,
        "outputs": given,
        "widgets": [],
        "nodes": inner["nodes"],
        "groups": [],
        "links": links,
        "extra": {},
        "category": "PartEdit + OIR",
        "description": blueprint.description,
    }
    return {
        **inner,
        "last_node_id": len(nodes) + 1,
        "last_link_id": len(links),
        "nodes": [outer],
        "links": [],
        "definitions": {"subgraphs": [definition]},
    }


def _id(blueprint: Blueprint, part: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"partedit-oir/blueprint/{blueprint.name}/{part}"))
