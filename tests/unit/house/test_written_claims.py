"""What pages, notes and messages claim about the code: commands, options, names of nodes and inputs, and figures."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import json
import os
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import run
from tools.config_file import Entry
from tools.evaluate.config import BY_NAME, ConfigFile
from tools.evaluate.readers.folder import OneEdit
from tools.evaluate.tokens.config import TokenConfig
from tools.host.archives import CURRENT
from tools.templates.write import ALL as TEMPLATES
from tools.train_tokens.plan import ConfigFile as TrainingFile

REPOSITORY = Path(__file__).resolve().parents[3]
PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "tokens/README.md")]
PAGES += [REPOSITORY / "demo" / "MODEL_CARD.md", REPOSITORY / "bench" / "results" / "notes.md"]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))
HELP_PAGES = sorted((REPOSITORY / "js" / "docs").glob("*/*.md"))
RUNTIME = [path for room in ("nodes", "core") for path in sorted((REPOSITORY / room).rglob("*.py"))]
RUNTIME += sorted((REPOSITORY / "demo").glob("*.py"))


def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


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


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def messages(path: Path, raised: bool = False) -> Iterator[str]:
    """The texts with more than one word in a file, or in what it raises, without its docstrings.

    What is filled in is {}.
    """
    tree = parsed(path)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    inner |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    places = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)] if raised else [tree]
    for node in (one for place in places for one in ast.walk(place)):
        if id(node) not in inner and isinstance(node, (ast.Constant, ast.JoinedStr)):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)
            if " " in text:
                yield text


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


# Figures


def result(name: str) -> dict[str, typing.Any]:
    return json.loads(text_of(f"bench/results/{name}.json"))


def percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def evaluated(section: str) -> dict[str, dict[str, str]]:
    """{method: {column: cell}} of a table of evaluate_demo.md."""
    text = text_of("bench/results/evaluate_demo.md").split(f"\n## {section}\n")[1].strip().split("\n\n")[0]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {row[0]: dict(zip(head, row)) for row in rows}


def shares_of_searches(steps: str) -> list[float]:
    """The shares of an exhaustive search's rows: coarse-to-fine, short-to-full."""
    groups = [result("object_search")[steps][name] for name in ("chosen", "unseen")]
    pairs = sum(group["coarse-to-fine"]["pairs"] for group in groups)
    return [
        sum(group[strategy]["share_of_rows"] * group[strategy]["pairs"] for group in groups) / pairs
        for strategy in ("coarse-to-fine", "short-to-full")
    ]


def test_shares_that_are_given_in_words_are_those_of_the_results():
    (coarse, short), (coarse_of_ten, _) = shares_of_searches("25"), shares_of_searches("10")
    assert abs(coarse - 1 / 3) < 0.03 and abs(short - 1 / 6) < 0.03 and abs(coarse_of_ten - 1 / 2) < 0.03
    tooltips = " ".join("".join(messages(REPOSITORY / "nodes" / "step_search.py")).split())
    help_page = " ".join(text_of("js/docs/InversionStepSearch/en.md").split())
    assert "About a third of the work with 25 steps, half with 10." in tooltips
    assert "About a sixth of the work, but" in tooltips
    assert (
        "takes about a sixth of the UNet rows of an exhaustive search, `coarse-to-fine` about a third with 25"
        in help_page
    )
    assert "a third of the UNet rows with 25 steps" in text_of("docs/differences.md")


def figures_of_searches() -> Iterator[tuple[str, str]]:
    for steps, groups in result("object_search").items():
        cells = []
        both = [groups["chosen"], groups["unseen"]]
        pairs = sum(group["coarse-to-fine"]["pairs"] for group in both)
        for strategy in ("coarse-to-fine", "short-to-full"):
            for key in ("share_of_rows", "nearly_best_in_share_of_pairs"):
                cells.append(percent(sum(group[strategy][key] * group[strategy]["pairs"] for group in both) / pairs))
        rows, near, short_rows, short_near = cells
        words = (" of the rows", " of the pairs") if steps == "10" else ("", "")
        yield "docs/oir.md", f"| {steps} | {pairs} | {rows}{words[0]}, {near}{words[1]} | {short_rows}, {short_near} |"
    one = result("object_edits")["coarse_to_fine"]
    yield (
        "demo/MODEL_CARD.md",
        f"(the {one['pairs']} pairs of these edits): {percent(one['share_of_rows'])} of the UNet rows of an exhaustive "
        f"search; at least {percent(one['goals']['share_of_best_S'])} of the best S in "
        f"{percent(one['in_share_of_pairs'])} of the pairs, the same step in "
        f"{percent(one['same_step_in_share_of_pairs'])}.",
    )


def figures_of_object_edits() -> Iterator[tuple[str, str]]:
    found = result("object_edits")
    for shown, method in (
        ("OIR, `edit weight` 1", "oir"),
        ("OIR, `edit weight` 2", "oir_weighted"),
        *((f"the same inversion step for all: {step} of 25", f"fixed {step}") for step in (12, 18, 25)),
        ("SDEdit (fresh noise, no masks), 18 of 25", "sdedit 18"),
        ("latent blending from noise, 25 of 25", "blended 25"),
        ("the VAE alone", "vae"),
    ):
        one = found["methods"][method]
        shares = " | ".join(percent(one[key]) for key in ("objects", "both", "both_kept"))
        yield "docs/oir.md", f"| {shown} | {shares} | {one['psnr_outside_db']:.1f} dB |"
    for shown, method in (
        ("OIR", "oir"),
        ("OIR, `edit weight` 2", "oir_weighted"),
        ("one fixed step, the best of the grid (25)", "fixed 25"),
        ("blended latents (25)", "blended 25"),
        ("SDEdit (25)", "sdedit 25"),
    ):
        one = found["methods"][method]
        row = f"| {shown} | {percent(one['both'])} | {percent(one['both_kept'])} | {one['ms_ssim']:.2f} |"
        yield "demo/MODEL_CARD.md", row
    colours, kinds = (found["both_by_change"][key] for key in ("colour+colour", "kind+kind"))
    yield (
        "demo/MODEL_CARD.md",
        f"If both objects change colour: OIR {percent(colours['oir'])}, with `edit weight` 2 "
        f"{percent(colours['oir_weighted'])}, the fixed step {percent(colours['fixed 25'])}; if both change kind: "
        f"{100 * kinds['oir']:.0f}, {100 * kinds['oir_weighted']:.0f} and {percent(kinds['fixed 25'])}.",
    )


def figures_of_two_colours() -> Iterator[tuple[str, str]]:
    found = {method: int(one["success, bg ≥ 20 dB % ↑"]) for method, one in evaluated("drawn pairs").items()}
    fixed, plain = (sorted(v for k, v in found.items() if k.startswith(name)) for name in ("oir, fixed", "one_step"))
    yield (
        "docs/oir.md",
        f"{found['oir']} % have both new colours and 20 dB outside the masks ({found['oir as published']} % at weight "
        f"1), from one step for both objects {fixed[0]} to {fixed[-1]} %, from one step without OIR {plain[0]} to "
        f"{plain[-1]} %.",
    )
    yield (
        "demo/MODEL_CARD.md",
        f"in {found['oir']} % ({found['oir as published']} % at weight 1); from one step for both objects in "
        f"{fixed[0]} to {fixed[-1]} %.",
    )


def figures_of_part_edits() -> Iterator[tuple[str, str]]:
    sixty, forty = evaluated("sixty generated parts"), evaluated("forty drawn parts")
    for shown, method in (
        ("ω 0.5", "partedit"),
        ("ω 0.5, source latent pasted back", "partedit with the source pasted back"),
        ("ω 0.7", "partedit, omega 0.7"),
        ("no blending", "prompt_to_prompt"),
    ):
        one = sixty[method]
        shares = f"{one['success % ↑']} % | {one['success, bg ≥ 20 dB % ↑']} %"
        yield "demo/MODEL_CARD.md", f"| {shown} | {shares} | {one['PSNR bg ↑']} dB | {one['SSIM bg ↑']} |"
    # ddim_current_timestep is what the demo's configuration sets.
    for shown in ("ddim_next_timestep", "ddim_current_timestep", "edit_friendly_ddpm", "ddim_fixed_point", "ledits_pp"):
        one = forty.get(f"partedit, inversion {shown}", forty["partedit"])
        shares = f"{one['success % ↑']} % | {one['success, bg ≥ 20 dB % ↑']} %"
        yield "demo/MODEL_CARD.md", f"| `{shown}` | {shares} | {one['PSNR bg ↑']} dB |"
    fifteen = evaluated("generated parts")
    auto, published = (fifteen[m]["success, bg ≥ 20 dB % ↑"] for m in ("partedit", "partedit, layers published"))
    for page in ("docs/partedit.md", "js/docs/PartAttentionMask/en.md"):
        yield page, f"{auto} % show the new colour and keep the rest on `auto`, {published} % on `published`"
    plain, pasted, free = (sixty[m] for m in ("partedit", "partedit with the source pasted back", "prompt_to_prompt"))
    yield (
        "docs/partedit.md",
        f"the demo model it has {plain['PSNR bg ↑']} dB and SSIM {plain['SSIM bg ↑']}; with the latent pasted back, "
        f"{pasted['PSNR bg ↑']} dB and {pasted['SSIM bg ↑']};",
    )
    changed, blended = (round(60 * int(one["success % ↑"]) / 100) for one in (free, plain))
    yield (
        "docs/partedit.md",
        f"the new colour in {changed} of 60 edits, but change everything else with it: {free['PSNR bg ↑']} dB and "
        f"SSIM {free['SSIM bg ↑']}. With blending it is {blended} of 60.",
    )


def figures_of_tokens() -> Iterator[tuple[str, str]]:
    curves, tokens, cost = result("token_curves"), result("part_tokens"), result("token_cost")
    mean = curves["mean"]
    counts = (1, 2, 5, 10, 20)
    row = " | ".join(f"{mean[f'token, {count} pictures']['adaptive']:.2f}" for count in counts)
    yield "docs/tokens.md", f"| IoU | {row} |"
    words = [one for name, one in mean.items() if "prompt" in name]
    best, otsu = (max(one[threshold] for one in words) for threshold in ("adaptive", "otsu"))
    for page in ("docs/tokens.md", "demo/MODEL_CARD.md"):
        yield page, f"reaches {best:.2f} at best ({otsu:.2f} with plain Otsu)."
    stretches = result("token_recipes")["mean"].values()
    paper, pack = (sum(one[name]["adaptive"] for one in stretches) / len(stretches) for name in ("paper", "pack"))
    page = "js/docs/TrainPartToken/en.md"
    yield page, f"`paper` is slightly ahead of `pack` on average ({paper:.3f} against {pack:.3f}, one training each)"
    through, cached = mean["through the UNet, the picture's queries"], mean["the same recipe on the cache"]
    yield "docs/tokens.md", f"reaches an IoU of {through['adaptive']:.2f}, on recorded queries {cached['adaptive']:.2f}"
    parts = {name: one["adaptive_0.5"] for name, one in tokens["tokens"].items()}
    measured = re.search(
        r"Part tokens: (mean IoU [\d.]+) \([^)]*\); ([^;]+);", text_of("bench/results/evaluate_demo.md")
    )
    assert measured is not None
    yield "demo/MODEL_CARD.md", f"{measured[1]} ({measured[2]})."
    yield (
        "docs/tokens.md",
        f"reach a mean IoU of {tokens['mean_iou_adaptive_mid']:.2f} on 100 held-out images each; the weakest is the "
        f"car hood with {min(parts.values()):.2f}",
    )
    later = cost["extrapolated"]
    yield (
        "docs/tokens.md",
        f"{later['seconds_caching_20_pictures']:.0f} s to record the queries, {later['seconds_2000_steps']:.0f} s for "
        f"2,000 steps, and {cost['measured']['cache_bytes_20_pictures'] / 1e9:.1f} GB of recorded queries, "
        f"{later['cache_bytes_20_pictures_at_full_width'] / 1e9:.1f} GB at full width",
    )
    levels, layers = 4, len(cost["measured"]["layers"])
    megabytes = later["cache_bytes_20_pictures_at_full_width"] / (20 * levels * layers) / 1e6
    yield "js/docs/TrainPartToken/en.md", f"the queries take about {megabytes:.1f} MB per image, level and layer."


def figures_of_load() -> Iterator[tuple[str, str]]:
    jobs = result("load")["jobs"]
    edits, searches = (max(one["megabytes"] for one in jobs[kind]) for kind in ("edits", "searches"))
    yield "docs/reliability.md", f"({edits} MB through the edits, {searches:,} MB through the searches)"


@pytest.mark.parametrize(
    "figures",
    [
        figures_of_searches,
        figures_of_object_edits,
        figures_of_two_colours,
        figures_of_part_edits,
        figures_of_tokens,
        figures_of_load,
    ],
    ids=lambda figures: figures.__name__,
)
def test_figures_in_the_guides_are_those_of_the_results(figures):
    for page, expected in figures():
        assert expected in " ".join(text_of(page).split()), page
