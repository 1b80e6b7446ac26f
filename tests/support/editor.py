"""ComfyUI's editor in a real Chromium, driven by Playwright. The fixtures around it are in tests/browser/conftest.py.

The browser is the system's own: Playwright downloads none.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, BrowserType, ConsoleMessage, Error, Locator, Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout

T = TypeVar("T")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = ["--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"]
# The setting behind "Modern Node Design (Nodes 2.0)".
VUE_NODES = "Comfy.VueNodes.Enabled"
RENDERERS = ("classic", "vue")
# Runs a test that uses the fixture ``editor`` once with each.
both_renderers = pytest.mark.parametrize("renderer", RENDERERS, indirect=True)
# The graph is there a moment before the editor puts its first workflow into it, and would overwrite what a test loads.
READY = """
() => {
    const manager = window.app?.extensionManager;
    return Boolean(manager && !manager.spinner && manager.workflow?.activeWorkflow
        && window.LiteGraph?.registered_node_types?.KSampler);
}
"""
STATE = """
() => {
    const manager = window.app?.extensionManager;
    return {
        app: Boolean(manager), spinner: manager?.spinner, workflow: manager?.workflow?.activeWorkflow?.path,
        nodes: Object.keys(window.LiteGraph?.registered_node_types ?? {}).length, visible: document.visibilityState,
    };
}
"""
BLANK = """
async ([setting, vue]) => {
    const manager = window.app.extensionManager;
    await manager.setting.set(setting, vue);
    await manager.command.execute('Comfy.NewBlankWorkflow');
    for (const workflow of [...manager.workflow.openWorkflows])
        if (workflow !== manager.workflow.activeWorkflow) await manager.workflow.closeWorkflow(workflow);
}
"""

HISTORY = """
(id) => window.app.api.fetchApi(`/history/${id}`).then((answer) => answer.json()).then((entries) => entries[id])
"""
# The page's own word that a run has ended comes after all that the nodes reported.
LISTEN = """
() => {
    if (window.partEditEnded) return;
    window.partEditEnded = new Set();
    for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
        window.app.api.addEventListener(kind, ({ detail }) => window.partEditEnded.add(detail.prompt_id));
}
"""
ENDED = "(id) => window.partEditEnded.has(id)"
TOASTS = ".p-toast-message"
REMOVE_TOASTS = "() => window.app.extensionManager.toast.removeAll()"
# Whether the template browser shows the same cards for some frames; it replaces all of them when its filter has run.
SAME_CARDS = """
() => new Promise((done) => {
    const content = () => document.querySelector('[data-testid="template-workflows-content"]');
    let before = null, frames = 0;
    const look = () => {
        const now = content();
        frames = now && now === before ? frames + 1 : 0;
        before = now;
        if (frames < 10) requestAnimationFrame(look);
        else done(true);
    };
    look();
    setTimeout(done, 30_000, false);
})
"""
# Ends once nothing has moved or changed its size over some frames, and the pictures on nodes are there or have failed.
STILL = """
() => new Promise((done) => {
    let before = null, frames = 0;
    const loading = (image) => image.loading !== 'lazy' && !image.complete;
    const box = (element) => {
        const { x, y, width, height } = element.getBoundingClientRect();
        return [x, y, width, height];
    };
    const look = () => {
        const { scale, offset } = window.app.canvas.ds;
        const nodes = window.app.graph._nodes.map((node) => [node.id, ...node.pos, ...node.size]);
        const boxes = [...document.querySelectorAll('[data-node-id], .partedit, .partedit *')].map(box);
        const now = JSON.stringify([scale, [...offset], nodes, boxes]);
        const pictures = [...document.querySelectorAll('[data-node-id] img, .partedit img')];
        frames = now === before && !pictures.some(loading) ? frames + 1 : 0;
        before = now;
        if (frames < 4) requestAnimationFrame(look);
        else done(true);
    };
    requestAnimationFrame(look);
    setTimeout(done, 30_000, false);
})
"""


def find_chromium() -> str | None:
    """The path of an installed Chromium: PARTEDIT_CHROMIUM, or one on the path."""
    named = os.environ.get("PARTEDIT_CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


def launch(chromium: BrowserType, program: str) -> Browser:
    """A headless browser. Its sandbox refuses to run for root, and in most containers for anybody: then without it.

    Raises:
        playwright.sync_api.Error: it does not start without its sandbox either.
    """
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    for sandbox in (False,) if root else (True, False):
        try:
            return chromium.launch(executable_path=program, chromium_sandbox=sandbox, args=OPTIONS)
        except Error:
            if not sandbox:
                raise
    raise AssertionError("unreachable")


class Editor:
    """One browser tab with the editor in it.

    Attributes:
        page: Playwright's page, for everything that has no method here.
        errors: console errors and uncaught exceptions of the page since the last `reset`.
        screenshots: the folder that `screenshot` writes to.
    """

    def __init__(self, page: Page, base_url: str, screenshots: Path) -> None:
        self.page, self.base_url, self.screenshots = page, base_url, screenshots
        self.errors: list[str] = []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        # The editor's own notices lie over its buttons, some of them until they are closed.
        page.add_locator_handler(page.locator(TOASTS).first, lambda: page.evaluate(REMOVE_TOASTS))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def errors_of(self, pack_name: str) -> list[str]:
        """Those `errors` that name the pack, without the editor's own about other servers that it may not ask."""
        own = [line for line in self.errors if "Content Security Policy" not in line]
        return [line for line in own if pack_name in line or "partedit" in line.lower()]

    def open(self) -> None:
        """Load the editor and wait until it can be used.

        Raises:
            AssertionError: it does not get there; the message has what it lacks.
        """
        self.page.goto(self.base_url)
        self.page.bring_to_front()  # a page in the background draws no frames
        try:
            self.page.wait_for_function(READY, timeout=180_000, polling=100)
        except PlaywrightTimeout as error:
            raise AssertionError(f"the editor is not ready: {self.page.evaluate(STATE)} {self.errors}") from error

    def reset(self, renderer: str = "classic") -> None:
        """An empty workflow in one tab, no errors noted, and one of the two `RENDERERS`.

        Args:
            renderer: "classic" draws nodes on the canvas, "vue" is Nodes 2.0.
        """
        if renderer not in RENDERERS:
            raise ValueError(f"renderer: expected one of {RENDERERS}, got {renderer!r}")
        vue = renderer == "vue"
        self.page.bring_to_front()
        self.page.keyboard.press("Escape")  # closes a dialog that was left open
        self.page.evaluate(BLANK, [VUE_NODES, vue])
        self.page.wait_for_function("(vue) => Boolean(window.LiteGraph.vueNodesMode) === vue", arg=vue)
        self.errors.clear()

    def load(self, workflow: dict[str, Any]) -> None:
        """Load a workflow as dropping its file on the editor does."""
        self.page.evaluate("(workflow) => window.app.loadGraphData(workflow)", workflow)
        self._wait_for_nodes(len(workflow["nodes"]))

    def open_template(self, name: str, pack_name: str) -> None:
        """Open a template of a pack through the template browser, by clicks.

        Args:
            name: file name without its ending, such as "partedit_demo".
            pack_name: the pack's folder name in custom_nodes, as the fixture ``pack_name`` gives it.
        """
        self.page.get_by_role("button", name="Templates").first.click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_role("button", name=pack_name).click()
        card = dialog.get_by_test_id(f"template-workflow-{name}")
        card.wait_for()
        for clicks_left in (2, 1, 0):
            self.page.evaluate(SAME_CARDS)
            try:
                with self.page.expect_request(
                    lambda asked: asked.url.endswith(f"/{name}.json"), timeout=5_000
                ) as caught:
                    card.click()
                break
            except PlaywrightTimeout:
                # The card was replaced between press and release, and there was no click.
                if not clicks_left:
                    raise
        answer = caught.value.response()
        assert answer is not None
        self._wait_for_nodes(len(answer.json()["nodes"]))
        dialog.wait_for(state="hidden")

    def _wait_for_nodes(self, count: int) -> None:
        self.page.wait_for_function("(count) => window.app.graph._nodes.length === count", arg=count)

    def settle(self) -> None:
        """Wait until what has happened so far is drawn and nothing moves any more.

        For what no other condition tells: positions and sizes, a screenshot, and that something does not happen.
        """
        if not self.page.evaluate(STILL):
            raise AssertionError("the page still moves, or draws nothing, after 30 s")

    def eventually(self, read: Callable[[], T], holds: Callable[[T], bool], limit: float = 30.0) -> T:
        """Read something of the page again and again until it is as expected, as Playwright's ``expect`` does.

        Args:
            limit: seconds.

        Returns:
            The value that is as expected.

        Raises:
            AssertionError: it is not within the limit; the message has the last value.
        """
        end = time.monotonic() + limit
        while not holds(value := read()):
            if time.monotonic() > end:
                raise AssertionError(f"after {limit:g} s it is still {value!r}")
            self.page.wait_for_timeout(50)
        return value

    def prompt(self) -> dict[str, Any]:
        """What Run would send, in API format."""
        return self.page.evaluate("() => window.app.graphToPrompt().then((result) => result.output)")

    def queue(self, limit: float = 300.0) -> dict[str, Any]:
        """Press Run and wait until the workflow has run.

        Args:
            limit: seconds.

        Returns:
            ``outputs[node id][kind]``, as in /history.

        Raises:
            AssertionError: the server refused the prompt, or a node failed; the message has the server's answer.
            TimeoutError: the limit passed.
        """
        self.page.evaluate(LISTEN)
        with self.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as caught:
            self.page.get_by_test_id("queue-button").click()
        answer = caught.value.json()
        if caught.value.status != 200 or answer.get("node_errors"):
            raise AssertionError(f"the server refused the prompt: {json.dumps(answer)}")
        end = time.monotonic() + limit
        while (entry := self.page.evaluate(HISTORY, answer["prompt_id"])) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"the workflow did not finish within {limit:g} s")
            self.page.wait_for_timeout(200)
        if entry["status"]["status_str"] != "success":
            raise AssertionError(f"the run failed: {json.dumps(entry['status']['messages'][-1:])}")
        self.page.wait_for_function(ENDED, arg=answer["prompt_id"])
        self.settle()
        return entry["outputs"]

    def close_panel(self) -> None:
        """Close the panel beside the graph, which stays open from one workflow to the next."""
        if self.page.get_by_text("Workflow Overview").is_visible():
            self.page.get_by_role("button", name="Toggle properties panel").last.click()
            self.page.get_by_text("Workflow Overview").wait_for(state="hidden")

    def node(self, kind: str) -> Locator:
        """The element of the first node of a class. Only with the renderer "vue": the classic one draws on a canvas."""
        number = self.page.evaluate("(kind) => window.app.graph._nodes.find((node) => node.type === kind)?.id", kind)
        if number is None:
            raise AssertionError(f"the graph has no node {kind!r}")
        return self.page.locator(f'[data-node-id="{number}"]')

    def screenshot(self, name: str) -> Path:
        """Write what the page shows as NAME.png; gives back the file."""
        path = self.screenshots / f"{name}.png"
        self.page.screenshot(path=path)
        return path
