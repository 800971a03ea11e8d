"""What gRPC is told about connections."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc._cython import cygrpc

from aegis import channel
from aegis.serving import port


@pytest.fixture(scope="module")
def library() -> bytes:
    """The library, which holds the name of every option it looks at."""
    return Path(cygrpc.__file__).read_bytes()


@pytest.mark.parametrize("name", [name for name, _ in (*port.OPTIONS, *channel.OPTIONS)])
def test_option_is_one_that_grpc_looks_at(library: bytes, name: str):
    """One with a wrong name does nothing, and a stream that is idle for three minutes is cut."""
    assert name.encode() in library


def test_clients_ask_no_more_often_than_a_server_allows():
    """Whoever asks too often three times is sent away."""
    allowed = dict(port.OPTIONS)["grpc.http2.min_ping_interval_without_data_ms"]
    assert dict(channel.OPTIONS)["grpc.keepalive_time_ms"] >= 2 * allowed
