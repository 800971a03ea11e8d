"""HTTP/1.1 over TLS: h11 parses, asyncio carries, a handler answers. Nothing of Kubernetes here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

_BODY_BYTES_MAX = 1024 * 1024
_HEAD_BYTES_MAX = 16 * 1024
_IDLE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request; header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: `body` is sent as JSON, `stream` as JSON lines for as long as it lasts."""

    code: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: AsyncIterator[Any] | None = None
    # Only half of it arrives, then the connection breaks.
    cut: bool = False


class Dropped(Exception):
    """A handler's way to say: no answer, the connection breaks."""


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


class Listener:
    """A listening server; `close()` ends every connection."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """Begins to listen and returns the port."""
        self._server = await asyncio.start_server(self._accept, host, port, ssl=context)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stops listening and drops what is open."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        wire = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES_MAX)
        try:
            await self._converse(wire, reader, writer)
        except Dropped:
            writer.transport.abort()
        except h11.RemoteProtocolError as error:
            if wire.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                code = error.error_status_hint
                with contextlib.suppress(ConnectionError):
                    await _send(wire, reader, writer, Response(code, {"message": str(error)}))
        except (ConnectionError, TimeoutError, asyncio.CancelledError, ssl.SSLError):
            pass  # The client left, went silent, or the sandbox ends: nothing to answer.
        finally:
            writer.close()

    async def _converse(
        self, wire: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            request = await _receive(wire, reader, writer)
            if request is None:
                return
            await _send(wire, reader, writer, await self._handler(request))
            if wire.our_state is not h11.DONE or wire.their_state is not h11.DONE:
                return
            wire.start_next_cycle()


async def _receive(
    wire: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            if wire.they_are_waiting_for_100_continue:
                writer.write(wire.send(h11.InformationalResponse(status_code=100, headers=[])))
            async with asyncio.timeout(_IDLE_SECONDS):
                wire.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _BODY_BYTES_MAX:
                raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _request(head, bytes(body))
        else:
            return None


def _request(head: h11.Request, body: bytes) -> Request:
    try:
        target = urlsplit(head.target.decode("ascii"))
    except ValueError as error:
        raise h11.RemoteProtocolError("the target is no URL") from error
    return Request(
        method=head.method.decode("ascii"),
        path=unquote(target.path),
        query=dict(parse_qsl(target.query, keep_blank_values=True)),
        headers={name.decode("ascii"): value.decode("latin-1") for name, value in head.headers},
        body=body,
    )


async def _send(
    wire: h11.Connection,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    response: Response,
) -> None:
    headers = [("Content-Type", "application/json"), *response.headers.items()]
    if response.stream is not None:
        writer.write(_encode(wire, h11.Response(status_code=response.code, headers=headers)))
        await _send_stream(wire, reader, writer, response.stream)
        return
    content = json.dumps(response.body).encode()
    headers.append(("Content-Length", str(len(content))))
    writer.write(_encode(wire, h11.Response(status_code=response.code, headers=headers)))
    if response.cut:
        writer.write(_encode(wire, h11.Data(data=content[: len(content) // 2])))
        await writer.drain()
        raise Dropped
    writer.write(_encode(wire, h11.Data(data=content)))
    writer.write(_encode(wire, h11.EndOfMessage()))
    await writer.drain()


async def _send_stream(
    wire: h11.Connection,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    lines: AsyncIterator[Any],
) -> None:
    async def pump() -> None:
        async for line in lines:
            writer.write(_encode(wire, h11.Data(data=json.dumps(line).encode() + b"\n")))
            await writer.drain()

    # A watcher sends nothing more: the first thing to be read is that it left.
    left = asyncio.create_task(reader.read(1))
    told = asyncio.create_task(pump())
    try:
        await asyncio.wait({left, told}, return_when=asyncio.FIRST_COMPLETED)
        if told.done():
            told.result()
            writer.write(_encode(wire, h11.EndOfMessage()))
            await writer.drain()
    finally:
        left.cancel()
        told.cancel()
        await asyncio.gather(left, told, return_exceptions=True)
    wire.send_failed()  # The read above may have eaten a byte: never reuse this connection.


def _encode(wire: h11.Connection, event: h11.Event) -> bytes:
    return wire.send(event) or b""
