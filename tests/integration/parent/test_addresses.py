"""Addresses that only workers share."""

from __future__ import annotations

import socket

import pytest

from aegis_server.parent.addresses import Reservation


def worker_at(address: str) -> socket.socket:
    """A socket as a worker's gRPC opens it, listening."""
    host, _, port = address.rpartition(":")
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, int(port)))
    listening.listen()
    return listening


def test_workers_share_what_is_reserved_and_connections_reach_them():
    """The reservation itself takes no connection."""
    with Reservation("127.0.0.1:0") as held:
        workers = [worker_at(held.address) for _ in range(2)]
        host, _, port = held.address.rpartition(":")
        for _ in range(16):
            socket.create_connection((host, int(port)), timeout=5).close()
        reached = 0
        for worker in workers:
            worker.settimeout(0.2)
            while True:
                try:
                    worker.accept()[0].close()
                except TimeoutError:
                    break
                reached += 1
            worker.close()
    assert reached == 16


@pytest.mark.parametrize("workers", [0, 2])
def test_second_parent_is_refused(workers: int):
    """Whether workers listen already or not, and only while the first one lives."""
    first = Reservation("127.0.0.1:0")
    listening = [worker_at(first.address) for _ in range(workers)]
    with pytest.raises(OSError, match=f"{first.address} cannot be had"):
        Reservation(first.address)
    for each in listening:
        each.close()
    first.close()
    Reservation(first.address).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_server_without_workers_is_refused(host: str):
    """A socket that shares with nobody does not get in, whatever it says about old addresses."""
    with Reservation("127.0.0.1:0") as held, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind((host, int(held.address.rpartition(":")[2])))


def test_address_where_a_server_listens_is_refused():
    """Also one that would share."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="cannot be had"):
            Reservation(f"127.0.0.1:{other.getsockname()[1]}")


def test_name_with_several_addresses_is_one_port():
    """Localhost, as IPv4 and where there is IPv6."""
    with Reservation("localhost:0") as held:
        assert held.address.startswith("localhost:")
        worker_at(held.address.replace("localhost", "127.0.0.1")).close()


@pytest.mark.parametrize(
    ("first", "second"), [("0.0.0.0", "[::]"), ("[::]", "0.0.0.0"), ("[::]", "127.0.0.1")]
)
def test_everywhere_is_everywhere(first: str, second: str):
    """Of both families: gRPC listens at both when it is told one of them."""
    with Reservation(f"{first}:0") as held:
        port = held.address.rpartition(":")[2]
        with pytest.raises(OSError, match="cannot be had"):
            Reservation(f"{second}:{port}")


def test_address_that_is_none_is_refused():
    """With its name in the message."""
    with pytest.raises(OSError, match=r"203\.0\.113\.1:0 cannot be had"):
        Reservation("203.0.113.1:0")
