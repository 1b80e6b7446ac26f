"""Servers that are stopped with their children, die, hang or lose their owner, and run.py around them."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from tools.demo_edits import make as demo
from tools.host import client as client_module
from tools.host import server as server_module
from tools.host.client import Client
from tools.host.layout import LINK_NAME, Host
from tools.host.server import Server, ServerError, free_port

REPOSITORY = Path(__file__).resolve().parents[3]
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and scripts")
linux = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at /proc")

# Answers on the port it is given, and has a child of its own, as a server with worker processes.
FAKE = """
    import http.server, os, subprocess, sys
    port = int(sys.argv[sys.argv.index("--port") + 1])
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
        def log_message(self, *_):
            pass
    listener = http.server.HTTPServer(("127.0.0.1", port), Handler)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("pids", os.getpid(), child.pid, "end", flush=True)
    listener.serve_forever()
"""


def running(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().split(")")[1].split()[0] != "Z"


def pids(text: str) -> list[int]:
    return [int(word) for word in text.split("pids ")[1].split(" end")[0].split()]


def wait_for(condition, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


@linux
def test_a_server_is_stopped_with_its_children(tmp_path, make_host):
    with Server(make_host(tmp_path / "host", FAKE), cpu=True) as server:
        server.start(limit=60)
        started = pids(server.tail())
        assert len(started) == 2 and all(map(running, started))
    assert wait_for(lambda: not any(map(running, started)))
    assert not server.folder.exists()


@linux
def test_a_server_ends_when_its_owner_is_killed_hard(tmp_path, make_host):
    host = make_host(tmp_path / "host", FAKE)
    code = (
        "import sys, time; from pathlib import Path; from tools.host.layout import Host\n"
        "from tools.host.server import Server\n"
        f"server = Server(Host(Path({str(host.root)!r}), Path(sys.executable), False), cpu=True)\n"
        "server.start(limit=60); print(server.folder, '|', server.tail(), flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    folder, text = owner.stdout.readline().split(" | ")
    started = pids(text)
    assert all(map(running, started)) and Path(folder).is_dir()
    owner.kill()
    owner.communicate()
    assert wait_for(lambda: not any(map(running, started)) and not Path(folder).exists())


@linux
def test_a_server_that_ignores_being_told_to_stop_is_killed(tmp_path, make_host, monkeypatch):
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    host = make_host(tmp_path / "host")
    (host.root / "main.py").write_text(stubborn + "\n".join(line[4:] for line in FAKE.splitlines()))
    monkeypatch.setattr(server_module, "PATIENCE", -4.0)
    with Server(host, cpu=True) as server:
        server.start(limit=60)
        started = pids(server.tail())
    assert wait_for(lambda: not any(map(running, started)))


@linux
def test_a_server_ends_with_its_keeper(tmp_path, make_host):
    """Ray ends a lost worker's children by force, and with them the keeper."""
    with Server(make_host(tmp_path / "host", FAKE), cpu=True) as server:
        server.start(limit=60)
        main = pids(server.tail())[0]
        os.kill(server.process.pid, signal.SIGKILL)
        assert wait_for(lambda: not running(main))


def test_a_server_that_dies_shows_its_last_words(tmp_path, make_host):
    host = make_host(tmp_path / "host", "raise SystemExit('models folder is on fire')")
    with Server(host, cpu=True) as server, pytest.raises(ServerError, match="models folder is on fire"):
        server.start(limit=60)


def test_a_server_that_never_answers_is_given_up(tmp_path, make_host):
    host = make_host(tmp_path / "host", "import time; print('thinking', flush=True); time.sleep(600)")
    with Server(host, cpu=True) as server, pytest.raises(ServerError, match=r"no answer within 2 s(.|\n)*thinking"):
        server.start(limit=2)


def test_the_server_gets_private_folders_and_no_other_custom_nodes(tmp_path, make_host):
    with Server(make_host(tmp_path / "host"), cpu=True, pack_name="Pack") as server:
        command = server.command(free_port())
        for name in ("user", "input", "output", "temp"):
            place = Path(command[command.index(f"--{name}-directory") + 1])
            assert place.is_dir() and place.parent == server.folder
        assert command[command.index("--whitelist-custom-nodes") + 1] == "Pack" and "--cpu" in command
        assert command[command.index("--listen") + 1] == "127.0.0.1"


def test_another_port_is_tried_when_a_free_one_was_taken_meanwhile(tmp_path, make_host, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1], free_port()]
        monkeypatch.setattr(server_module, "free_port", lambda: ports.pop(0))
        with Server(make_host(tmp_path / "host", FAKE), cpu=True) as server:
            # A taken port does not answer, so this also waits for the end of the first process.
            server.start(limit=60)
            assert not ports and server.alive()


def test_a_port_that_was_asked_for_is_not_exchanged_for_another(tmp_path, make_host):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Server(make_host(tmp_path / "host", FAKE), cpu=True)
        with server, pytest.raises(ServerError, match="in use"):
            server.start(limit=60, port=taken.getsockname()[1])


def test_a_server_that_hangs_in_the_middle_is_given_up(monkeypatch):
    class Silent:
        def __init__(self, _address):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def receive(self, timeout):
            raise TimeoutError

    def no_answer(*_):
        raise TimeoutError("timed out")

    client = Client("http://127.0.0.1:1")
    monkeypatch.setattr(client_module, "Events", Silent)
    monkeypatch.setattr(client, "submit", lambda prompt: "id")
    monkeypatch.setattr(client, "post_json", no_answer)
    with pytest.raises(TimeoutError, match="did not finish within 0 s"):
        client.run({}, limit=0.2)


@pytest.mark.parametrize("error", [TimeoutError("did not finish"), ConnectionRefusedError("refused")])
def test_the_demo_does_not_wait_again_for_a_server_that_is_gone(tmp_path, monkeypatch, error):
    class Gone:
        runs = 0

        def object_info(self):
            return {}

        def run(self, *_):
            self.runs += 1
            raise error

    monkeypatch.setattr(demo, "to_prompt", lambda *_: {})
    monkeypatch.setattr(demo, "set_widgets", lambda *_: {})
    gone = Gone()
    (section,) = demo.run_edits(gone, tmp_path)
    assert gone.runs == 1 == len(section["entries"])
    assert "no answer from the server" in section["entries"][0]["error"]


@pytest.fixture(scope="module")
def run_py() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_py", REPOSITORY / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@posix
def test_a_program_runs_with_a_python_that_does_not_look_into_the_current_folder(run_py, tmp_path, capfd):
    isolated = tmp_path / "python"
    isolated.write_text(f"#!/bin/sh\nexec '{sys.executable}' -I \"$@\"\n")
    isolated.chmod(0o755)
    assert run_py.run_module(Host(tmp_path, isolated, False), "tools.demo_edits.make", ["--help"]) == 0
    assert "--output" in capfd.readouterr().out


@posix
def test_a_program_that_does_not_stop_is_forced_to(run_py):
    code = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    run_py.wait_or_end(process, patience=0.2)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()


def test_example_pictures_are_offered_and_never_overwrite(run_py, make_host, tmp_path):
    host = make_host(tmp_path / "host")
    names = {path.name for path in (REPOSITORY / "workflows" / "input").iterdir()}
    mine = host.root / "input" / "robot_pictures.webp"
    mine.parent.mkdir()
    mine.write_text("mine")
    run_py.offer_pictures(host)
    run_py.offer_pictures(host)
    assert {path.name for path in mine.parent.iterdir()} == names and mine.read_text() == "mine"


@linux
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_serve_stops_its_server_whatever_ends_it(tmp_path, make_host, name):
    host = make_host(tmp_path / "a folder & more", FAKE)
    command = [sys.executable, str(REPOSITORY / "run.py"), "serve", "--cpu", "--no-browser"]
    environment = {**os.environ, "COMFYUI_PATH": str(host.root), "COMFYUI_PYTHON": sys.executable}

    def hear_signals():
        # Under nohup or in the background of a shell they would be ignored.
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)

    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=hear_signals)
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert any(f"Browse Templates > {LINK_NAME})" in line for line in lines)
    log = next(Path(line.split("its log: ")[1].strip()) for line in lines if line.startswith("its log: "))
    started = pids(log.read_text())
    assert all(map(running, started))
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=60)
    watchdog.cancel()
    assert process.returncode == (130 if name == "SIGINT" else 128 + getattr(signal, name))
    assert wait_for(lambda: not any(map(running, started))) and not log.exists()
    assert (host.root / "input" / "robot_pictures.webp").is_file()


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
    assert done.returncode == 1 and "is not a ComfyUI folder" in done.stderr and "Traceback" not in done.stderr


def test_the_oldest_host_is_not_silently_exchanged_for_the_user_s(tmp_path):
    done = cli("test", "--floor", COMFYUI_PATH=str(tmp_path))
    assert done.returncode == 1 and "Unset COMFYUI_PATH" in done.stderr


def test_run_py_refuses_unknown_arguments_and_folders(tmp_path):
    assert cli("demo", "--nonsense").returncode == 2
    done = cli("parity", str(tmp_path / "none"))
    assert done.returncode == 1 and "is not a folder" in done.stderr
    done = cli("bench", "--limit", "2", "object_edits")
    assert done.returncode == 1 and "Give the benchmark first, then its options" in done.stderr
