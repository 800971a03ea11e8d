"""A port belongs to one program, unless workers of one parent share it on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from aegis.local import pki
from aegis.serving.doors import Doors, Grant, by_certificate
from aegis.serving.metrics import CallMetrics
from aegis.serving.port import Port
from aegis.serving.tls import TlsFiles
from aegis.spiffe import Caller


async def admit(method: str, caller: Caller) -> Grant:
    return Grant()


def port(folder: Path, *, shared: bool = False) -> Port:
    doors = Doors(
        admit=admit,
        metrics=CallMetrics(CollectorRegistry()),
        authenticate=by_certificate("aegis.local"),
        max_message_bytes=1024,
    )
    tls = TlsFiles(folder / "executor.crt", folder / "executor.key", folder / "ca.crt", None)
    return Port(doors=doors, tls=tls, services=(), shared=shared)


async def test_second_program_cannot_listen_at_the_same_address(tmp_path: Path):
    """With so_reuseport, gRPC's default, two executors would silently share one port."""
    pki.ensure(tmp_path / "pki")
    first, second = port(tmp_path / "pki"), port(tmp_path / "pki")
    address = await first.open("127.0.0.1:0")
    try:
        with pytest.raises(RuntimeError, match=address.rpartition(":")[2]):
            await second.open(address)
    finally:
        await second.close(0)
        await first.close(0)


async def test_workers_of_one_parent_share_an_address(tmp_path: Path):
    """Only who says so."""
    pki.ensure(tmp_path / "pki")
    first, second = (port(tmp_path / "pki", shared=True) for _ in range(2))
    address = await first.open("127.0.0.1:0")
    try:
        assert await second.open(address) == address
    finally:
        await second.close(0)
        await first.close(0)
