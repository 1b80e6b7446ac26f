"""What the nodes of a template's description give, run in this process on the classes of the real host."""

from __future__ import annotations

import asyncio
import importlib
from functools import cache
from typing import Any

from tools.bootstrap import load_pack
from tools.templates.compose import Node, output_slot

# Where the host keeps the nodes that templates use, besides nodes.py.
EXTRAS = ("nodes_mask", "nodes_primitive", "nodes_custom_sampler")


@cache
def node_classes() -> dict[str, Any]:
    """Node classes by id: the pack's and the host's."""
    load_pack()
    found = dict(importlib.import_module("nodes").NODE_CLASS_MAPPINGS)
    for name in EXTRAS:
        module = importlib.import_module(f"comfy_extras.{name}")
        found |= getattr(module, "NODE_CLASS_MAPPINGS", {})
        if hasattr(module, "comfy_entrypoint"):
            extension = asyncio.run(module.comfy_entrypoint())
            found |= {one.GET_SCHEMA().node_id: one for one in asyncio.run(extension.get_node_list())}
    own = importlib.import_module("partedit_oir.nodes").NODE_CLASSES
    return found | {one.__name__: one for one in own}


class Results:
    """Outputs of a description's nodes; each node runs once, when it is first asked for.

    Args:
        nodes: the description, see `tools.templates`.
        changes: widget values by node, on top of the description's.
    """

    def __init__(self, nodes: tuple[Node, ...], changes: dict[str, dict[str, Any]] | None = None) -> None:
        self._nodes = {node.key: node for node in nodes}
        self._changes = changes or {}
        self._made: dict[str, tuple[Any, ...]] = {}

    def __getitem__(self, origin: str) -> Any:
        """The output that "key" or "key.output name" means, as in a description's links.

        Raises:
            KeyError: no such node. ComposeError: it has no such output.
        """
        key, _, output = origin.partition(".")
        if key not in self._made:
            self._made[key] = self._run(self._nodes[key])
        kind = node_classes()[self._nodes[key].kind]
        return self._made[key][output_slot("", key, output, _outputs(kind))]

    def _run(self, node: Node) -> tuple[Any, ...]:
        import torch

        kind = node_classes()[node.kind]
        links = {name: self[origin] for name, origin in node.links.items()}
        values = {**_defaults(kind), **node.values, **self._changes.get(node.key, {}), **links}
        with torch.inference_mode():
            if hasattr(kind, "GET_SCHEMA"):
                found = kind.EXECUTE_NORMALIZED(**values)
                return tuple(found.result if hasattr(found, "result") else found)
            return tuple(getattr(kind(), kind.FUNCTION)(**values))


def _outputs(kind: Any) -> dict[str, Any]:
    names = getattr(kind, "RETURN_NAMES", None) or kind.RETURN_TYPES
    return {"output": list(kind.RETURN_TYPES), "output_name": list(names)}


def _defaults(kind: Any) -> dict[str, Any]:
    """Values of the required widgets that a description leaves out: their default, or the first choice."""
    found = {}
    for name, spec in kind.INPUT_TYPES().get("required", {}).items():
        options = spec[1] if len(spec) > 1 else {}
        if "default" in options:
            found[name] = options["default"]
        elif isinstance(spec[0], list) and spec[0]:
            found[name] = spec[0][0]
    return found
