#!/usr/bin/env python3
"""One command for everything around the pack: python3 run.py demo | serve | test | bench | train-tokens | evaluate ...

Needs only Python 3.10 or newer. The first call sets up a private environment with its own ComfyUI in the folder
.runtime (a few GB); later calls start at once. To use your own ComfyUI instead, set COMFYUI_PATH to its folder and
COMFYUI_PYTHON to its Python (default: the one that runs this file). Nothing is installed into it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import webbrowser
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036 - users may start it with any Python
    sys.exit("run.py needs Python 3.10 or newer; this is " + sys.version.split()[0])

from tools.host import existing
from tools.host.archives import FLOOR
from tools.host.layout import (
    PACK_DIR,
    Host,
    SetupError,
    end_cleanly_when_told_to_stop,
    module_command,
    whole_file,
)
from tools.host.link import link_pack
from tools.host.provision import prepare_private
from tools.host.server import Server, ServerError
from tools.owner import set_owner


def pick_host(modules: dict[str, str], floor: bool = False) -> Host:
    """The user's ComfyUI if COMFYUI_PATH is set, else the private one, set up as needed; with the pack linked into it.

    Raises:
        SetupError: it cannot be used or set up.
    """
    named = os.environ.get("COMFYUI_PATH")
    if named and floor:
        raise SetupError("--floor uses its own private ComfyUI. Unset COMFYUI_PATH, or drop --floor.")
    host = existing.existing_host(Path(named).expanduser(), modules) if named else prepare_private(floor)
    link_pack(host)
    return host


def run_module(host: Host, module: str, arguments: list[str]) -> int:
    """Run a module of this repository with the host's Python; returns its exit code."""
    return run_python(host, module_command(module, arguments))


def run_python(host: Host, arguments: list[str]) -> int:
    """Run the host's Python in the repository, with COMFYUI_PATH set; returns its exit code."""
    environment = dict(os.environ, COMFYUI_PATH=str(host.root), PYTHONIOENCODING="utf-8")
    process = subprocess.Popen([str(host.python), *arguments], cwd=PACK_DIR, env=environment)
    try:
        return process.wait()
    except BaseException as reason:
        # Ctrl-C in the terminal reaches it too; a kill of this program does not.
        if not isinstance(reason, KeyboardInterrupt):
            process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGINT)
        wait_or_end(process)
        raise


def wait_or_end(process: subprocess.Popen[bytes], patience: float = 20.0) -> None:
    """Wait for a process that was asked to stop; force it if it takes too long or the user presses Ctrl-C again."""
    for force in (process.terminate, process.kill):
        try:
            process.wait(timeout=patience)
            return
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            force()
    process.wait()


# The module each command runs with the host's Python, and the benchmarks of bench/ with their descriptions.
PROGRAMS = {
    "demo": "tools.demo_edits.make",
    "parity": "tools.parity.compare",
    "train-tokens": "tools.train_tokens.run",
    "evaluate": "tools.evaluate.run",
    "templates": "tools.templates.write",
    "style": "tools.style",
}
BENCHMARKS = {
    "cost": "what the methods cost beyond the UNet rows that they cannot avoid, as ratios",
    "flow_edits": "two-object edits on the demo's network as a rectified flow",
    "full_size": "the SDXL templates on a checkpoint of full size with drawn weights: time and memory",
    "load": "memory, threads and files of a server over hundreds of jobs",
    "object_edits": "two-object edits: OIR compared with other methods, and the step search",
    "object_limits": "two-object edits: what limits OIR's success, candidate by candidate",
    "object_search": "the step search's strategies: rows and share of the best S, with 10, 25 and 50 steps",
    "part_tokens": "how well the demo's tokens find their parts",
    "real_images": "part edits of real images, by inversion method",
    "token_cost": "memory and time of token training at SDXL's size",
    "token_curves": "how tokens depend on number of images, layers, noise levels and training",
    "token_recipes": "the paper's training recipe compared with the pack's, on the demo's parts",
}


def demo(options: argparse.Namespace) -> int:
    host = pick_host(existing.RUN_MODULES)
    arguments = ["--output", str(Path(options.output).absolute()), *(["--cpu"] if options.cpu else [])]
    return run_module(host, PROGRAMS["demo"], arguments)


def test(options: argparse.Namespace) -> int:
    host = pick_host(existing.TEST_MODULES, options.floor)
    chosen = [f"--{name}" for name in ("fast", "soak") if getattr(options, name)]
    arguments = [*chosen, *options.arguments]
    named = any((PACK_DIR / argument.split("::")[0]).exists() for argument in arguments)
    alone = options.floor or options.soak or named or {"-n", "-s", "--pdb", "--trace"} & set(arguments)
    if not alone and (os.cpu_count() or 1) > 1:
        # Each worker has files, and where they need one a server, of its own (pytest-xdist). There is one worker
        # more than cores, because tests of the editor wait for the page, and those of servers for the server. With two
        # more, two cores took longer.
        # In their own order: by default, files with few tests come last, and those are the long ones.
        workers = ["-n", str(min(4, (os.cpu_count() or 1) + 1)), "--dist", "loadfile", "--no-loadscope-reorder"]
        arguments = [*workers, *arguments]
    if options.floor and not named:
        # The oldest host only has to show that the pack loads and runs there; the other tests need not run twice.
        arguments = ["tests/host", *arguments]
    return run_python(host, ["-m", "pytest", *arguments])


def serve(options: argparse.Namespace) -> int:
    host = pick_host(existing.RUN_MODULES)
    offer_pictures(host)
    templates = link_pack(host)
    cpu = options.cpu or not existing.has_accelerator(host.python)
    print("starting ComfyUI ...", flush=True)
    with Server(host, cpu=cpu, private=False) as server:
        server.start(port=options.port)
        print(f"the editor is at {server.base_url}  (templates: Workflow > Browse Templates > {templates})")
        print(f"its log: {server.log}\nPress Ctrl-C to stop it.", flush=True)
        # Without a display, some systems open a browser that takes over the terminal.
        screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        if screen and not options.no_browser:
            webbrowser.open(server.base_url)
        assert server.process is not None
        code = server.process.wait()
        print(server.tail(), file=sys.stderr)
        return code


def offer_pictures(host: Host) -> None:
    """Copy the templates' example images into the host's input folder, without overwriting anything."""
    folder = host.root / "input"
    folder.mkdir(exist_ok=True)
    for picture in sorted((PACK_DIR / "workflows" / "input").iterdir()):
        target = folder / picture.name
        if picture.is_file() and not target.exists():
            with whole_file(target) as partial:
                shutil.copyfile(picture, partial)
            print(f"example image for the templates: {target}")


def parity(options: argparse.Namespace) -> int:
    folder = Path(options.folder).absolute()
    if not folder.is_dir():
        raise SetupError(f"{folder} is not a folder. Give a folder of golden cases (NAME.json with NAME.safetensors).")
    return run_module(pick_host(existing.RUN_MODULES), PROGRAMS["parity"], [str(folder)])


def templates(options: argparse.Namespace) -> int:
    arguments = [*options.names, *(["--no-run"] if options.no_run else [])]
    return run_module(pick_host(existing.RUN_MODULES), PROGRAMS["templates"], arguments)


def bench(options: argparse.Namespace) -> int:
    if options.name is None:
        width = max(map(len, BENCHMARKS))
        print("\n".join(f"{name:{width}}  {what}" for name, what in BENCHMARKS.items()))
        print("\nrun.py bench NAME --help shows the options of one.")
        return 0
    if options.name not in BENCHMARKS:
        hint = " Give the benchmark first, then its options." if options.arguments else ""
        raise SetupError(f"no benchmark {options.name!r}.{hint} Benchmarks: {', '.join(BENCHMARKS)}.")
    arguments = [*options.arguments, *(["--help"] if options.help else [])]
    return run_module(pick_host(existing.TEST_MODULES), f"bench.{options.name}", arguments)


def train_tokens(options: argparse.Namespace) -> int:
    config = Path(options.config).absolute()
    if not config.is_file():
        raise SetupError(f"{config} is not a file. Give a YAML file that lists the tokens to train.")
    host = pick_host({**existing.RUN_MODULES, "pydantic": "pydantic", "yaml": "pyyaml"})
    arguments = [f"--{name}" for name in ("no-ray", "cpu") if vars(options)[name.replace("-", "_")]]
    return run_module(host, PROGRAMS["train-tokens"], [str(config), *arguments])


def evaluate(options: argparse.Namespace) -> int:
    switches = ("demo", "quick", "token", "plan", "no-ray", "cpu")
    arguments = [f"--{name}" for name in switches if vars(options)[name.replace("-", "_")]]
    if options.config is not None:
        config = Path(options.config).absolute()
        if not config.is_file():
            raise SetupError(f"{config} is not a file. Give a YAML file that says what to evaluate, or --demo.")
        arguments.append(str(config))
    if options.output is not None:
        arguments += ["--output", str(Path(options.output).absolute())]
    for address in options.server:
        arguments += ["--server", address]
    if options.rows_per_second is not None:
        arguments += ["--rows-per-second", options.rows_per_second]
    host = pick_host({**existing.RUN_MODULES, "pydantic": "pydantic", "yaml": "pyyaml"})
    return run_module(host, PROGRAMS["evaluate"], arguments)


def style(options: argparse.Namespace) -> int:
    return run_module(pick_host(existing.STYLE_MODULES), PROGRAMS["style"], options.names)


def owner(options: argparse.Namespace) -> int:
    changed = set_owner(options.owner, options.publisher)
    print("\n".join(str(path.relative_to(PACK_DIR)) for path in changed) or "nothing to change")
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="run.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    one = commands.add_parser("demo", help="a tour of the product with the demo model; open output/demo/index.html")
    one.add_argument(
        "--output", default=str(PACK_DIR / "output" / "demo"), help="folder for the images and report.json"
    )
    one.add_argument("--cpu", action="store_true", help="do not use a GPU")
    one.set_defaults(work=demo)

    one = commands.add_parser("test", help="run the tests; --fast: only the quick ones. Other arguments go to pytest")
    which = one.add_mutually_exclusive_group()
    which.add_argument("--fast", action="store_true", help="no server, no browser, nothing slow: under 3 minutes")
    which.add_argument("--soak", action="store_true", help="only the long runs of tests/soak, which are left out else")
    which.add_argument("--floor", action="store_true", help=f"the host tests on ComfyUI {FLOOR.version}")
    one.set_defaults(work=test)

    one = commands.add_parser("serve", help="open the editor with the pack loaded")
    one.add_argument("--no-browser", action="store_true", help="only print the address")
    one.add_argument("--port", type=int, default=0, help="default: a free one")
    one.add_argument("--cpu", action="store_true", help="do not use a GPU")
    one.set_defaults(work=serve)

    one = commands.add_parser("parity", help="compare with a folder of golden cases")
    one.add_argument("folder", metavar="DIR")
    one.set_defaults(work=parity)

    # Its --help is the benchmark's own.
    one = commands.add_parser("bench", help="run a benchmark; without a name, list them", add_help=False)
    one.add_argument("name", nargs="?")
    one.add_argument("-h", "--help", action="store_true")
    one.set_defaults(work=bench)

    one = commands.add_parser("templates", help="rebuild the workflow templates")
    one.add_argument("names", nargs="*", metavar="NAME", help="only these")
    one.add_argument("--no-run", action="store_true", help="keep the thumbnails")
    one.set_defaults(work=templates)

    one = commands.add_parser("train-tokens", help="train several part tokens from one config file")
    one.add_argument("config", metavar="CONFIG.yaml")
    one.add_argument("--no-ray", action="store_true", help="run on this machine even if the file has a 'ray' entry")
    one.add_argument("--cpu", action="store_true", help="do not use a GPU")
    one.set_defaults(work=train_tokens)

    one = commands.add_parser("evaluate", help="methods on data: pictures, metrics, and a table beside the papers'")
    one.add_argument("config", metavar="CONFIG.yaml", nargs="?")
    one.add_argument("--demo", action="store_true", help="the demo model on its own world, instead of a file")
    one.add_argument("--quick", action="store_true", help="with --demo: few edits and steps, under 3 minutes")
    one.add_argument("--token", action="store_true", help="with --demo: studies of a part's token, instead of edits")
    one.add_argument("--plan", action="store_true", help="only show what would run: pictures, UNet rows, hours")
    one.add_argument("--output", metavar="DIR", help="folder for everything, instead of the file's")
    one.add_argument("--server", action="append", default=[], metavar="ADDRESS", help="use this server; repeatable")
    one.add_argument("--rows-per-second", metavar="N", help="UNet rows per second, for the hours of --plan")
    one.add_argument("--no-ray", action="store_true", help="run on this machine even if the file has a 'ray' entry")
    one.add_argument("--cpu", action="store_true", help="do not use a GPU")
    one.set_defaults(work=evaluate)

    one = commands.add_parser("style", help="ruff and mypy, as the tests run them")
    one.add_argument("names", nargs="*", metavar="NAME", help="any of rules, format and types; without one, all")
    one.set_defaults(work=style)

    one = commands.add_parser("owner", help="before publishing: set the repository's owner in all files")
    one.add_argument("owner", metavar="NAME", help="the GitHub account or organisation")
    one.add_argument("publisher", metavar="PUBLISHER", nargs="?", help="id at registry.comfy.org; default: NAME")
    one.set_defaults(work=owner)
    return top


# These pass arguments they do not know on to the program they start: pytest, or the benchmark.
FORWARDING = {"test", "bench"}


def main(arguments: list[str]) -> int:
    top = parser()
    options, rest = top.parse_known_args(arguments)
    if rest and options.command not in FORWARDING:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    options.arguments = rest
    try:
        return options.work(options)
    except (SetupError, ServerError, OSError) as error:
        print(f"\nrun.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    end_cleanly_when_told_to_stop()
    sys.exit(main(sys.argv[1:]))
