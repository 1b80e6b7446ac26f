"""What saved workflows and API calls rely on: every node's ids, order, types, ranges and defaults, frozen in a file.

Values of widgets are saved by their order, so an input that moves gives old workflows wrong values without a word. A
change that is meant is written down with

    python3 run.py test tests/unit/house/test_node_schemas.py --renew-schemas
"""

from __future__ import annotations

import difflib
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

FROZEN = Path(__file__).with_name("node_schemas.json")
# The host's lists, and those of files in model folders.
NOT_OURS = {"sampler_name", "scheduler", "part_token", "model", "checkpoint", "captioner"}
TEXTS = ("tooltip", "display_name")


def described(entry: Any) -> dict[str, Any]:
    values = {key: value for key, value in entry.as_dict().items() if key not in TEXTS}
    if entry.id in NOT_OURS:
        for key in ("options", "default", "partedit_tokens", "partedit_contents"):
            values.pop(key, None)
    return {"id": entry.id, "type": entry.get_io_type(), **values}


def frozen(schema: Any) -> dict[str, Any]:
    return {
        "category": schema.category,
        "inputs": [described(entry) for entry in schema.inputs],
        "outputs": [{"name": out.display_name or out.id, "type": out.get_io_type()} for out in schema.outputs],
        "output_node": bool(schema.is_output_node),
    }


@pytest.fixture(scope="module")
def schemas(pack):
    return {node.__name__: node.GET_SCHEMA() for node in importlib.import_module("partedit_oir.nodes").NODE_CLASSES}


def test_schemas_are_as_saved_workflows_know_them(schemas, request):
    found = json.dumps({name: frozen(schema) for name, schema in schemas.items()}, indent=1, default=str) + "\n"
    if request.config.getoption("--renew-schemas"):
        FROZEN.write_text(found, encoding="utf-8")
    known = FROZEN.read_text(encoding="utf-8")
    changes = "\n".join(difflib.unified_diff(known.splitlines(), found.splitlines(), "frozen", "now", lineterm="", n=4))
    assert known == found, f"{changes}\n\nIf saved workflows keep their meaning, renew the file (see above)."


def test_the_main_inputs_of_a_node_come_before_the_folded_ones(schemas):
    """At most six widgets are open, so that a node fits on the screen; and KSampler's own, as people know them."""
    opened = {
        name: [entry.id for entry in schema.inputs if hasattr(entry, "default") and not entry.as_dict().get("advanced")]
        for name, schema in schemas.items()
    }
    assert not {name: ids for name, ids in opened.items() if len(ids) > (8 if name == "FeatureBlendSampler" else 6)}


def test_nodes_are_found_by_other_names(schemas):
    """ComfyUI versions that search by aliases get some for every node, none of them the node's own name."""
    if not hasattr(next(iter(schemas.values())), "search_aliases"):
        pytest.skip("this ComfyUI does not know aliases")
    for name, schema in schemas.items():
        assert schema.search_aliases, name
        assert schema.display_name.lower() not in [alias.lower() for alias in schema.search_aliases], name


def test_every_socket_type_of_the_pack_has_a_colour_of_its_own(schemas):
    script = (Path(__file__).parents[3] / "js" / "socket_colours.js").read_text(encoding="utf-8")
    colours = dict(re.findall(r"^  ([A-Z_]+): \"(#[0-9a-f]{6})\",$", script, re.MULTILINE))
    io_types = vars(importlib.import_module("partedit_oir.nodes.io_types"))
    own = {kind.io_type for kind in io_types.values() if isinstance(kind, type) and hasattr(kind, "io_type")} - {
        "COMBO"
    }
    assert set(colours) == own and len(set(colours.values())) == len(own)
    used = {entry.get_io_type() for schema in schemas.values() for entry in [*schema.inputs, *schema.outputs]}
    assert own <= used
