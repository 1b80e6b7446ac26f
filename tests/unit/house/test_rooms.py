"""Which room may know which: a line of code should have one place where it belongs, so that a change finds it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
PACK = "partedit_oir"  # the name that the pack is imported under outside ComfyUI
ROOMS = ("core", "nodes", "demo", "tools", "bench")

# What core takes from the host: sampling, the model patcher and what lies around it, and how it reads a prompt.
# folder_paths, server, nodes, comfy_api and the like belong to nodes/, so that core runs without a server.
CORE_MAY_IMPORT = {
    "comfy.clip_vision",
    "comfy.hooks",
    "comfy.k_diffusion",
    "comfy.ldm.modules.attention",
    "comfy.model_management",
    "comfy.model_patcher",
    "comfy.model_sampling",
    "comfy.patcher_extension",
    "comfy.sample",
    "comfy.sampler_helpers",
    "comfy.samplers",
    "comfy.sd1_clip",
    "comfy.utils",
}
# Modules of the host besides comfy itself, by their first name.
HOST = {"comfy_api", "comfy_api_nodes", "comfy_config", "comfy_execution", "comfy_extras", "app", "api_server"}
HOST |= {"execution", "folder_paths", "latent_preview", "node_helpers", "nodes", "server", "utils", "cuda_malloc"}

# Nodes pass tensors on, join and count them; what computes with their values is a method and belongs to core/.
NODES_MAY_USE = {"Tensor", "nn.Module", "cat", "stack", "empty", "zeros", "device", "dtype"}
MATHS_MODULES = {"math", "numpy", "kornia", "skimage", "scipy"}
MATHS = set(
    "softmax sigmoid interpolate matmul bmm einsum conv2d mean std var exp log sqrt pow norm amin amax argmax argmin "
    "quantile histc cumsum topk clamp where lerp max_pool2d avg_pool2d".split()
)


def python_files() -> Iterator[Path]:
    yield REPOSITORY / "__init__.py"
    yield REPOSITORY / "run.py"
    for room in ROOMS:
        yield from sorted((REPOSITORY / room).rglob("*.py"))


def name_of(path: Path) -> str:
    """Dotted name of a file from the repository's folder on; packages go by their folder's, the root by ""."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in python_files()}
PACKAGES = {name_of(path) for path in python_files() if path.name == "__init__.py"}


def imported(module: str) -> set[str]:
    """Dotted names that a module imports, inside functions too; its own code by its place in the repository."""
    found: set[str] = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                own = module.split(".") if module else []
                above = own[: len(own) - node.level + (module in PACKAGES)]
                base = ".".join([*above, *filter(None, [base])])
            # "from package import module" means the module.
            found |= {name if (name := f"{base}.{a.name}".lstrip(".")) in TREES else base for a in node.names}
    return {name.removeprefix(f"{PACK}.") for name in found} - {module}


IMPORTS = {module: imported(module) for module in TREES}


def room(module: str) -> str:
    """The room of a module or of what it imports. What of demo/ made the model is a room of its own."""
    return "demo.training" if module.startswith("demo.training") else module.split(".")[0]


def arrows(sources: set[str], targets: set[str]) -> list[str]:
    """Imports from rooms into rooms."""
    return [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in sorted(names)
        if room(module) in sources and room(name) in targets
    ]


def test_the_graph_sees_what_is_there():
    """Every rule below would hold for a graph without arrows."""
    assert "core.attention" in IMPORTS["core.partedit.wrappers"] and "nodes" in IMPORTS[""]
    assert "core.training.training" in IMPORTS["nodes.train_part_token"], "from a package above"
    assert "demo.loader" in IMPORTS["nodes.demo_model"]
    assert "demo.loader" in IMPORTS["demo.training.studio"], "inside a function, under the pack's name"
    assert "tools.bootstrap" in IMPORTS["demo.training.studio"]
    assert "nodes.blend_inputs" in IMPORTS["nodes.mask"]


def test_what_ships_needs_nothing_that_does_not():
    """Tools, benchmarks, tests and the training of the demo model are not in the package that users install."""
    assert not arrows({"", "nodes", "core", "demo"}, {"tools", "bench", "tests", "support", "demo.training", "run"})


def test_core_knows_no_nodes():
    """The methods run and are tested without a graph; nodes/ is their user."""
    assert not arrows({"core", "demo"}, {"nodes", ""})


def test_benchmarks_and_tools_do_not_lean_on_tests():
    """A test double must not reach a figure or a product; and tools serve benchmarks, not the other way round."""
    assert not arrows({"bench", "tools", "demo.training"}, {"tests", "support"})
    assert not arrows({"tools", "demo.training"}, {"bench"})


def test_what_starts_the_host_is_the_ground_of_everything_that_does_not_ship():
    """run.py imports tools.host before there is an environment, and every other program begins with tools.bootstrap."""
    ground = {name for name in TREES if name == "tools.bootstrap" or name.startswith("tools.host")}
    above = {name: names & TREES.keys() - ground for name, names in IMPORTS.items() if name in ground}
    assert len(ground) > 6 and not any(above.values()), above


def test_core_takes_the_model_patcher_and_its_neighbours_from_the_host_and_nothing_else():
    foreign = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in sorted(names)
        if room(module) == "core"
        and (name.split(".")[0] in HOST - {"nodes"} or (name.split(".")[0] == "comfy" and name not in CORE_MAY_IMPORT))
    ]
    assert not foreign


def maths_in(tree: ast.AST) -> Iterator[str]:
    """Computation with tensors, with its line."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Attribute) and (text := ast.unparse(node)).startswith("torch."):
            used = text.removeprefix("torch.")
            if not any(f"{allowed}.".startswith(f"{used}.") for allowed in NODES_MAY_USE):
                yield f"{line}: torch.{used}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MATHS:
            yield f"{line}: {node.func.attr}()"
        # Limits of inputs such as 2**32 are no maths.
        powers = (ast.MatMult, ast.Pow)
        if isinstance(node, ast.BinOp) and isinstance(node.op, powers) and not isinstance(node.left, ast.Constant):
            yield f"{line}: {ast.unparse(node)}"
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or ""]
        yield from (
            f"{line}: {name}" for name in modules if name.split(".")[0] in ("math", "numpy", "kornia", "skimage")
        )
        yield from (f"{line}: {name}" for name in modules if name.startswith("torch."))


def test_nodes_know_types_and_no_maths():
    """A formula in a node could be neither used nor tested without ComfyUI's types around it."""
    assert not [f"{m}, {found}" for m, tree in TREES.items() if room(m) == "nodes" for found in maths_in(tree)]
    for code in (
        "torch.softmax(x, 1)",
        "x.sigmoid()",
        "a @ b",
        "x**2",
        "import torch.nn.functional as F",
        "import math",
    ):
        assert list(maths_in(ast.parse(code))), code
    assert not list(maths_in(ast.parse("torch.nn.Module; torch.cat([a]); 2**32 - 1; x.any(dim=0).float()")))


def circle_in(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first again at the end; empty when there is none."""
    done: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for name in sorted(imports[module] & imports.keys()):
                if found := search(name, [*path, module]):
                    return found
            done.add(module)
        return []

    return next((found for module in imports if (found := search(module, []))), [])


def test_imports_go_in_no_circle():
    """Modules in a circle can only be understood, tested and moved together."""
    assert not circle_in(IMPORTS)
    assert circle_in({"a": {"b", "x"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
