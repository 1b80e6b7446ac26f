"""Boots the host once, before any test module imports anything of it."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest

# The same examples every time, and few enough for every run; nothing is written beside the tests.
hypothesis.settings.register_profile("pack", derandomize=True, deadline=None, max_examples=40, database=None)
hypothesis.settings.load_profile("pack")

REPOSITORY = Path(__file__).resolve().parent.parent
# At the end: the host's own 'nodes', 'utils' and 'app' must be found before folders of this repository.
# The test doubles are 'support', not 'tests.support': the host has a package 'tests' of its own.
for folder in (REPOSITORY, REPOSITORY / "tests"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

# One thread is faster for models as small as the tests', and tests may share the cores with others. The server's
# models are larger: it gets its share of the cores, because threads that wait for each other waste a busy machine's.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT") or 1)
SERVER_THREADS = int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // WORKERS))
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or "1"
# Tests never ask a hub for weights.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

from support.selection import mark, selected
from tools.bootstrap import boot_host, load_pack
from tools.host.client import Client
from tools.host.layout import RUNTIME, Host
from tools.host.link import link_pack
from tools.host.server import Server


class RootIsNoPackage:
    """Keeps pytest from importing the repository's ``__init__.py``, which only ComfyUI and ``load_pack`` shall do."""

    @pytest.hookimpl
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == REPOSITORY else None


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("which tests of this repository")
    group.addoption("--fast", action="store_true", help="leave out what needs a server or a browser or is slow")
    group.addoption("--soak", action="store_true", help="run the long soak tests and nothing else")
    group.addoption("--renew-schemas", action="store_true", help="write down the nodes' schemas as they are now")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # First, so that -m of the command line sees the marks.
    for item in items:
        mark(item, REPOSITORY)
    fast, soak = config.getoption("--fast"), config.getoption("--soak")
    kept = [item for item in items if selected(item, fast, soak)]
    if soak and not kept:
        raise pytest.UsageError("--soak: there are no soak tests here; they are in tests/soak or marked with 'soak'")
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> str:
    if config.getoption("--fast"):
        return "--fast: without server, browser and slow tests"
    return ""


def pytest_configure(config: pytest.Config) -> None:
    # Registered here, because pytest does not ask a conftest about the folders above it.
    config.pluginmanager.register(RootIsNoPackage())
    try:
        boot_host(cpu=True)
    except RuntimeError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The pack, imported under the name ``partedit_oir``."""
    return load_pack()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of this repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def host() -> Host:
    """The ComfyUI under test, run by the interpreter that runs the tests."""
    root = Path(os.environ["COMFYUI_PATH"]).resolve()
    return Host(root, Path(sys.executable), private=root.is_relative_to(RUNTIME))


@pytest.fixture
def make_host() -> Callable[..., Host]:
    """Makes a folder that looks like a ComfyUI, with the given text as its main.py."""

    def make(folder: Path, main: str = "", private: bool = False) -> Host:
        (folder / "comfy").mkdir(parents=True)
        (folder / "comfy" / "sd.py").write_text("")
        (folder / "main.py").write_text(textwrap.dedent(main))
        return Host(folder, Path(sys.executable), private)

    return make


@pytest.fixture(scope="session")
def pack_name(host: Host) -> str:
    """The pack's folder name in custom_nodes."""
    return link_pack(host)


@pytest.fixture(scope="session")
def server(host: Host, pack_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server; stopped at the end. Its folder of models is empty but for what a test puts there."""
    models = tmp_path_factory.mktemp("models")
    for name in ("checkpoints", "clip_vision"):
        (models / name).mkdir()
    with Server(host, cpu=True, pack_name=pack_name, threads=SERVER_THREADS, models=models) as running:
        running.start()
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Client:
    """Talks to the server; the demo's input pictures lie in its input folder."""
    talker = Client(server.base_url, alive=server.alive)
    for path in sorted((REPOSITORY / "workflows" / "input").glob("*.*")):
        if path.suffix.lower() in (".png", ".jpg", ".webp"):
            talker.upload_image(path)
    return talker


@pytest.fixture(scope="session")
def object_info(client: Client) -> dict[str, Any]:
    """GET /object_info."""
    return client.object_info()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests have recorded as ``cost``: measured in this run and asserted nowhere, so that a change is seen."""
    reports = [report for group in terminalreporter.stats.values() for report in group if hasattr(report, "when")]
    lines = [value for one in reports if one.when == "call" for name, value in one.user_properties if name == "cost"]
    if lines:
        terminalreporter.section("cost")
        for line in lines:
            terminalreporter.write_line(line)
