"""The client against a server written here frame by frame, and against one that answers like ComfyUI."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from tools.host.client import Client, Events, PromptError

FIRST = b'{"type": "first"}'
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def frame(opcode: int, payload: bytes, final: bool = True) -> bytes:
    first = (0x80 if final else 0) | opcode
    if len(payload) < 126:
        return struct.pack(">BB", first, len(payload)) + payload
    if len(payload) < 65536:
        return struct.pack(">BBH", first, 126, len(payload)) + payload
    return struct.pack(">BBQ", first, 127, len(payload)) + payload


class Peer:
    """Accepts one connection, shakes hands, then runs ``script(connection)``."""

    def __init__(self, script, accept: bool = True) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self.listener.getsockname()[1]}/ws?clientId=x"
        self.script, self.accept = script, accept
        self.seen: list[tuple[int, bytes]] = []
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096)
            if not self.accept:
                connection.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n")
                return
            key = next(
                line.split(": ")[1] for line in head.decode().split("\r\n") if line.startswith("Sec-WebSocket-Key")
            )
            answer = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
            text = (
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {answer}\r\n\r\n"
            )
            # The first frame comes in the same packet as the handshake, as real servers do.
            connection.sendall(text.encode() + frame(1, FIRST))
            self.script(self, connection)

    def read(self, connection: socket.socket) -> None:
        """Read one masked frame of the client."""
        first, second = connection.recv(2, socket.MSG_WAITALL)
        assert second & 0x80, "a client must mask"
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", connection.recv(2, socket.MSG_WAITALL))
        elif length == 127:
            (length,) = struct.unpack(">Q", connection.recv(8, socket.MSG_WAITALL))
        mask = connection.recv(4, socket.MSG_WAITALL)
        data = b""
        while len(data) < length:
            data += connection.recv(length - len(data))
        self.seen.append((first & 0x0F, bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))))


def test_messages_of_every_length_arrive_and_previews_are_left_out():
    sizes = [0, 5, 125, 126, 65535, 65536, 200000, 5 * 1024**2]

    def script(peer, connection):
        for size in sizes:
            connection.sendall(frame(2, b"x" * size))
            connection.sendall(frame(1, json.dumps({"type": "y" * size}).encode()))

    with Events(Peer(script).url) as events:
        assert events.receive(5) == {"type": "first"}
        assert [len(events.receive(5)["type"]) for _ in sizes] == sizes


def test_fragments_are_joined_and_pings_between_them_answered():
    text = '{"type": "grün"}'.encode()

    def script(peer, connection):
        connection.sendall(frame(1, text[:13], final=False) + frame(9, b"beat") + frame(0, text[13:]))
        peer.read(connection)

    peer = Peer(script)
    with Events(peer.url) as events:
        assert events.receive(5) == {"type": "first"}
        assert events.receive(5) == {"type": "grün"}
        peer.thread.join(5)
    assert peer.seen == [(10, b"beat")]


def test_a_time_out_in_the_middle_of_a_frame_loses_nothing():
    go = threading.Event()

    def script(peer, connection):
        whole = frame(1, b'{"type": "slow message"}')
        connection.sendall(whole[:5])
        go.wait(5)
        connection.sendall(whole[5:])

    with Events(Peer(script).url) as events:
        events.receive(5)
        with pytest.raises(TimeoutError):
            events.receive(0.2)
        go.set()
        assert events.receive(5) == {"type": "slow message"}


@pytest.mark.parametrize("last", [frame(8, b""), b""], ids=["said", "dropped"])
def test_a_close_is_told_each_time_that_is_asked(last):
    with Events(Peer(lambda peer, connection: connection.sendall(last)).url) as events:
        events.receive(5)
        for _ in range(2):
            with pytest.raises(ConnectionError, match="closed the connection"):
                events.receive(5)


def test_a_server_that_does_not_answer_the_close_is_left():
    """`close` comes back while the server still holds the connection open."""
    left, over = threading.Event(), threading.Event()

    def stays(peer, connection):
        left.wait(60)
        over.set()

    try:
        with Events(Peer(stays).url) as events:
            events.receive(5)
            events.close()
            assert not over.is_set()
    finally:
        left.set()


def test_a_server_without_websocket_is_refused():
    with pytest.raises(ConnectionError, match="404"):
        Events(Peer(lambda peer, connection: None, accept=False).url)


def test_a_port_without_a_server_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match=f"no websocket at ws://127.0.0.1:{port}/ws"):
        Events(f"ws://127.0.0.1:{port}/ws")


def test_a_server_that_does_not_shake_hands_is_given_up():
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(TimeoutError, match=r"no answer from ws://.* within 0\.2 s"),
    ):
        Events(f"ws://127.0.0.1:{silent.getsockname()[1]}/ws", timeout=0.2)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "127.0.0.1:8188", "ws://"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConnectionError, match="no websocket"):
        Events(url)


class FakeComfyUI:
    """Answers /ws, /prompt and /history as ComfyUI does; a prompt is followed by the given messages.

    ``None`` among them closes the connection.
    """

    def __init__(self, messages: list[dict[str, Any] | None]) -> None:
        self.messages = messages
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.interrupted = 0
        self.loop = asyncio.new_event_loop()
        started = threading.Event()
        self.thread = threading.Thread(target=self.work, args=(started,), daemon=True)
        self.thread.start()
        started.wait(10)

    def work(self, started: threading.Event) -> None:
        application = web.Application()
        application.router.add_get("/ws", self.connect)
        application.router.add_post("/prompt", self.prompt)
        application.router.add_post("/interrupt", self.interrupt)
        application.router.add_get("/history/{prompt}", self.history)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        self.loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self.loop.run_until_complete(site.start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set()
        self.loop.run_forever()
        self.loop.run_until_complete(runner.cleanup())
        self.loop.close()

    async def connect(self, request: web.Request) -> web.WebSocketResponse:
        socket = self.sockets[request.query["clientId"]] = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            pass
        return socket

    async def prompt(self, request: web.Request) -> web.Response:
        socket = self.sockets[(await request.json())["client_id"]]
        for message in self.messages:
            if message is None:
                await socket.close()
            else:
                await socket.send_json(message)
        return web.json_response({"prompt_id": "mine", "node_errors": {}})

    async def interrupt(self, request: web.Request) -> web.Response:
        self.interrupted += 1
        return web.Response()

    async def history(self, request: web.Request) -> web.Response:
        outputs = {"9": {"images": [{"filename": "a.png"}]}}
        return web.json_response({request.match_info["prompt"]: {"outputs": outputs}})

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> Iterator[FakeComfyUI]:
    server = FakeComfyUI(request.param)
    yield server
    server.stop()


def said(kind: str, prompt: str = "mine", **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": {"prompt_id": prompt, **data}}


PROMPT = {"3": {"class_type": "KSampler", "inputs": {}}, "9": {"class_type": "SaveImage", "inputs": {}}}
A_RUN = [
    {"type": "status", "data": {"status": {}}},
    said("execution_start"),
    said("executing", node="3"),
    said("progress", node="3", value=1, max=2),
    said("executing", prompt="another's", node="7"),
    said("execution_error", prompt="another's", node_type="Other", exception_message="not mine"),
    said("executing", node="9"),
    said("execution_success"),
]


@pytest.mark.parametrize("fake", [A_RUN], indirect=True, ids=["run"])
def test_a_run_is_followed_to_its_end(fake):
    steps = []
    result = Client(fake.url).run(PROMPT, progress=lambda *step: steps.append(step), limit=30)
    assert result.executed == ["3", "9"] and result.outputs["9"]["images"] == [{"filename": "a.png"}]
    assert steps == [("KSampler", 0, 0), ("KSampler", 1, 2), ("SaveImage", 0, 0)]


@pytest.mark.parametrize("fake", [A_RUN], indirect=True, ids=["run"])
def test_a_run_is_followed_from_within_an_event_loop_too(fake):
    async def inside() -> list[str]:
        return Client(fake.url).run(PROMPT, limit=30).executed

    assert asyncio.run(inside()) == ["3", "9"]


@pytest.mark.parametrize(
    "fake, words",
    [
        (
            [said("execution_error", node_id="3", node_type="KSampler", exception_message="no memory\n")],
            "KSampler: no m",
        ),
        ([said("execution_interrupted", node_id="3", node_type="KSampler")], "was interrupted"),
        ([said("execution_start"), None], "closed the connection while the prompt ran"),
    ],
    indirect=["fake"],
    ids=["error", "interrupted", "closed"],
)
def test_a_run_that_fails_says_why(fake, words):
    with pytest.raises(PromptError, match=words) as error:
        Client(fake.url).run(PROMPT, limit=30)
    assert error.value.node == ("" if "closed" in words else "3")


@pytest.mark.parametrize("fake", [[said("execution_start")]], indirect=True, ids=["start only"])
def test_a_run_that_takes_too_long_is_interrupted(fake):
    with pytest.raises(TimeoutError, match="did not finish within 1 s"):
        Client(fake.url).run(PROMPT, limit=1)
    assert fake.interrupted == 1


@pytest.mark.parametrize("fake", [[said("execution_start")]], indirect=True, ids=["start only"])
def test_a_server_that_dies_ends_the_wait(fake):
    with pytest.raises(PromptError, match="died while the prompt ran"):
        Client(fake.url, alive=lambda: False).run(PROMPT, limit=30)
