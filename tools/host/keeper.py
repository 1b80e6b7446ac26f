"""Runs a server and ends it, with all it started, as soon as the program that asked for it is gone.

    python keeper.py FOLDER COMMAND [ARGUMENT ...]

That program holds the other end of this process's standard input. When it closes it, or dies in whatever way
(a hard kill, a closed terminal), the input ends: the server is stopped and its FOLDER removed. Until then the
server's own end is passed on as the exit code.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading

# Seconds that a server has for ending by itself.
PATIENCE = 10.0


def leads_group() -> bool:
    """Whether this process and what it starts form a process group of their own (not on Windows)."""
    return sys.platform != "win32" and os.getpgrp() == os.getpid()


def stop(server: subprocess.Popen[bytes], folder: str) -> None:
    """End the server with all its processes, and this one with them."""
    if sys.platform == "win32":
        # There is no polite way to end a console program together with its children.
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


def main(arguments: list[str]) -> None:
    folder, *command = arguments
    # A handler, not SIG_IGN: the server would inherit that.
    signal.signal(signal.SIGTERM, lambda *_: None)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
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
