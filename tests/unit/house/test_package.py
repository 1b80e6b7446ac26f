"""What the Registry and Manager install: complete, small, quick to load, and of use even where a package is missing."""

from __future__ import annotations

import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path, PurePosixPath

import pathspec
import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
# Of a link or a picture in Markdown or HTML.
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"")
# Loads a pack as ComfyUI does, and says what that brought along.
LOAD = """
import asyncio, importlib.util, json, socket, sys
folder, host, *blocked = sys.argv[1:]
sys.path.insert(0, host)
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import comfy.samplers, comfy_api.latest, folder_paths, nodes, server, torch
for name in blocked:
    sys.modules[name] = None
def refuse(*_):
    raise RuntimeError("the pack opened a connection while it was loaded")
socket.socket.connect = socket.create_connection = refuse
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("pack", folder + "/__init__.py", submodule_search_locations=[folder])
pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
async def listed():
    return await (await pack.comfy_entrypoint()).get_node_list()
found = asyncio.run(listed())
schemas = {one.GET_SCHEMA().node_id: one for one in found}
modules = {name.split(".")[0] for name in set(sys.modules) - before if not name.startswith("pack")}
errors = {}
for kind, inputs in json.loads(sys.stdin.read() or "{}").items():
    try:
        getattr(schemas[kind], "execute")(**{k: torch.rand(1, 8, 8) if v == "MASK" else v for k, v in inputs.items()})
    except Exception as error:
        errors[kind] = f"{type(error).__name__}: {error}"
print(json.dumps({"nodes": sorted(schemas), "modules": sorted(modules), "cuda": torch.cuda.is_initialized(),
                  "errors": errors}))
"""


def shipped() -> list[str]:
    """The files that `comfy node publish` packs: those under git that .comfyignore does not match."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    patterns = (REPOSITORY / ".comfyignore").read_text(encoding="utf-8").splitlines()
    ignore = pathspec.GitIgnoreSpec.from_lines(patterns)
    files = [name for name in tracked.decode().split("\0") if name and (REPOSITORY / name).is_file()]
    return [name for name in files if not ignore.match_file(name)]


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("custom_nodes") / "ComfyUI-PartEdit-OIR"
    for name in shipped():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, target)
    return folder


def load(folder: Path, *blocked: str, run: str = "{}") -> dict:
    host = os.environ["COMFYUI_PATH"]
    command = [sys.executable, "-c", LOAD, str(folder), host, *blocked]
    done = subprocess.run(command, input=run, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def loaded(package: Path) -> dict:
    """What the package is with every other package there."""
    return load(package)


def test_the_package_holds_the_product_and_nothing_of_the_workshop():
    tops = {name.split("/")[0] for name in shipped()}
    assert {"__init__.py", "core", "demo", "js", "locales", "nodes", "tokens", "workflows"} <= tops
    assert {"pyproject.toml", "requirements.txt", "README.md", "LICENSE"} <= tops
    assert not tops & {"tests", "tools", "run.py", ".ci", ".github"}
    assert {Path(name).parent.as_posix() for name in shipped() if name.startswith("bench/")} == {"bench/results"}
    assert not [name for name in shipped() if name.startswith("demo/training/")]


def test_what_a_shipped_page_links_to_ships():
    """Pages, pictures and files, of which a reader of the installed pack would find a dead link."""
    files = set(shipped())
    places = files | {str(parent) for name in files for parent in PurePosixPath(name).parents}
    dead = []
    for page in sorted(name for name in files if name.endswith(".md")):
        # The editor resolves a help page's addresses against docs/.
        base = "js/docs" if page.startswith("js/docs/") else posixpath.dirname(page)
        for found in LINK.finditer((REPOSITORY / page).read_text(encoding="utf-8")):
            address = found[1] or found[2]
            target = posixpath.normpath(posixpath.join(base, urllib.parse.unquote(address.partition("#")[0])))
            if not re.match(r"[a-z]+:|#", address) and target not in places:
                dead.append(f"{page}: {address}")
    assert not dead


def test_the_package_is_small():
    sizes = {name: (REPOSITORY / name).stat().st_size for name in shipped()}
    weights = sum(size for name, size in sizes.items() if name.startswith("demo/weights/"))
    assert sum(sizes.values()) - weights < 6e6
    assert sum(sizes.values()) < 46e6


def test_the_package_loads_without_network_device_or_large_imports(loaded):
    assert {"FeatureBlendSampler", "InversionStepSearch", "LoadDemoModel", "TrainPartToken"} <= set(loaded["nodes"])
    # The time a start takes is that of its imports: none but the host's own.
    heavy = {"diffusers", "kornia", "matplotlib", "segment_anything", "skimage", "transformers"}
    assert not heavy & set(loaded["modules"])
    assert loaded["cuda"] is False


def test_missing_packages_cost_only_the_nodes_that_need_them(package, loaded):
    blocked = ("skimage", "segment_anything", "transformers")
    run = '{"AdaptiveOtsuThreshold": {"mask": "MASK", "method": "adaptive", "omega": 1.5}, "LoadDemoModel": {}}'
    found = load(package, *blocked, run=run)
    assert found["nodes"] == loaded["nodes"]
    assert "The package scikit-image is missing. Install" in found["errors"]["AdaptiveOtsuThreshold"]
    assert "The package transformers is missing. Install" in found["errors"]["LoadDemoModel"]
