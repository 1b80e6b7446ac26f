"""run.py owner, on a copy of the files that name the owner."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.host.layout import SetupError
from tools.owner import set_owner

REPOSITORY = Path(__file__).resolve().parents[3]
ENDINGS = (".md", ".toml", ".yml", ".yaml")


@pytest.fixture
def copy(tmp_path):
    """A copy of every text of the repository that a reader or the registry sees."""
    for top in [*REPOSITORY.iterdir()]:
        if top.name in (".github", "docs", "demo", "js", "tokens", "bench"):
            shutil.copytree(top, tmp_path / top.name, ignore=lambda folder, names: [n for n in names if is_large(n)])
        elif top.suffix in ENDINGS and top.is_file():
            shutil.copyfile(top, tmp_path / top.name)
    return tmp_path


def is_large(name: str) -> bool:
    return "." in name and not name.endswith(ENDINGS)


def texts(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_no_placeholder_is_left(copy):
    before = texts(copy)
    changed = set_owner("octo-cat", "octopus", copy)
    after = texts(copy)
    assert {path.relative_to(copy).as_posix() for path in changed} == {n for n in after if after[n] != before[n]}
    assert {"pyproject.toml", "README.md"} <= {path.relative_to(copy).as_posix() for path in changed}
    assert [name for name, text in after.items() if "/OWNER/" in text or '"OWNER"' in text or "`OWNER`" in text] == []
    project = after["pyproject.toml"]
    assert 'Repository = "https://github.com/octo-cat/ComfyUI-PartEdit-OIR"\n' in project
    assert 'Icon = "https://raw.githubusercontent.com/octo-cat/ComfyUI-PartEdit-OIR/main/' in project
    assert 'PublisherId = "octopus"\n' in project
    assert "git clone https://github.com/octo-cat/ComfyUI-PartEdit-OIR\n" in after["README.md"]
    # Nothing but the addresses, the publisher and the note on the placeholder.
    for name, text in before.items():
        lines = zip(text.splitlines(), after[name].splitlines())
        assert len(text.splitlines()) - len(after[name].splitlines()) in ((0, 1) if name == "README.md" else (0,))
        if name == "pyproject.toml":
            assert all(old == new or "octo" in new for old, new in lines)


def test_an_owner_that_was_set_is_replaced(copy):
    set_owner("octo-cat", "octopus", copy)
    set_owner("someone", None, copy)
    project = (copy / "pyproject.toml").read_text(encoding="utf-8")
    assert "octo" not in project and project.count("github.com/someone/") == 3 and 'PublisherId = "someone"' in project
    assert "github.com/someone/ComfyUI" in (copy / "README.md").read_text(encoding="utf-8")
    assert set_owner("someone", None, copy) == []


def test_other_people_s_addresses_stay(copy):
    (copy / "docs" / "more.md").write_text(
        "https://github.com/friend/ComfyUI-PartEdit-OIR https://github.com/OWNER/Other https://github.com/OWNER/ComfyUI"
    )
    before = (copy / "docs" / "more.md").read_text()
    set_owner("octo-cat", None, copy)
    assert (copy / "docs" / "more.md").read_text() == before


@pytest.mark.parametrize(
    "owner, publisher, words",
    [
        ("https://github.com/me", None, "not a GitHub account"),
        ("-me", None, "not a GitHub account"),
        ("a" * 40, None, "not a GitHub account"),
        ("", None, "not a GitHub account"),
        ("me", 'x"\nname = "y', "not a publisher id"),
    ],
)
def test_names_that_cannot_be_are_refused(copy, owner, publisher, words):
    before = texts(copy)
    with pytest.raises(SetupError, match=words):
        set_owner(owner, publisher, copy)
    assert texts(copy) == before


def test_the_command_refuses_them_too():
    command = [sys.executable, "-S", str(REPOSITORY / "run.py"), "owner", "not/a/name"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is not a GitHub account" in done.stderr and "Traceback" not in done.stderr
