"""What the code has to look like: ruff's rules, ruff's format and mypy's types, with the settings of pyproject.toml.

    python3 run.py style [NAME ...]

The tests and the hooks of .pre-commit-config.yaml run the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from .host.layout import PACK_DIR

# Checked under the name that the pack is imported by: the folder's own name is no module name.
PACKAGES = ("nodes", "core", "demo", "tools", "bench")
CHECKS: dict[str, list[str]] = {
    "rules": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy", "--config-file", str(PACK_DIR / "pyproject.toml"), "--namespace-packages"]
    + [part for name in PACKAGES for part in ("-p", f"partedit_oir.{name}")]
    + ["-m", "partedit_oir", "-m", "partedit_oir.run"],
}


def check(name: str) -> subprocess.CompletedProcess[str]:
    """Run one of `CHECKS` with this interpreter's ruff or mypy; its output is captured."""
    environment = dict(os.environ)
    if name == "types":
        # The link keeps its place from run to run, because mypy's cache remembers paths.
        folder = PACK_DIR / ".mypy_cache" / "link"
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / "partedit_oir"
        link.unlink(missing_ok=True)
        link.symlink_to(PACK_DIR, target_is_directory=True)
        environment["MYPYPATH"] = str(folder)
    command = [sys.executable, "-m", *CHECKS[name]]
    return subprocess.run(command, cwd=PACK_DIR, env=environment, capture_output=True, text=True, check=False)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="run.py style", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(CHECKS)}; without one, all")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in CHECKS]
    if unknown:
        parser.error(f"no check {unknown[0]!r}. Checks: {', '.join(CHECKS)}.")
    failed = False
    for name in options.names or CHECKS:
        done = check(name)
        print(f"{name}: {'ok' if done.returncode == 0 else 'failed'}", flush=True)
        if done.returncode:
            print(done.stdout + done.stderr, flush=True)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
