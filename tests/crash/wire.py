"""A wire between the executor and the cluster that can be cut.

It carries bytes and understands none: TLS goes through it from end to end. It lives in a thread of
its own, so that nobody who waits for something holds it up.
"""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from aegis_sandbox.home import write_private


class Wire:
    """Listens on loopback and carries to `host:port`; a context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._far = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self.port = 0

    @classmethod
    def to(cls, kubeconfig: Path) -> Wire:
        """A wire to the server that a kubeconfig names."""
        url = urlsplit(_cluster_of(json.loads(kubeconfig.read_text()))["server"])
        return cls(url.hostname or "127.0.0.1", url.port or 443)

    def rewire(self, kubeconfig: Path, changed: Path) -> Path:
        """Writes a kubeconfig that goes through the wire; returns it."""
        document = json.loads(kubeconfig.read_text())
        _cluster_of(document)["server"] = f"https://127.0.0.1:{self.port}"
        write_private(changed, json.dumps(document).encode())
        return changed

    def stall(self) -> None:
        """Nothing gets through until `flow`."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def flow(self) -> None:
        """What was held up goes on."""
        self._loop.call_soon_threadsafe(self._flows.set)

    def cut(self) -> None:
        """Ends every connection at once, on both sides, whatever is under way."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._far)
            self._open.add(far_writer)
            try:
                there = asyncio.create_task(self._carry(reader, far_writer))
                back = asyncio.create_task(self._carry(far_reader, writer))
                await asyncio.wait({there, back})
            finally:
                self._open.discard(far_writer)
                far_writer.close()
        except OSError:
            pass  # Nobody listens there any more.
        finally:
            self._open.discard(writer)
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65536):
                await self._flows.wait()
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            if not writer.transport.is_closing():
                writer.transport.abort()

    async def _cut(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._cut()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=5)


def _cluster_of(document: dict[str, list[dict[str, dict[str, str]]]]) -> dict[str, str]:
    return document["clusters"][0]["cluster"]
