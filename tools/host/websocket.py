"""A small websocket client (RFC 6455): text and binary messages, ping, close; no extensions, no TLS."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
from types import TracebackType
from urllib.parse import urlsplit

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class WebSocketClosed(ConnectionError):
    """The other side closed the connection."""


class WebSocket:
    """One connection to ``ws://host:port/path``.

    Args:
        url: address; only the ``ws`` scheme.
        timeout: seconds for connecting and for the handshake.

    Raises:
        ConnectionError: the server refused or did not answer as a websocket server.
    """

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "ws" or not parts.hostname:
            raise ValueError(f"url must look like ws://host:port/path, got {url!r}")
        port = parts.port or 80
        self._socket = socket.create_connection((parts.hostname, port), timeout=timeout)
        self._buffer = b""
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._handshake(f"{parts.hostname}:{port}", target)

    def _handshake(self, host: str, target: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self._socket.sendall(request.encode())
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines[1:])
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        expected = base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()
        if " 101 " not in lines[0] + " " or headers.get("sec-websocket-accept") != expected:
            self._socket.close()
            raise ConnectionError(f"no websocket at {host}{target}: {lines[0]}")

    def _fill(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise WebSocketClosed("the connection ended")
        self._buffer += data

    def _take(self, start: int, count: int) -> bytes:
        while len(self._buffer) < start + count:
            self._fill()
        return self._buffer[start : start + count]

    def _frame(self) -> tuple[bool, int, bytes]:
        # Nothing is removed from the buffer before the frame is whole: a time-out in the middle loses nothing.
        first, second = self._take(0, 2)
        length, at = second & 0x7F, 2
        if length == 126:
            (length,), at = struct.unpack(">H", self._take(2, 2)), 4
        elif length == 127:
            (length,), at = struct.unpack(">Q", self._take(2, 8)), 10
        payload = self._take(at, length)
        self._buffer = self._buffer[at + length :]
        return bool(first & 0x80), first & 0x0F, payload

    def _send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            head = struct.pack(">BB", 0x80 | opcode, 0x80 | size)
        elif size < 65536:
            head = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, size)
        else:
            head = struct.pack(">BBQ", 0x80 | opcode, 0x80 | 127, size)
        mask = os.urandom(4)
        stream = (mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")
        self._socket.sendall(head + mask + masked)

    def send(self, text: str) -> None:
        """Send one text message."""
        self._send(_TEXT, text.encode())

    def receive(self, timeout: float | None = None) -> str | bytes:
        """The next message: ``str`` for text, ``bytes`` for binary.

        Raises:
            TimeoutError: nothing whole arrived within ``timeout`` seconds; the connection stays usable.
            WebSocketClosed: the other side closed.
        """
        self._socket.settimeout(timeout)
        kind, parts = _TEXT, []
        while True:
            final, opcode, payload = self._frame()
            if opcode == _CLOSE:
                raise WebSocketClosed("the server closed the connection")
            if opcode == _PING:
                self._send(_PONG, payload)
                continue
            if opcode == _PONG:
                continue
            if opcode != _CONTINUATION:
                kind = opcode
            parts.append(payload)
            if final:
                data = b"".join(parts)
                return data.decode() if kind == _TEXT else data

    def close(self) -> None:
        """Say good-bye and close; safe to call twice."""
        try:
            self._socket.settimeout(1)
            self._send(_CLOSE, b"")
        except OSError:
            pass
        self._socket.close()

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
