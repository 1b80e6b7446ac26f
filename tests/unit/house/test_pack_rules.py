"""What holds for the whole pack: node schemas, help pages, metadata, and calls that its runtime code never makes."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import sys
from pathlib import Path

import pytest

from tools.host.archives import CURRENT, FLOOR
from tools.host.provision import PYTHON_RANGE

REPOSITORY = Path(__file__).resolve().parents[3]
ROOMS = ["nodes", "core"]
RUNTIME_FILES = [REPOSITORY / "__init__.py"]
RUNTIME_FILES += [path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))]
# demo/training made the model and does not ship.
RUNTIME_FILES += sorted((REPOSITORY / "demo").glob("*.py"))

HELP_PAGES = REPOSITORY / "js" / "docs"
# What people read beside the editor. Not here: pages on code, and docs/evaluate.md, whose files use the ids.
GUIDES = [REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "demo/MODEL_CARD.md")]
GUIDES += [
    path
    for path in sorted((REPOSITORY / "docs").glob("*.md"))
    if path.stem not in {"architecture", "development", "evaluate"}
]

NODE_IDS = {
    "LoadPartToken",
    "CombinePartTokens",
    "TrainPartToken",
    "SavePartToken",
    "PartEditPrompt",
    "PartAttentionMask",
    "AdaptiveOtsuThreshold",
    "FeatureBlendSampler",
    "FeatureBlendGuider",
    "LatentBlendSampler",
    "InvertLatent",
    "EditingPair",
    "InversionStepSearch",
    "OIRReassemble",
    "LoadCLIPScorer",
    "CLIPScorerFromModels",
    "LoadSAMModel",
    "LoadGroundingModel",
    "GroundedSAMMask",
    "SAMPointMask",
    "EditMetrics",
    "LoadDemoModel",
}
FORBIDDEN_MODULES = {"subprocess", "requests", "urllib", "http", "socket", "ftplib", "pip", "ensurepip", "pickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {("os", "system"), ("os", "popen"), ("hub", "load"), ("torch", "hub")}


@pytest.fixture(scope="module")
def schemas(pack):
    return {node: node.GET_SCHEMA() for node in importlib.import_module("partedit_oir.nodes").NODE_CLASSES}


def test_the_nodes_are_these(schemas):
    """Saved workflows name them, so none may go; a new one is added here."""
    assert {schema.node_id for schema in schemas.values()} == NODE_IDS


def test_a_class_is_named_like_its_node_and_listed_once(schemas):
    names = [schema.node_id for schema in schemas.values()]
    assert [node.__name__ for node in schemas] == names
    assert len(set(names)) == len(names)


def test_every_schema_says_what_the_node_is_for(schemas):
    for schema in schemas.values():
        assert re.fullmatch(r"(PartEdit|OIR)(/[A-Za-z ]+)*", schema.category), schema.node_id
        assert schema.display_name and schema.display_name != schema.node_id, schema.node_id
        assert schema.description and len(schema.description) > 20, schema.node_id


def test_every_input_and_output_has_a_tooltip(schemas):
    missing = []
    for schema in schemas.values():
        for entry in [*schema.inputs, *schema.outputs]:
            parts = entry.get_all() if hasattr(entry, "get_all") else [entry]
            # An autogrow's slots take the tooltip of the template they are copied from.
            missing += [f"{schema.node_id}.{part.id}" for part in parts if not (part.tooltip or "").strip()]
    assert not missing


def test_outputs_have_names(schemas):
    unnamed = [s.node_id for s in schemas.values() for out in s.outputs if not (out.display_name or out.id)]
    assert not unnamed


def test_every_node_has_a_help_page_with_its_parts(schemas):
    for schema in schemas.values():
        path = REPOSITORY / "js" / "docs" / schema.node_id / "en.md"
        assert path.is_file(), f"{path} is missing"
        text = path.read_text(encoding="utf-8").lower()
        for part in ("input", "output", "tip", "source"):
            assert part in text, f"{path}: nothing on {part!r}"
        rows = [
            cell.strip("`").lower()
            for row in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
            for cell in row.split(", ")
        ]
        inputs, outputs = shown_names(schema)
        for name in [*inputs.values(), *outputs]:
            assert name.lower() in rows, f"{path}: {name!r} is not explained"


def shown_names(schema) -> tuple[dict[str, str], list[str]]:
    """The English names that the editor shows: of inputs by id, and of outputs."""
    known = json.loads((REPOSITORY / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    own = known.get(schema.node_id, {})
    inputs = {part.id: own.get("inputs", {}).get(part.id, {}).get("name", part.id) for part in schema.inputs}
    outputs = [out.display_name or out.id for out in schema.outputs]
    return inputs, [own.get("outputs", {}).get(str(n), {}).get("name", name) for n, name in enumerate(outputs)]


def test_names_that_the_editor_shows_are_words_and_lead_to_the_ids_of_messages(schemas):
    """Messages, API and saved workflows say ``cross_replace``; the node says "cross-attention replace".

    So the words of an id stand in its name, in their order. More words, capitals and hyphens may make it clearer.
    """
    for schema in schemas.values():
        inputs, outputs = shown_names(schema)
        pairs = [*inputs.items(), *((out.display_name or out.id, name) for out, name in zip(schema.outputs, outputs))]
        for identifier, name in pairs:
            place = f"{schema.node_id}.{identifier}: {name!r}"
            assert "_" not in name, place
            words = iter(re.findall(r"[a-z0-9]+", name.lower()))
            assert all(part in words for part in re.findall(r"[a-z0-9]+", identifier.lower())), place


def test_widgets_have_the_same_name_in_every_language_without_a_translation(schemas):
    """The editor takes a widget's name from the schema where a language has none.

    Not so a socket's: its name from the schema would also hide the translated one, so sockets have theirs in locales/.
    """
    for schema in schemas.values():
        inputs, _ = shown_names(schema)
        for part in schema.inputs:
            place = f"{schema.node_id}.{part.id}"
            if hasattr(part, "default"):
                assert (part.display_name or part.id) == inputs[part.id], place
            else:
                assert part.display_name is None, place


def test_locales_name_nothing_that_does_not_exist(schemas):
    known = json.loads((REPOSITORY / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    by_id = {schema.node_id: schema for schema in schemas.values()}
    for node_id, own in known.items():
        assert set(own.get("inputs", {})) <= {part.id for part in by_id[node_id].inputs}, node_id
        assert set(own.get("outputs", {})) <= {str(n) for n in range(len(by_id[node_id].outputs))}, node_id


def test_texts_beside_a_node_call_inputs_as_the_editor_shows_them(schemas):
    """Tooltips, help pages, guides and notes say "changed words", not ``changed_words``, which nobody sees."""
    ids = {part.id for schema in schemas.values() for part in [*schema.inputs, *schema.outputs] if "_" in str(part.id)}
    raw = re.compile(rf"(?<![\w/.-])(?<!\w\*)({'|'.join(sorted(ids, key=len, reverse=True))})(?![\w/]|\.\w)")
    texts = {f"{page.parent.name}/en.md": page.read_text(encoding="utf-8") for page in HELP_PAGES.glob("*/en.md")}
    quoted = re.compile(r"`[a-z_]+: [^`]+`")  # a message, which begins with an id
    texts |= {page.name: quoted.sub("", page.read_text(encoding="utf-8")) for page in GUIDES}
    for schema in schemas.values():
        parts = [(schema.node_id, schema.description), *((part.id, part.tooltip) for part in schema.inputs)]
        parts += [(out.display_name or out.id, out.tooltip) for out in schema.outputs]
        texts |= {f"{schema.node_id}.{name}": str(text) for name, text in parts}
    for path in (REPOSITORY / "workflows").glob("*.json"):
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        notes = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
        texts[path.name] = "\n".join(notes)
    chinese = json.loads((REPOSITORY / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    for node_id, entry in chinese.items():
        tips = [part["tooltip"] for part in [*entry.get("inputs", {}).values(), *entry["outputs"].values()]]
        texts[f"zh {node_id}"] = "\n".join([entry["description"], *tips])
    found = {place: raw.findall(text) for place, text in texts.items() if raw.search(text)}
    assert not found


def test_help_pages_belong_to_nodes(schemas):
    pages = {path.name for path in (REPOSITORY / "js" / "docs").iterdir() if path.is_dir()}
    assert pages == {schema.node_id for schema in schemas.values()}


HEADINGS = {
    "en": ("## Inputs", "## Outputs", "## Example", "## Mistakes people make", "## Tips", "## Source"),
    "zh": ("## 输入", "## 输出", "## 示例", "## 常见错误", "## 提示", "## 出处"),
}


@pytest.mark.parametrize("language", HEADINGS)
def test_every_help_page_has_a_picture_an_example_and_the_mistakes_people_make(schemas, language):
    """ComfyUI looks for docs/<Node>/<language>.md and resolves relative addresses of pictures against docs/."""
    for schema in schemas.values():
        path = REPOSITORY / "js" / "docs" / schema.node_id / f"{language}.md"
        assert path.is_file(), f"{path} is missing"
        text = path.read_text(encoding="utf-8")
        places = [text.find(f"\n{heading}\n") for heading in HEADINGS[language]]
        assert min(places) > 0 and places == sorted(places), f"{path}: {HEADINGS[language]}"
        before_inputs = text[: places[0]]
        pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", before_inputs)
        assert pictures, f"{path}: no picture above the inputs"
        for _, address in pictures:
            assert (REPOSITORY / "js" / "docs" / address).is_file(), f"{path}: {address}"
        example, mistakes, tips = places[2:5]
        assert len(text[example:mistakes].split("\n", 2)[2].strip()) > 40, f"{path}: no example"
        assert text[mistakes:tips].count("\n- **") >= 3, f"{path}: at least three mistakes"


def test_chinese_help_pages_explain_every_input_and_output(schemas):
    for schema in schemas.values():
        text = (REPOSITORY / "js" / "docs" / schema.node_id / "zh.md").read_text(encoding="utf-8")
        names = [entry.id for entry in schema.inputs] + [out.display_name or out.id for out in schema.outputs]
        missing = [name for name in names if f"| `{name}` " not in text]
        assert not missing, f"{schema.node_id}/zh.md: {missing}"


def test_pictures_of_help_pages_are_small_and_used():
    pages = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "js" / "docs").glob("*/*.md")]
    pictures = [path for path in (REPOSITORY / "js" / "docs").rglob("*") if path.is_file() and path.suffix != ".md"]
    assert sum(path.stat().st_size for path in pictures) < 1_500_000
    for path in pictures:
        address = path.relative_to(REPOSITORY / "js" / "docs").as_posix()
        assert any(f"]({address})" in text for text in pages), f"no page shows {address}"


def test_every_node_is_translated_to_chinese(schemas):
    own = json.loads((REPOSITORY / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert set(own) == {schema.node_id for schema in schemas.values()}
    for schema in schemas.values():
        entry = own[schema.node_id]
        assert entry["display_name"] and entry["description"]
        # Sockets that grow take their names from the template.
        inputs = {part.id for part in schema.inputs} - {"more_pairs"}
        assert set(entry.get("inputs", {})) == inputs, schema.node_id
        assert set(entry["outputs"]) == {str(place) for place in range(len(schema.outputs))}, schema.node_id
        parts = {**entry.get("inputs", {}), **entry["outputs"]}
        for name, part in parts.items():
            assert part["name"].strip(), f"{schema.node_id}.{name}: no name"
            assert re.search(r"[\u4e00-\u9fff]", part.get("tooltip", "")), (
                f"{schema.node_id}.{name}: no Chinese tooltip"
            )


def test_chinese_texts_have_chinese_punctuation():
    texts = [*(REPOSITORY / "js" / "docs").glob("*/zh.md"), *(REPOSITORY / "locales" / "zh").glob("*.json")]
    code = re.compile(r"`[^`\n]*`|\]\([^)]*\)")
    lines = [(path, code.sub("", line)) for path in texts for line in path.read_text(encoding="utf-8").splitlines()]
    # In the widgets' file, texts with values are between backticks.
    widgets = REPOSITORY / "js" / "lib" / "texts.js"
    lines += [(widgets, re.sub(r"\$\{\w+\}", "", line)) for line in widgets.read_text(encoding="utf-8").splitlines()]
    latin = re.compile(r"[\u4e00-\u9fff] ?[,;:!?(]|[,;:!?)] ?[\u4e00-\u9fff]")
    assert [f"{path}: {line.strip()}" for path, line in lines if latin.search(line)] == []


@pytest.mark.parametrize("language", HEADINGS)
def test_every_category_has_a_name(schemas, language):
    """English names of inputs and outputs come from the schemas; categories need an entry in either language."""
    known = json.loads((REPOSITORY / "locales" / language / "main.json").read_text(encoding="utf-8"))["nodeCategories"]
    used = {part for schema in schemas.values() for part in schema.category.split("/")}
    assert set(known) == used and all(name.strip() for name in known.values())


def is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def calls(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node


@pytest.mark.parametrize("path", RUNTIME_FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_runtime_code_keeps_to_the_rules(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module or ""]
        for module in modules:
            root = module.split(".")[0]
            assert root not in FORBIDDEN_MODULES, f"{path}:{node.lineno} imports {module}"
            assert root not in {"nodes", "core", "partedit_oir"}, f"{path}:{node.lineno}: own code is relative"
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), f"{path}:{node.lineno} imports *"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in FORBIDDEN_ATTRIBUTES, f"{path}:{node.lineno}"
    for call in calls(tree):
        if isinstance(call.func, ast.Name):
            assert call.func.id not in FORBIDDEN_CALLS, f"{path}:{call.lineno} calls {call.func.id}"
        names = {keyword.arg: keyword.value for keyword in call.keywords}
        is_torch_load = ast.unparse(call.func) == "torch.load"
        if is_torch_load:
            assert is_true(names.get("weights_only")), f"{path}:{call.lineno}: weights_only=True"
        if ast.unparse(call.func).endswith(".from_pretrained"):
            assert is_true(names.get("local_files_only")), f"{path}:{call.lineno}: local_files_only=True"


# Forms that messages once had. Now it is "name: what is wrong. What to do", see nodes/checks.py.
OLD_FORMS = re.compile(
    r"\bit is empty|; (choose|give|name|need)\b|(?<!there )\bis no [a-z]|\b(a|an|one) (pair|edit)\.$|^\w+ is \{\}"
)


def written(message: ast.expr) -> str:
    """The text of a message, {} for what is filled in."""
    if isinstance(message, ast.Constant):
        return str(message.value)
    if isinstance(message, ast.JoinedStr):
        return "".join(written(part) if isinstance(part, ast.Constant) else "{}" for part in message.values)
    if isinstance(message, ast.BinOp):
        return written(message.left) + written(message.right)
    return "{}"


@pytest.mark.parametrize("path", RUNTIME_FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_messages_are_sentences_of_one_form(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("ValueError", "FileNotFoundError") and call.args:
            text = written(call.args[0])
            place = f"{path}:{node.lineno}: {text}"
            assert not OLD_FORMS.search(text), place
            assert text.endswith((".", "{}", ")")), place


def test_attention_is_touched_in_one_file_only():
    """What the host changes about its attention is then mended in one place, and patches of others are chained once."""
    pattern = re.compile(r"set_model_(attn|patch)|attn[12]_(replace|patch|output_patch)|optimized_attention")
    for path in RUNTIME_FILES:
        if path == REPOSITORY / "core" / "attention.py":
            continue
        code = ast.unparse(ast.parse(path.read_text(encoding="utf-8")))
        without_texts = re.sub(r'("""|\'\'\').*?\1|"[^"\n]*"|\'[^\'\n]*\'', "''", code, flags=re.S)
        assert not pattern.search(without_texts), f"{path} touches attention; that belongs in core/attention.py"


def load_toml(path: Path) -> dict:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        tomllib = pytest.importorskip("tomli")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def test_pyproject_has_what_the_registry_asks_for(pack):
    data = load_toml(REPOSITORY / "pyproject.toml")
    project, comfy = data["project"], data["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9.-]*[a-z0-9]", project["name"]) and "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    # Saved tokens carry the version; an installed pack need not have its pyproject.toml.
    assert project["version"] == importlib.import_module("partedit_oir.core.version").VERSION
    assert (REPOSITORY / project["license"]["file"]).read_text(encoding="utf-8").startswith("MIT License")
    assert project["urls"]["Repository"].startswith("https://")
    for key in ("PublisherId", "DisplayName"):
        assert comfy[key]
    assert comfy["requires-comfyui"].startswith(">=")
    for key in ("Icon", "Banner"):
        inside = comfy[key].split("/main/", 1)[1]
        assert (REPOSITORY / inside).is_file(), f"{key} names {inside}, which is not in the repository"


def test_the_host_reads_the_classifiers(pack):
    from comfy_config import config_parser

    data = load_toml(REPOSITORY / "pyproject.toml")
    classifiers = data["project"]["classifiers"]
    assert config_parser.validate_and_extract_os_classifiers(classifiers) == ["OS Independent"]
    # One name that the host does not know would make it drop them all.
    assert len(config_parser.validate_and_extract_accelerator_classifiers(classifiers)) == 4
    config = config_parser.extract_node_configuration(str(REPOSITORY))
    assert config.project.name == data["project"]["name"] and config.tool_comfy.publisher_id


def test_requirements_agree_with_pyproject_and_leave_torch_alone():
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line.strip() and not line.startswith("#")]
    assert wanted == load_toml(REPOSITORY / "pyproject.toml")["project"]["dependencies"]
    names = {re.split(r"[<>=!~\[ ]", line)[0].lower() for line in wanted}
    assert not names & {"torch", "torchvision", "torchaudio", "numpy"}


# The oldest release of each requirement that the code that uses it was run on, with numpy 2.4 and Python 3.11.
# scikit-image 0.22 and matplotlib 3.8.0 cannot be imported there; older mypy and ruff find faults that are none. Of
# segment-anything there is one release, and ComfyUI itself asks for transformers 4.50.3.
OLDEST_TRIED = {
    "diffusers": "0.32.0",
    "hypothesis": "6.100.0",
    "lpips": "0.1.4",
    "matplotlib": "3.8.4",
    "mypy": "2.4.0",
    "pathspec": "1.1.1",
    "playwright": "1.49.0",
    "pyarrow": "18.0.0",
    "pytest": "8.3.0",
    "pytest-xdist": "3.8.0",
    "ray": "2.30.0",
    "ruff": "0.15.0",
    "scikit-image": "0.23.1",
    "segment-anything": "1.0",
    "transformers": "4.50.3",
}


def release(text: str) -> tuple[int, ...]:
    numbers = [int(part) for part in text.split(".")]
    return tuple(numbers + [0] * (3 - len(numbers)))


def test_no_requirement_lets_in_a_release_that_was_never_run():
    lines = [
        line
        for file in ("requirements.txt", "tests/requirements.txt")
        for line in (REPOSITORY / file).read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    lines += load_toml(REPOSITORY / "pyproject.toml")["project"]["optional-dependencies"]["cluster"]
    asked = [re.match(r"([a-z-]+)>=([0-9.]+)(;|$)", line) for line in lines]
    assert all(asked), "each requirement has a lowest release and nothing else"
    assert {match[1] for match in asked} == set(OLDEST_TRIED)
    for match in asked:
        assert release(match[2]) >= release(OLDEST_TRIED[match[1]]), match[0]


def test_the_readme_shows_and_names_only_what_is_there():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links and all((REPOSITORY / link.partition("#")[0]).exists() for link in links)
    for name in ("partedit_demo", "partedit_sdxl", "train_token"):
        assert f"`{name}`" in text and (REPOSITORY / "workflows" / f"{name}.json").is_file()
    assert (REPOSITORY / "tokens" / "index.json").is_file()


def test_the_readme_says_the_same_as_the_code():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    project = load_toml(REPOSITORY / "pyproject.toml")
    assert f"git clone {project['project']['urls']['Repository']}\n" in text
    assert f"**{project['tool']['comfy']['DisplayName']}**" in text
    assert (
        project["tool"]["comfy"]["requires-comfyui"] == f">={FLOOR.version}" and f"ComfyUI {FLOOR.version} or" in text
    )
    assert f"`{CURRENT.requirement.replace('==', '` ')}, whose hash" in text and f"ComfyUI {CURRENT.version}" in text
    low, high = (".".join(map(str, version)) for version in PYTHON_RANGE)
    assert f"Python {low} to {high}" in text and project["project"]["requires-python"] == f">={low}"


def test_the_readme_names_every_model_folder_and_command(pack):
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in pack.MODEL_FOLDERS)
    code = (REPOSITORY / "run.py").read_text(encoding="utf-8")
    commands = re.findall(r'add_parser\("([a-z-]+)"', code)
    assert len(commands) >= 6 and all(f"| `run.py {name}" in text for name in commands)


def test_settings_that_the_readme_advises_exist(schemas):
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    table = text[text.index("| you see | try |") : text.index("For a picture of your own")]
    inputs = {name for schema in schemas.values() for name in shown_names(schema)[0].values()}
    inputs |= {name.partition(" (")[0] for name in inputs}
    named = set(re.findall(r"`([a-z -]+)`", table))
    assert len(named) > 4 and named <= inputs


def test_files_and_classes_that_the_docs_name_exist():
    """A page about the code that still names last month's files sends a newcomer astray."""
    for page in [*(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "CONTRIBUTING.md"]:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"`((?:core|nodes|demo|tools|bench|tests|js|docs|locales|workflows)/[\w./-]*)`", text):
            # NAME stands for any name.
            assert "NAME" in name or (REPOSITORY / name).exists(), f"{page.name}: {name}"
        for module, member in re.findall(r"`((?:core|nodes|demo)(?:\.[a-z_]+)+)\.([A-Z]\w+)`", text):
            path = REPOSITORY / f"{module.replace('.', '/')}.py"
            assert path.is_file() and f"class {member}" in path.read_text(encoding="utf-8"), f"{page.name}: {module}"


def pages_of_the_repository() -> list[Path]:
    skipped = {".runtime", ".git", "output", "node_modules"}
    found = []
    for folder, folders, files in os.walk(REPOSITORY):
        # Pruned on the way: the private ComfyUI holds tens of thousands of files.
        folders[:] = [name for name in folders if name not in skipped]
        found += [Path(folder, name) for name in files if name.endswith(".md")]
    assert len(found) > 30
    return sorted(found)


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", pages_of_the_repository(), ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_relative_links_and_pictures_resolve(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    help_pages = REPOSITORY / "js" / "docs"
    # The editor resolves a help page's addresses against docs/, not against the page's own folder.
    base = help_pages if help_pages in page.parents else page.parent
    for address in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if re.match(r"[a-z]+:", address):
            continue
        name, _, anchor = address.partition("#")
        target = (base / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {address}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page.name}: {address}"
