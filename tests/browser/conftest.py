"""Fixtures of the browser tests: ``editor`` (and its Playwright ``page``) on the running server.

- ``editor``: the editor with an empty workflow, see `support.editor.Editor`: load a workflow or open a template from
  the template browser, queue it and wait for it, take screenshots.
- ``page``: Playwright's page of that editor.
- ``renderer``: "classic" unless a test is marked with `both_renderers` (or parametrizes it by itself).
- ``new_editor()``: a further tab that has just been loaded, for what happens while the editor loads.
- Screenshots go to the folder that PARTEDIT_SCREENSHOTS names, else to pytest's temporary folder. A test that fails
  leaves one, named like the test.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from support.editor import Editor, find_chromium, launch
from tools.host.client import Client

FAILED = pytest.StashKey[bool]()
# As long as Playwright waits for an element: 5 seconds, its own limit, pass on a busy machine.
expect.set_options(timeout=30_000)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


# Package-wide, not session-wide: while Playwright runs, this thread has a running event loop, which others would trip
# over, and a browser takes memory that the heavy tests need.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A headless Chromium. Without one the test is skipped, or fails where PARTEDIT_REQUIRE_BROWSER is set."""
    program = find_chromium()
    if program is None:
        if os.environ.get("PARTEDIT_REQUIRE_BROWSER"):
            pytest.fail("no Chromium is installed, and PARTEDIT_REQUIRE_BROWSER is set")
        pytest.skip("no Chromium is installed (Debian and Ubuntu: apt install chromium)")
    with sync_playwright() as playwright:
        running = launch(playwright.chromium, program)
        yield running
        running.close()


@pytest.fixture(scope="package")
def browser_context(browser: Browser, client: Client) -> Iterator[BrowserContext]:
    """One profile for all tabs, so that the editor's files are fetched once."""
    # Else a new user gets the template browser laid over the editor.
    client.post_json("/settings/Comfy.TutorialCompleted", True)
    # Else a new tab brings back the workflows of another one; without any if they are not stored yet.
    client.post_json("/settings/Comfy.Workflow.Persist", False)
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    yield context
    context.close()


@pytest.fixture(scope="package")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for screenshots."""
    named = os.environ.get("PARTEDIT_SCREENSHOTS")
    if not named:
        return tmp_path_factory.mktemp("screenshots")
    folder = Path(named)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="package")
def open_tab(browser_context: BrowserContext, client: Client, screenshots: Path) -> Callable[[], Editor]:
    """Opens a tab with the editor in it; takes seconds."""

    def open_it() -> Editor:
        editor = Editor(browser_context.new_page(), client.base_url, screenshots)
        editor.open()
        return editor

    return open_it


@pytest.fixture(scope="package")
def kept_tab() -> list[Editor]:
    """The tab that one test hands on to the next; empty at first, and after a failure."""
    return []


@pytest.fixture
def renderer(request: pytest.FixtureRequest) -> str:
    """Who draws the nodes: "classic" or "vue"."""
    return getattr(request, "param", "classic")


@pytest.fixture
def editor(
    request: pytest.FixtureRequest,
    kept_tab: list[Editor],
    open_tab: Callable[[], Editor],
    renderer: str,
    pack_name: str,
) -> Iterator[Editor]:
    """The editor with an empty workflow. Errors of the pack in the page fail the test at its end."""
    if not kept_tab:
        kept_tab.append(open_tab())
    editor = kept_tab[0]
    editor.reset(renderer)
    yield editor
    if request.node.stash.get(FAILED, False):
        print("screenshot:", editor.screenshot(re.sub(r"[^\w.-]+", "_", request.node.name)))
        print("errors in the page:", *editor.errors, sep="\n  ")
        editor.page.close()
        kept_tab.clear()
    else:
        assert not editor.errors_of(pack_name)


@pytest.fixture
def page(editor: Editor) -> Page:
    """Playwright's page with the editor in it."""
    return editor.page


@pytest.fixture
def new_editor(open_tab: Callable[[], Editor]) -> Iterator[Callable[[], Editor]]:
    """Opens a further tab, closed after the test."""
    opened: list[Editor] = []

    def open_it() -> Editor:
        opened.append(open_tab())
        return opened[-1]

    yield open_it
    for editor in opened:
        editor.page.close()
