"""Every template as a user meets it: opened from the template browser, run by the button, waited for, looked at.

Those on the demo checkpoint run in few steps (tests/host runs them whole). Those for SDXL run on a small stand-in of
the same name, with few steps on a small picture. Those that need a model which ComfyUI knows in full size only must say
which file is missing. The renderer alternates from template to template; what the nodes of the first two groups report
is shown in the other one as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageSequence

from support.editor import RENDERERS, Editor
from support.layout import FEW, REPORT, SET, check, looked_at
from support.stand_in_checkpoint import write_sdxl, write_token
from support.widgets import WORKFLOWS, template
from tools.host.layout import Host
from tools.templates import models

NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
# Half of them in each renderer.
DEALT = {name: RENDERERS[place % 2] for place, name in enumerate(NAMES)}
# What has no small stand-in: everything that is linked but SDXL and the tokens, and the files that notes name.
FULL_SIZE = {*models.LINKED, models.CLIP_FILE, models.SAM_FILE, "grounding-dino-base"} - {
    models.SDXL.name,
    models.SDXL_TURBO.name,
    *models.PUBLISHED_TOKENS,
}
SIZE = 64
# Values that make a run on the stand-in short.
SHORT: dict[str, dict[str, Any]] = {
    "EmptyLatentImage": {"width": SIZE, "height": SIZE},
    "ImageScale": {"width": SIZE, "height": SIZE},
    "FeatureBlendSampler": {"steps": 3},
    "InvertLatent": {"steps": 3},
    "TrainPartToken": {"steps": 20, "noise_count": 1, "flip": False},
}
LOAD = """
(names) => {
    const loaders = window.app.graph._nodes.filter((node) => node.type === 'LoadImage');
    loaders.forEach((node, place) => {
        const widget = node.widgets.find((one) => one.name === 'image');
        widget.value = names[place];
        widget.callback?.(names[place]);
    });
    return loaders.length;
}
"""
FAULTY = "window.app.graph._nodes.filter((node) => node.has_errors).map((node) => node.type)"
REFRESH = "window.app.refreshComboInNodes()"


def kinds(name: str) -> set[str]:
    return {node["type"] for node in template(name)["nodes"]}


def missing(name: str) -> set[str]:
    """Files that a template names and no stand-in can be made of."""
    values = [value for node in template(name)["nodes"] for value in node.get("widgets_values") or []]
    return FULL_SIZE.intersection(value for value in values if isinstance(value, str))


DEMO = [name for name in NAMES if "LoadDemoModel" in kinds(name)]
INCOMPLETE = [name for name in NAMES if missing(name)]
STAND_IN = [name for name in NAMES if name not in DEMO and name not in INCOMPLETE]


def renderers(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "renderer"), [(name, DEALT[name]) for name in names], indirect=["renderer"])


def run(editor: Editor, client: Any, name: str, renderer: str) -> None:
    """Run what is open: nodes that show images have some, none lies over another, here and in the other renderer."""
    workflow = template(name)
    outputs = editor.queue()
    shown = {str(node["id"]) for node in workflow["nodes"] if node["type"] in ("PreviewImage", "SaveImage")}
    assert shown and all(outputs.get(number, {}).get("images") for number in shown)
    for number in shown:
        assert client.view(outputs[number]["images"][0])[:8] == b"\x89PNG\r\n\x1a\n"
    assert editor.page.evaluate(FAULTY) == []
    for drawn in (renderer, *(other for other in RENDERERS if other != renderer)):
        if drawn != renderer:
            editor.reset(drawn)
            editor.load(workflow)
            editor.page.evaluate(REPORT, outputs)
        check(looked_at(editor, name, drawn), workflow)


def test_every_template_is_run_or_says_what_is_missing():
    assert len(DEMO) >= 8 and len(STAND_IN) >= 5 and sorted([*DEMO, *STAND_IN, *INCOMPLETE]) == NAMES


@pytest.mark.slow
@renderers(DEMO)
def test_a_template_on_the_demo_checkpoint_runs(editor, renderer, client, pack_name, name):
    client.post_json("/free", {"unload_models": False, "free_memory": True})  # what is cached reports nothing
    editor.open_template(name, pack_name)
    editor.page.evaluate(SET, FEW)  # tests/host runs them whole
    run(editor, client, name, renderer)


@pytest.fixture(scope="module")
def painted(client: Any, host: Host, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Images in the input folder as the mask editor saves them: what is painted is transparent."""
    folder = tmp_path_factory.mktemp("painted")
    sources = [Image.open(WORKFLOWS / "input" / name) for name in ("robot_pictures.webp", "robot_head_masks.webp")]
    client.upload_image(host.root / "input" / "example.png")  # what the templates name; a private run has no inputs
    names: list[str] = []
    for number, (picture, mask) in enumerate(zip(*(ImageSequence.Iterator(source) for source in sources))):
        image = picture.convert("RGB")
        image.putalpha(mask.convert("L").point(lambda value: 255 - value))
        image.save(folder / f"painted_{number}.png")
        names.append(client.upload_image(folder / f"painted_{number}.png"))
        if len(names) == 4:
            break
    return names


@pytest.fixture(scope="module")
def stand_ins(server: Any, kept_tab: list[Editor]) -> Iterator[list[Path]]:
    """The files that a template of `STAND_IN` loads, at their places."""
    checkpoints = server.models / models.SDXL.directory
    made = [write_sdxl(checkpoints / models.SDXL.name), checkpoints / models.SDXL_TURBO.name]
    os.link(*made)
    made += [write_token(server.part_tokens / one.name) for one in (models.HUMAN_HEAD, models.HUMAN_TORSO)]
    yield made
    for path in made:
        path.unlink()
    for editor in kept_tab:
        editor.page.evaluate(REFRESH)


@pytest.fixture
def with_stand_ins(editor: Editor, stand_ins: list[Path]) -> None:
    editor.page.evaluate(REFRESH)


@pytest.mark.slow
@renderers(STAND_IN)
@pytest.mark.usefixtures("with_stand_ins")
def test_a_template_for_sdxl_runs_on_a_small_stand_in(editor, renderer, client, pack_name, painted, name):
    editor.open_template(name, pack_name)
    editor.page.evaluate(SET, SHORT)
    assert editor.page.evaluate(LOAD, painted) <= len(painted)
    run(editor, client, name, renderer)


@renderers(INCOMPLETE)
@pytest.mark.usefixtures("with_stand_ins")
def test_a_template_that_misses_a_model_says_which(editor, pack_name, name):
    editor.open_template(name, pack_name)
    with editor.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as caught:
        editor.page.get_by_test_id("queue-button").click()
    assert caught.value.status == 400
    errors = [error for node in caught.value.json()["node_errors"].values() for error in node["errors"]]
    # The host refuses what is not in its list, the pack's own loaders say where to get it.
    refused = {error["extra_info"].get("received_value") or error["details"] for error in errors}
    told = {file for file in FULL_SIZE if any(file in one for one in refused)}
    assert told == missing(name)
    assert all(any(file in one for file in told) for one in refused if "image - Invalid image file" not in one)
    editor.page.get_by_role("button", name="View details").click()
    panel = editor.page.get_by_test_id("properties-panel")
    try:
        for file in missing(name):
            # A model that is a folder is told by its node.
            told = file if "." in file else "Load Grounding Model"
            panel.get_by_text(told).first.wait_for()
        editor.settle()
        listed = panel.inner_text()
        assert models.SDXL.name not in listed and "example.png" not in listed, "what is there"
        editor.screenshot(f"template_{name}_missing")
    finally:
        editor.close_panel()
