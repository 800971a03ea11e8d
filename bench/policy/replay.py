"""A gRPC client that sends prepared questions, another one each time, and costs little itself.

    from replay import Load, replay

h2load sends one and the same body for ever, so it can only measure answers that are remembered.
This one plays any list of bodies: frames of HTTP/2 are put together by hand, headers are indexed
after a connection's first call, and responses are counted without being decoded. An error of gRPC
carries no message, so a call counts as answered when a message came; one of every 32 is kept, to be
looked at afterwards.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import uvloop

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW_SIZE = 4
_WINDOW = 1 << 30
_FRAME_MAX = 16_384
_FIRST_DYNAMIC = 62
_DRAIN_SECONDS = 10.0
_SAMPLE_EVERY = 32


@dataclass(frozen=True, slots=True)
class Load:
    """Where calls go and how many are in flight. `roots` are for TLS, None is without."""

    address: str
    path: str
    roots: Path | None = None
    authorization: str = ""
    connections: int = 4
    streams: int = 16


@dataclass(slots=True)
class Played:
    """What came of it; `samples` are some of the messages."""

    seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    failed: int = 0
    sent: int = 0
    samples: list[bytes] = field(default_factory=list)


def replay(load: Load, bodies: Sequence[bytes], seconds: float, *, once: bool = False) -> Played:
    """Plays bodies in their order, from the start again when they are spent unless `once`."""
    return uvloop.run(_replay(load, bodies, seconds, once=once))


async def _replay(load: Load, bodies: Sequence[bytes], seconds: float, *, once: bool) -> Played:
    if max(map(len, bodies)) + 5 > _FRAME_MAX:
        raise ValueError("a body must fit into one frame")
    played, loop = Played(), asyncio.get_running_loop()
    host, _, port = load.address.rpartition(":")
    context = None
    if load.roots is not None:
        context = ssl.create_default_context(cafile=str(load.roots))
        context.set_alpn_protocols(["h2"])
    following = _following(bodies, once=once)
    connections = [
        (await loop.create_connection(
            lambda: _Connection(load, following, played), host, int(port), ssl=context,
            server_hostname=host if context else None,
        ))[1]
        for _ in range(load.connections)
    ]  # fmt: skip
    began = time.perf_counter()
    for connection in connections:
        connection.begin(began + seconds)
    async with asyncio.timeout(seconds + _DRAIN_SECONDS):
        await asyncio.gather(*(connection.done for connection in connections))
    played.seconds = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return played


def _following(bodies: Sequence[bytes], *, once: bool) -> Iterator[bytes]:
    for number in count():
        if once and number == len(bodies):
            return
        yield bodies[number % len(bodies)]


class _Connection(asyncio.Protocol):
    def __init__(self, load: Load, bodies: Iterator[bytes], played: Played) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._load = load
        self._bodies = bodies
        self._played = played
        self._headers = [
            (b":path", load.path.encode()),
            (b":authority", load.address.encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            *([(b"authorization", load.authorization.encode())] if load.authorization else []),
        ]
        self._scheme = b"\x83\x87" if load.roots else b"\x83\x86"
        self._block = b""
        self._left = b""
        self._stream = -1
        self._end = 0.0
        self._began: dict[int, float] = {}
        self._answered: set[int] = set()
        self._window, self._received = 65_535, 0
        self._idle = load.streams
        self._waiting: bytes | None = None
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _WINDOW)
        self._write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, settings))
        self._write(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW)))
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))

    def begin(self, end: float) -> None:
        self._end = end
        self._start_calls()
        self._flush()

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        data, at = self._left + data, 0
        while len(data) - at >= 9:
            length = int.from_bytes(data[at : at + 3], "big")
            if len(data) - at < 9 + length:
                break
            stream = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
            self._frame(data[at + 3], data[at + 4], stream, data[at + 9 : at + 9 + length])
            at += 9 + length
        self._left = data[at:]
        self._start_calls()
        self._flush()

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._data(stream, payload)
        if kind == _RST_STREAM or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
            self._finished(stream)
        elif kind == _SETTINGS and not flags & _ACK:
            self._write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server goes away: {payload[8:]!r}")

    def _data(self, stream: int, payload: bytes) -> None:
        if payload:
            self._answered.add(stream)
            if stream % (2 * _SAMPLE_EVERY) == 1:
                self._played.samples.append(payload[5:])
        self._received += len(payload)
        if self._received > _WINDOW // 2:
            update = struct.pack(">I", self._received)
            self._write(_frame(_WINDOW_UPDATE, 0, 0, update))
            self._received = 0

    def _finished(self, stream: int) -> None:
        began = self._began.pop(stream, None)
        if began is None:
            return
        self._idle += 1
        if stream in self._answered:
            self._answered.discard(stream)
            self._played.milliseconds.append((time.perf_counter() - began) * 1e3)
        else:
            self._played.failed += 1

    def _start_calls(self) -> None:
        if not self._end:
            return
        now = time.perf_counter()
        while self._idle and now < self._end:
            body = self._waiting or next(self._bodies, None)
            self._waiting = None
            if body is None:
                break
            if len(body) + 5 > self._window:
                self._waiting = body
                return
            self._start(body, now)
        if not self._began and not self.done.done():
            self.done.set_result(None)

    def _start(self, body: bytes, now: float) -> None:
        self._stream += 2
        self._idle -= 1
        self._window -= len(body) + 5
        self._began[self._stream] = now
        self._played.sent += 1
        message = b"\0" + struct.pack(">I", len(body)) + body
        self._write(_frame(_HEADERS, _END_HEADERS, self._stream, self._fields()))
        self._write(_frame(_DATA, _END_STREAM, self._stream, message))

    def _fields(self) -> bytes:
        """Returns the header block: spelled out for the first call, by number afterwards."""
        if self._block:
            return self._block
        last = _FIRST_DYNAMIC + len(self._headers) - 1
        self._block = self._scheme + bytes(0x80 | (last - at) for at in range(len(self._headers)))
        spelled = (b"\x40" + _text(name) + _text(value) for name, value in self._headers)
        return self._scheme + b"".join(spelled)

    def _write(self, data: bytes) -> None:
        self._out.append(data)

    def _flush(self) -> None:
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(value: bytes) -> bytes:
    """Returns a string of HPACK, not compressed."""
    length, more = len(value), b""
    if length >= 127:
        length -= 127
        while length >= 128:
            more += bytes([length % 128 + 128])
            length //= 128
        return b"\x7f" + more + bytes([length]) + value
    return bytes([length]) + value
