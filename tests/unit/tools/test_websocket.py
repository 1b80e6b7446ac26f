"""The websocket client against a server written here, frame by frame."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
import threading

import pytest

from tools.host.websocket import WebSocket, WebSocketClosed

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
            text = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {answer}\r\n\r\n"
            # The first frame comes in the same packet as the handshake, as real servers do.
            connection.sendall(text.encode() + frame(1, b"first"))
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


def test_messages_of_every_length_arrive():
    sizes = [0, 5, 125, 126, 65535, 65536, 200000]

    def script(peer, connection):
        for size in sizes:
            connection.sendall(frame(2, b"x" * size))

    with WebSocket(Peer(script).url) as client:
        assert client.receive(5) == "first"
        assert [len(client.receive(5)) for _ in sizes] == sizes


def test_sent_messages_of_every_length_arrive_masked():
    texts = ["", "häh", "y" * 126, "z" * 70000]

    def script(peer, connection):
        for _ in texts:
            peer.read(connection)
        connection.sendall(frame(1, b"done"))

    peer = Peer(script)
    with WebSocket(peer.url) as client:
        client.receive(5)
        for text in texts:
            client.send(text)
        assert client.receive(5) == "done"
    assert peer.seen == [(1, text.encode()) for text in texts]


def test_fragments_are_joined_and_pings_between_them_answered():
    def script(peer, connection):
        connection.sendall(
            frame(1, "grü".encode()[:3], final=False) + frame(9, b"beat") + frame(0, "grün".encode()[3:])
        )
        peer.read(connection)

    peer = Peer(script)
    with WebSocket(peer.url) as client:
        assert client.receive(5) == "first"
        assert client.receive(5) == "grün"
        peer.thread.join(5)
    assert peer.seen == [(10, b"beat")]


def test_a_time_out_in_the_middle_of_a_frame_loses_nothing():
    go = threading.Event()

    def script(peer, connection):
        whole = frame(1, b"slow message")
        connection.sendall(whole[:5])
        go.wait(5)
        connection.sendall(whole[5:])

    with WebSocket(Peer(script).url) as client:
        client.receive(5)
        with pytest.raises(TimeoutError):
            client.receive(0.2)
        go.set()
        assert client.receive(5) == "slow message"


def test_a_close_is_told():
    with WebSocket(Peer(lambda peer, connection: connection.sendall(frame(8, b""))).url) as client:
        client.receive(5)
        with pytest.raises(WebSocketClosed):
            client.receive(5)


def test_a_server_without_websocket_is_refused():
    with pytest.raises(ConnectionError, match="404"):
        WebSocket(Peer(lambda peer, connection: None, accept=False).url)


def test_another_scheme_is_refused():
    with pytest.raises(ValueError, match="ws://"):
        WebSocket("https://127.0.0.1/")
