#!/usr/bin/env python3
"""One command for everything around the pack: python3 run.py demo | test | serve | parity | bench | train-tokens

Needs nothing but Python 3.10 or newer. The first call makes a private environment with its own ComfyUI in the
folder .runtime (a few GB); later calls start at once. With COMFYUI_PATH set to a ComfyUI of yours that one is
used instead, with its own python (the one that runs this file, or COMFYUI_PYTHON), and nothing is installed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import webbrowser
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036 - the reader may start it with any python
    sys.exit("run.py needs Python 3.10 or newer; this is " + sys.version.split()[0])

from bench.host import existing
from bench.host.archives import FLOOR
from bench.host.layout import PACK_DIR, Host, SetupError
from bench.host.link import link_pack
from bench.host.provision import prepare_private
from bench.host.server import Server, ServerError


def pick_host(modules: dict[str, str], floor: bool = False) -> Host:
    """The user's ComfyUI when COMFYUI_PATH is set, else the private one, made as needed; the pack linked in.

    Raises:
        SetupError: neither can be used.
    """
    named = os.environ.get("COMFYUI_PATH")
    host = existing.existing_host(Path(named).expanduser(), modules) if named else prepare_private(floor)
    link_pack(host)
    return host


def run_python(host: Host, arguments: list[str], extra: dict[str, str] | None = None) -> int:
    """Run the host's python in the repository, with COMFYUI_PATH set; gives back its exit code."""
    environment = dict(os.environ, COMFYUI_PATH=str(host.root), PYTHONIOENCODING="utf-8", **(extra or {}))
    process = subprocess.Popen([str(host.python), *arguments], cwd=PACK_DIR, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # Ctrl-C reaches the child as well; it stops its server and ends. A second one is not waited for.
            try:
                process.wait(timeout=30)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                process.kill()
            raise
        except SystemExit:
            process.terminate()
            process.wait(timeout=30)
            raise


def program(name: str) -> str:
    """The module of a program under bench/ (a file, or a folder with __main__.py).

    Raises:
        SetupError: there is none of that name; lists those there are.
    """
    known = programs()
    if name not in known:
        raise SetupError(f"there is no benchmark {name!r}; there are: {', '.join(sorted(known)) or 'none'}")
    return known[name]


def programs() -> dict[str, str]:
    """Name to module of everything under bench/ that can be run."""
    found: dict[str, str] = {}
    folder = PACK_DIR / "bench"
    for path in [*folder.glob("*.py"), *folder.glob("*/__main__.py")]:
        name = path.parent.name if path.name == "__main__.py" else path.stem
        if "__main__" in path.read_text(encoding="utf-8"):
            found[name] = f"bench.{name}"
    return found


def demo(options: argparse.Namespace) -> int:
    host = pick_host(existing.RUN_MODULES)
    arguments = ["-m", "bench.host.demo", "--output", str(Path(options.output).absolute())]
    return run_python(host, arguments + (["--cpu"] if options.cpu else []))


def test(options: argparse.Namespace) -> int:
    host = pick_host(existing.TEST_MODULES, options.floor)
    arguments = list(options.arguments)
    if options.floor and not any(Path(argument.split("::")[0]).exists() for argument in arguments):
        # The oldest host proves that the pack loads and runs there; what does not touch it need not run twice.
        arguments = ["tests/host", *arguments]
    return run_python(host, ["-m", "pytest", *arguments])


def serve(options: argparse.Namespace) -> int:
    host = pick_host(existing.RUN_MODULES)
    cpu = options.cpu or not existing.has_accelerator(host.python)
    print("starting ComfyUI ...", flush=True)
    with Server(host, cpu=cpu, private=False) as server:
        server.start()
        print(f"the editor is at {server.base_url}  (templates: Workflow > Browse Templates > {PACK_DIR.name})")
        print("Ctrl-C ends it.", flush=True)
        if not options.no_browser:
            webbrowser.open(server.base_url)
        assert server.process is not None
        code = server.process.wait()
        print(server.tail(), file=sys.stderr)
        return code


def parity(options: argparse.Namespace) -> int:
    folder = Path(options.folder).absolute()
    if not folder.is_dir():
        raise SetupError(f"{folder} is no folder; give a folder of golden cases (NAME.json with NAME.safetensors)")
    return run_python(pick_host(existing.RUN_MODULES), ["-m", program("parity"), str(folder), *options.arguments])


def bench(options: argparse.Namespace) -> int:
    if options.name is None:
        print("benchmarks: " + ", ".join(sorted(programs())))
        return 0
    return run_python(pick_host(existing.TEST_MODULES), ["-m", program(options.name), *options.arguments])


def train_tokens(options: argparse.Namespace) -> int:
    config = Path(options.config).absolute()
    if not config.is_file():
        raise SetupError(f"{config} is no file; give a YAML file that lists the tokens to train")
    host = pick_host(existing.RUN_MODULES)
    return run_python(host, ["-m", program("train_tokens"), str(config), *options.arguments])


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="run.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    one = commands.add_parser("demo", help="edit pictures with the bundled model; results in output/demo")
    one.add_argument("--output", default=str(PACK_DIR / "output" / "demo"), help="folder for pictures and report.json")
    one.add_argument("--cpu", action="store_true", help="do not use a GPU")
    one.set_defaults(work=demo)

    one = commands.add_parser("test", help="run the tests; further arguments go to pytest")
    one.add_argument("--floor", action="store_true", help=f"the host tests on ComfyUI {FLOOR.version}")
    one.set_defaults(work=test)

    one = commands.add_parser("serve", help="open the editor with the pack loaded")
    one.add_argument("--no-browser", action="store_true", help="only print the address")
    one.add_argument("--cpu", action="store_true", help="do not use a GPU")
    one.set_defaults(work=serve)

    one = commands.add_parser("parity", help="compare with a folder of golden cases")
    one.add_argument("folder", metavar="DIR")
    one.set_defaults(work=parity)

    one = commands.add_parser("bench", help="run one benchmark; without a name: list them")
    one.add_argument("name", nargs="?")
    one.set_defaults(work=bench)

    one = commands.add_parser("train-tokens", help="train several part tokens from one file")
    one.add_argument("config", metavar="CONFIG.yaml")
    one.set_defaults(work=train_tokens)
    return top


# These hand what they do not know themselves to the program that they start.
FORWARDING = {"test", "parity", "bench", "train-tokens"}


def main(arguments: list[str]) -> int:
    top = parser()
    options, rest = top.parse_known_args(arguments)
    if rest and options.command not in FORWARDING:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    options.arguments = rest
    try:
        return options.work(options)
    except (SetupError, ServerError) as error:
        print(f"\nrun.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    # A plain kill must stop the server as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
