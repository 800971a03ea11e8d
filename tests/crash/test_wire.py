"""The wire that can be cut and stalled."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.crash.wire import Wire


@pytest.fixture
def echo() -> Iterator[int]:
    """A port that sends back what it gets."""

    def answer(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while chunk := _received(connection):
                    connection.sendall(chunk)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_it_carries_until_it_is_cut(echo: int):
    with Wire("127.0.0.1", echo) as wire:
        with socket.create_connection(("127.0.0.1", wire.port), 5) as us:
            us.sendall(b"hello")
            assert us.recv(5) == b"hello"
            wire.cut()
            assert _received(us) == b""
        with socket.create_connection(("127.0.0.1", wire.port), 5) as again:
            again.sendall(b"again")
            assert again.recv(5) == b"again"


def test_what_is_stalled_arrives_once_it_flows(echo: int):
    with (
        Wire("127.0.0.1", echo) as wire,
        socket.create_connection(("127.0.0.1", wire.port), 5) as us,
    ):
        wire.stall()
        us.sendall(b"hello")
        us.settimeout(0.1)
        with pytest.raises(TimeoutError):
            us.recv(5)
        wire.flow()
        us.settimeout(5)
        assert us.recv(5) == b"hello"


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(100)
    except ConnectionError:
        return b""
