"""The editor lists the models a template needs and does not find, and offers the download: in its own panel.

The addresses are never asked: what the browser would fetch is answered here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route

from support.editor import Editor
from tools.templates.models import HUMAN_HEAD, LINKED, SDXL

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
NAMES = [path.stem for path in sorted(FOLDER.glob("*.json")) if '"models": [' in path.read_text(encoding="utf-8")]
NOTHING_MISSING = """
() => document.querySelectorAll('[data-testid="missing-model-download"]').length === 0
"""


def named(name: str) -> dict[str, dict[str, str]]:
    """The models a template names, by name."""
    nodes = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["nodes"]
    return {entry["name"]: entry for node in nodes for entry in node["properties"].get("models", [])}


def stand_in(path: Path) -> Path:
    """A safetensors file of that name with one small tensor."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    return path


@pytest.fixture
def asked(page: Page) -> Iterator[list[str]]:
    """Addresses that the browser was sent to; each is answered with a small file."""
    addresses: list[str] = []

    def answer(route: Route) -> None:
        addresses.append(route.request.url)
        route.fulfill(body=b"stand-in", headers={"Content-Disposition": "attachment; filename=stand-in"})

    page.context.route("https://huggingface.co/**", answer)
    yield addresses
    page.context.unroute("https://huggingface.co/**")
    for other in page.context.pages:
        if other.url.startswith(("about:blank", "https://huggingface.co")):
            other.close()


@pytest.fixture(autouse=True)
def panel_closed_again(editor: Editor) -> Iterator[None]:
    """The panel would lie over what later tests look at."""
    yield
    editor.close_panel()


ROWS = """
() => [...document.querySelectorAll('[data-testid="missing-model-importable-rows"] > div')].map((row) => row.innerText)
"""


def rows(editor: Editor, complete: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    """What the panel lists once it is complete: file name → the line below it."""
    editor.page.get_by_role("button", name="View details").click()

    def listed() -> dict[str, str]:
        texts = [[line for line in text.splitlines() if line.strip()] for text in editor.page.evaluate(ROWS)]
        return {lines[0]: " ".join(lines[1:]) for lines in texts if lines}

    editor.eventually(listed, complete)
    editor.settle()
    return listed()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_listed_with_its_folder_and_a_download(editor, name):
    editor.load(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))
    wanted = named(name)
    shown = rows(editor, lambda shown: all("Download" in shown.get(file, "") for file in wanted))
    assert set(wanted) <= set(shown)
    for file, entry in wanted.items():
        assert entry["directory"] in shown[file] and "Download" in shown[file], shown
    editor.screenshot(f"missing_{name}")


def test_a_file_that_no_address_is_known_of_is_listed_without_a_download(editor):
    editor.load(json.loads((FOLDER / "oir_sd15.json").read_text(encoding="utf-8")))
    (other,) = set(rows(editor, lambda shown: bool(set(shown) - set(LINKED)))) - set(LINKED)
    assert other.startswith("clip-vit-")
    download = editor.page.get_by_role("button", name="Download clip-vit")
    assert download.count() == 0


def test_from_a_template_to_the_queue(editor, server, pack_name, asked):
    """The way of the README: nothing is typed, and no node is touched. A click is counted where one is made."""
    clicks = 0
    editor.open_template("partedit_sdxl", pack_name)
    clicks += 3  # Templates, the pack, the template
    wanted = {SDXL.name, HUMAN_HEAD.name}
    assert set(rows(editor, lambda shown: wanted <= set(shown))) == wanted
    clicks += 1  # View details
    editor.screenshot("way_1_missing")
    editor.page.get_by_test_id("missing-model-download-all").click()
    clicks += 1
    addresses = sorted(one.url for one in (SDXL, HUMAN_HEAD))
    editor.eventually(lambda: sorted(asked), lambda found: len(found) >= len(addresses))
    editor.page.bring_to_front()
    editor.settle()
    assert sorted(asked) == addresses
    made = [stand_in(server.models / SDXL.directory / SDXL.name), stand_in(server.part_tokens / HUMAN_HEAD.name)]
    try:
        editor.page.get_by_test_id("missing-model-header-refresh").click()
        clicks += 1
        editor.page.wait_for_function(NOTHING_MISSING)
        editor.screenshot("way_2_found")
        before = editor.prompt()
        with editor.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as caught:
            editor.page.get_by_test_id("queue-button").click()
        clicks += 1
        answer = caught.value.json()
        assert caught.value.status == 200 and not answer.get("node_errors")
        sent = {node["class_type"]: node["inputs"] for node in before.values()}
        assert sent["CheckpointLoaderSimple"]["ckpt_name"] == SDXL.name
        assert sent["LoadPartToken"]["part_token"] == HUMAN_HEAD.name
    finally:
        for path in made:
            path.unlink()
    assert clicks == 7
