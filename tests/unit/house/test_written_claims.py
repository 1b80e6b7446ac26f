"""What pages, notes and messages claim about the code: commands, options, names of nodes and inputs."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import run
from support.written import REPOSITORY, messages, text_of
from tools.config_file import Entry
from tools.evaluate.config import BY_NAME, ConfigFile
from tools.evaluate.readers.folder import OneEdit
from tools.evaluate.tokens.config import TokenConfig
from tools.host.archives import CURRENT
from tools.templates.write import ALL as TEMPLATES
from tools.train_tokens.plan import ConfigFile as TrainingFile

PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "tokens/README.md")]
PAGES += [REPOSITORY / "demo" / "MODEL_CARD.md", REPOSITORY / "bench" / "results" / "notes.md"]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))
HELP_PAGES = sorted((REPOSITORY / "js" / "docs").glob("*/*.md"))
RUNTIME = [path for room in ("nodes", "core") for path in sorted((REPOSITORY / room).rglob("*.py"))]
RUNTIME += sorted((REPOSITORY / "demo").glob("*.py"))


# Commands


def commands() -> Iterator[tuple[str, list[str]]]:
    """(page, words after run.py or python -m) of each command line in the pages."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = re.findall(r"^(?:[A-Z_]+=\S+ )*(?:python3?|py) (.*)$", text, re.MULTILINE)
        lines += re.findall(r"`(?:python3? |py )?(run\.py [^`]+|-m [^`]+)`", text)
        for line in lines:
            yield page.name, line.split("#")[0].split()


def options_of(module: str) -> set[str]:
    """The options that a module's parser knows, read from its text."""
    path = REPOSITORY / (module.replace(".", "/") + ".py")
    assert path.is_file(), module
    return set(re.findall(r'add_argument\("(--[\w-]+)"', path.read_text(encoding="utf-8")))


def test_commands_in_the_pages_exist():
    found = list(commands())
    assert len(found) > 30
    for page, (first, *words) in found:
        place = f"{page}: {' '.join([first, *words])}"
        if first == "-m":
            if words[0].split(".")[0] not in ("pip", "pytest", "venv"):
                assert {word for word in words if word.startswith("--")} <= options_of(words[0]) | {"--help"}, place
        elif first == "run.py":
            words = [word.strip("[]") for word in words if word not in ("...]", "arguments]", "...")]
            if len(words) == 1 or words[0] == "COMMAND":
                assert words[0] in {*parsers(), "COMMAND"}, place
                continue
            options, rest = run.parser().parse_known_args(words)
            if options.command not in run.FORWARDING:
                assert not rest, place
            if options.command == "bench":
                assert options.name in {*run.BENCHMARKS, "NAME"}, place
                known = options_of(f"bench.{options.name}") if options.name in run.BENCHMARKS else set()
                assert {word for word in rest if word.startswith("--")} <= known, place
            if options.command == "templates":
                assert set(options.names) <= {one.name for one in TEMPLATES} | {"NAME"}, place
            if options.command == "test":
                check_paths(rest, place)


def check_paths(words: list[str], place: str) -> None:
    """Paths among pytest's arguments exist, and some test's name holds the word after -k."""
    paths = [REPOSITORY / word for word in words if word.startswith("tests/")]
    assert all(path.exists() for path in paths), place
    options = {word for word in words if word.startswith("--")}
    assert options <= set(re.findall(r'addoption\("(--[\w-]+)"', text_of("tests/conftest.py"))), place
    for word in [words[at + 1] for at, one in enumerate(words) if one == "-k"]:
        files = [file for path in paths for file in (path.rglob("test_*.py") if path.is_dir() else [path])]
        assert any(re.search(rf"def test_\w*{word}", file.read_text(encoding="utf-8")) for file in files), place


def parsers() -> dict[str, argparse.ArgumentParser]:
    actions = run.parser()._subparsers
    assert actions is not None
    return dict(actions._group_actions[0].choices)  # type: ignore[arg-type]


def test_every_option_of_run_is_in_a_guide():
    text = "".join(text_of(name) for name in ("README.md", "docs/development.md", "docs/evaluate.md"))
    missing = [
        f"{command} {option}"
        for command, parser in parsers().items()
        for option in parser._option_string_actions
        if option != "-h" and not re.search(rf"{option}\b", text)
    ]
    assert not missing


def test_every_benchmark_can_be_run():
    """One that only its own docstring named was refused by ``run.py bench``."""
    programs = [path for path in (REPOSITORY / "bench").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")]
    assert {path.stem for path in programs} == set(run.BENCHMARKS)


# Files of settings


def keys(model: type[Entry]) -> set[str]:
    """The keys of a file's model and of all models in it."""
    found = set()
    for name, field in model.model_fields.items():
        found.add(name)
        waiting = [field.annotation]
        while waiting:
            one = waiting.pop()
            waiting += typing.get_args(one)
            if isinstance(one, type) and issubclass(one, Entry):
                found |= keys(one)
    return found


def test_every_key_of_a_settings_file_is_in_its_guide(pack):
    methods = {key for one in BY_NAME.values() for key in (*one.model_fields, one.kind)}
    training = {
        "annotations",
        "first_seed",
        "images",
        "min_share",
        "object_class",
        "parts",
        "part_imagenet",
        "pascal_part",
    }
    evaluation = keys(ConfigFile) | keys(OneEdit) | (keys(TokenConfig) - training) | methods
    for page, names in {"docs/evaluate.md": evaluation, "tokens/README.md": keys(TrainingFile)}.items():
        text = text_of(page)
        code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
        missing = sorted(name for name in names if not re.search(rf"(?<![\w-]){name}(?![\w-])", code))
        assert not missing, page


# Names of nodes and inputs


def host_names() -> dict[str, str]:
    """{id: name in the editor} of the host's nodes, read from its text."""
    root = Path(os.environ["COMFYUI_PATH"])
    names: dict[str, str] = {}
    for path in (root / "nodes.py", *sorted((root / "comfy_extras").glob("*.py"))):
        text = path.read_text(encoding="utf-8")
        for schema in text.split('node_id="')[1:]:
            if shown := re.search(r'display_name="([^"]+)"', schema.partition("inputs=")[0]):
                names[schema.partition('"')[0]] = shown[1]
        names |= dict(re.findall(r'^\s*"(\w+)": "([^"]+)",?$', text, re.MULTILINE))
    assert len(names) > 300
    return names


def test_nodes_are_called_as_the_editor_shows_them(pack):
    """A search for "LoadImage" or "DualCFGGuider" in what the editor lists shows "Load Image", "Dual CFG Guider"."""
    version = re.search(r'__version__ = "([\d.]+)"', Path(os.environ["COMFYUI_PATH"], "comfyui_version.py").read_text())
    assert version is not None
    if version[1] != CURRENT.version:
        pytest.skip("another ComfyUI may call its nodes otherwise")
    schemas = [node.GET_SCHEMA() for node in importlib.import_module("partedit_oir.nodes").NODE_CLASSES]
    names = host_names() | {schema.node_id: schema.display_name for schema in schemas}
    hidden = {key for key, name in names.items() if name != key and re.search(r"[A-Za-z][A-Z][a-z]", key)}
    assert {"LoadImage", "DualCFGGuider", "InvertLatent"} <= hidden and "SamplerCustomAdvanced" not in hidden
    word = re.compile(rf"(?<![\w`/.])({'|'.join(sorted(hidden, key=len, reverse=True))})(?!\w)")
    # Pages on code call classes by their names.
    pages = [page for page in (*PAGES, *HELP_PAGES) if page.stem not in ("architecture", "development", "notes")]
    texts = {str(page): re.sub(r"\]\([^)]*\)", "]", page.read_text(encoding="utf-8")) for page in pages}
    texts |= {str(path): "\n".join(messages(path)) for path in RUNTIME}
    for path in (*(REPOSITORY / "workflows").glob("*.json"), *(REPOSITORY / "subgraphs").glob("*.json")):
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        texts[str(path)] = "\n".join(node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote")
    for path in (REPOSITORY / "locales").glob("*/*.json"):
        # Keys are ids.
        texts[str(path)] = "\n".join(re.findall(r': "(.*)"', path.read_text(encoding="utf-8")))
    texts["texts.js"] = text_of("js/lib/texts.js")
    assert {place: word.findall(text) for place, text in texts.items() if word.search(text)} == {}


@pytest.mark.parametrize(("language", "half"), [("en", 0), ("zh", 1)])
def test_buttons_that_help_pages_quote_are_on_the_widgets(language, half):
    texts = text_of("js/lib/texts.js").split("const CHINESE")[half]
    words = set(re.findall(r': "([^"]+)",', texts))
    quoted = []
    for page in (REPOSITORY / "js" / "docs").glob(f"*/{language}.md"):
        for section in re.findall(
            r"\n## (?:In the node|On the node|节点上的显示)\n(.*?)\n## ", text_of(str(page)), re.DOTALL
        ):
            # A name between backticks is one of the report's.
            plain = " ".join(re.sub(r"`[^`]*`", "", section).split())
            quoted += [(page.parent.name, *one) for one in re.findall(r'"([^"]+)"|\*\*([^*]+)\*\*|“([^”]+)”', plain)]
    assert len(quoted) >= 6
    assert [one for one in quoted if not words & set(one[1:])] == []


def test_every_node_is_in_a_template_and_in_a_unit_test(pack):
    """CONTRIBUTING asks for both."""
    nodes = {node.__name__ for node in importlib.import_module("partedit_oir.nodes").NODE_CLASSES}
    graphs = [json.loads(path.read_text(encoding="utf-8")) for path in (REPOSITORY / "workflows").glob("*.json")]
    assert nodes <= {node["type"] for graph in graphs for node in graph["nodes"]}
    here = (REPOSITORY / "tests" / "unit").rglob("test_*.py")
    tests = "\n".join(path.read_text(encoding="utf-8") for path in here if path.parent.name != "house")
    assert {name for name in nodes if not re.search(rf"\b{name}\b", tests)} == set()


# Arguments of core's functions that no input of a node leads to, and words of what a file holds.
NO_INPUT = {"chosen", "edit", "fit", "keep", "latents", "scorer", "sources", "tokenizer"}
NO_INPUT |= {"part token", "part tokens", "sampler"}  # of a file, of several inputs; a widget or SamplerCustomAdvanced


def test_messages_begin_with_the_input_that_they_are_about(pack):
    nodes = importlib.import_module("partedit_oir.nodes").NODE_CLASSES
    inputs = {entry.id for node in nodes for entry in node.GET_SCHEMA().inputs}
    heads = {
        head
        for path in RUNTIME
        for text in messages(path, raised=True)
        if (found := re.match(r"([a-z][a-z_0-9]*(?: [a-z]+)?(?:, [a-z_]+)*): [a-z{'<]", text))
        for head in found[1].split(", ")
    }
    assert len(heads) > 60
    assert heads - inputs - NO_INPUT == set()


def test_messages_in_the_troubleshooting_guide_are_those_of_the_code():
    known = [re.split(r"\{\}", text) for path in RUNTIME for text in messages(path)]
    quoted = re.findall(r"^\| `([a-z_]+: [^`]+|sampler … [^`]+)`", text_of("docs/troubleshooting.md"), re.MULTILINE)
    assert len(quoted) > 15
    for message in quoted:
        # What stands after the input's name, in the message's order; an ellipsis or a value is anything.
        pattern = re.sub(r"^[a-z_]+: |\d+|'[^']*'|edit_friendly_ddpm", "…", message)
        parts = [part.strip() for part in pattern.split("…") if part.strip()]
        whole = re.compile(".*".join(re.escape(part) for part in parts), re.DOTALL)
        assert any(whole.search("{}".join(text)) for text in known), message
