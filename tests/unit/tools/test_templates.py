"""The templates' layout and the model files they name, from the files as they ship."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tools.templates import write
from tools.templates.layout import FOOTER, LIVE, PICTURE, PLOT, TEXT, WORDS, needed_box, place, room
from tools.templates.models import CLIP_FILE, LINKED, SAM_FILE, SUFFIXES

WORKFLOWS = sorted((Path(__file__).resolve().parents[3] / "workflows").glob("*.json"))
# No address that the editor could offer is known of these; the notes say where they are.
UNLINKED = (CLIP_FILE, SAM_FILE)
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def nodes(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["nodes"]


def overlapping(boxes: dict[Any, tuple[float, float, float, float]]) -> list[tuple[Any, Any]]:
    return [
        (one, other)
        for (one, (x1, y1, x2, y2)), (other, (u1, v1, u2, v2)) in combinations(boxes.items(), 2)
        if x1 < u2 and u1 < x2 and y1 < v2 and v1 < y2
    ]


@each_workflow
def test_nothing_overlaps_once_everything_has_appeared(path):
    pairs = sum(node["type"] == "EditingPair" for node in nodes(path))
    assert overlapping({(node["id"], node["type"]): needed_box(node, pairs) for node in nodes(path)}) == []


@each_workflow
def test_a_node_that_shows_a_picture_has_room_for_it(path):
    for node in nodes(path):
        if node["type"] in ("PreviewImage", "SaveImage"):
            assert node["size"][1] >= PICTURE, node["id"]


def test_room_for_what_a_run_adds():
    assert room("PartEditPrompt") == FOOTER + TEXT + WORDS and room("VAEDecode") == FOOTER
    assert [room("InversionStepSearch", pairs) for pairs in (1, 2, 3, 9)] == [
        FOOTER + TEXT + PLOT * shown + LIVE for shown in (1, 2, 3, 3)
    ]
    kinds = ["PartEditPrompt", "VAEDecode", "PreviewImage"]
    made = [{"type": kind, "size": [360 + 100 * number, 200]} for number, kind in enumerate(kinds)]
    place(made, [0, 0, 1])
    (x1, y1), (x2, y2), (x3, y3) = (node["pos"] for node in made)
    assert (x1, y1, x2, y3) == (0, 0, 0, 0) and y2 >= 200 + TEXT and x3 >= 460


def files(node: dict[str, Any]) -> list[str]:
    values = [value for value in node.get("widgets_values") or [] if isinstance(value, str)]
    linked = {entry["name"] for entry in node["inputs"] if entry.get("link") is not None}
    if node["type"] in ("MarkdownNote", "SavePartToken") or "part_token" in linked:
        return []
    return [value for value in values if value.lower().endswith(SUFFIXES) and not value.startswith("demo_")]


@each_workflow
def test_every_file_of_a_real_model_is_linked_where_the_editor_looks(path):
    """The editor offers addresses on huggingface.co that end in a model file, and needs the name that is chosen."""
    for node in nodes(path):
        given = node["properties"].get("models", [])
        assert [entry["name"] for entry in given] == [name for name in files(node) if name not in UNLINKED], node[
            "type"
        ]
        for entry in given:
            assert entry == LINKED[entry["name"]].entry and set(entry) == {"name", "url", "directory"}
            assert entry["url"].startswith("https://huggingface.co/") and entry["url"].endswith(f"/{entry['name']}")


@each_workflow
def test_the_note_says_what_to_load(path):
    text = "\n".join(node["widgets_values"][0] for node in nodes(path) if node["type"] == "MarkdownNote")
    for node in nodes(path):
        for name in files(node):
            assert name in text, f"{path.stem}: no note names {name}"


def test_real_checkpoints_have_every_template_of_the_two_methods():
    def kinds(name: str) -> set[str]:
        return {node["type"] for path in WORKFLOWS if path.stem == name for node in nodes(path)}

    assert {"CheckpointLoaderSimple", "InvertLatent", "LoadPartToken"} <= kinds("partedit_sdxl_real_image")
    assert "SAM3_Detect" in kinds("partedit_sdxl_sam3") and "LoadPartToken" not in kinds("partedit_sdxl_sam3")
    assert "CombinePartTokens" in kinds("partedit_sdxl_several_parts")
    assert "OIRReassemble" in kinds("oir_sd15") and "OIRReassemble" not in kinds("oir_single_object")
    assert {"CLIPScorerFromModels", "SAM3_Detect", "OIRReassemble"} <= kinds("oir_sdxl")
    assert "BatchMasksNode" in kinds("train_token_from_painted_masks")


def test_every_node_is_shown_by_a_template():
    frozen = json.loads((Path(__file__).parents[1] / "house" / "node_schemas.json").read_text(encoding="utf-8"))
    used = {node["type"] for path in WORKFLOWS for node in nodes(path)}
    assert set(frozen) <= used, sorted(set(frozen) - used)


def test_a_template_that_does_not_exist_is_refused(capsys):
    """A slip of the pen once started a server, wrote nothing, and was a success."""
    with pytest.raises(SystemExit) as stopped:
        write.main(["oir_demo", "oir_demmo"])
    assert stopped.value.code == 2 and "no template oir_demmo. There are: " in capsys.readouterr().err
