"""Runs a server and stops it, with all its child processes, as soon as the program that started it is gone.

    python keeper.py FOLDER COMMAND [ARGUMENT ...]

That program holds the other end of this process's standard input. When it closes it, or dies in any way (a hard kill,
a closed terminal), the input ends: the server is stopped and its FOLDER removed. If the server ends first, its exit
code is passed on.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading

# Seconds a server has to shut down by itself.
PATIENCE = 10.0


def leads_group() -> bool:
    """Whether this process leads its own process group (not on Windows)."""
    return sys.platform != "win32" and os.getpgrp() == os.getpid()


def stop(server: subprocess.Popen[bytes], folder: str) -> None:
    """Stop the server with all its processes, and this process too."""
    if sys.platform == "win32":
        # There is no gentle way to stop a console program together with its children.
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(server.pid)], capture_output=True, check=False)
    elif leads_group():
        os.killpg(os.getpgrp(), signal.SIGTERM)
    else:
        server.terminate()
    try:
        server.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        server.kill()
    shutil.rmtree(folder, ignore_errors=True)
    if sys.platform != "win32" and leads_group():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


def end_with_the_keeper() -> None:
    """In the server's process, before it starts: end when the keeper ends without stopping it (Linux only).

    Ray kills the child processes of a worker it has lost, and with them the keeper.
    """
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def main(arguments: list[str]) -> None:
    folder, *command = arguments
    # A handler, not SIG_IGN: the server would inherit that.
    signal.signal(signal.SIGTERM, lambda *_: None)
    follow = end_with_the_keeper if sys.platform == "linux" else None
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=follow)
    left_alone = threading.Event()

    def wait_for_the_end() -> None:
        # Unbuffered: a buffered reader would be locked by this thread when the interpreter ends.
        while os.read(0, 4096):
            pass
        left_alone.set()
        stop(server, folder)

    stopping = threading.Thread(target=wait_for_the_end, daemon=True)
    stopping.start()
    code = server.wait()
    if left_alone.is_set():
        stopping.join()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    main(sys.argv[1:])
