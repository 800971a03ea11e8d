"""Limits over a real Valkey and a real port: who calls too often waits, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from prometheus_client import CollectorRegistry

from aegis.errors import AegisError, ResourceExhausted, Unavailable, from_rpc_error
from aegis.serving.doors import Doors, Grant, Peer
from aegis.serving.metrics import CallMetrics
from aegis.spiffe import Caller
from aegis.v1 import policy_pb2, policy_pb2_grpc
from aegis_server.identity.buckets import RedisBuckets
from aegis_server.identity.limits import Limits, parse_limits

READ, WRITE = "/aegis.v1.PolicyService/GetPolicy", "/aegis.v1.PolicyService/ImportPolicy"
EVALUATE = "/aegis.v1.PolicyService/Evaluate"
ANN, BOB = Caller("user:ann", ""), Caller("user:bob", "")
TIGHT = parse_limits("read=0.001/3 mutate=0.001/3 evaluate=0.001/250 session=0.001/2")


@pytest.fixture
async def buckets(redis_url: str) -> AsyncIterator[RedisBuckets]:
    opened = RedisBuckets(redis_url)
    yield opened
    await opened.close()


@pytest.fixture
async def gone() -> AsyncIterator[RedisBuckets]:
    opened = RedisBuckets("redis://127.0.0.1:1")
    yield opened
    await opened.close()


def limits_over(buckets: RedisBuckets) -> tuple[Limits, CollectorRegistry]:
    registry = CollectorRegistry()
    return Limits(buckets, registry=registry, limits=TIGHT), registry


async def passed(limits: Limits, method: str, caller: Caller, calls: int) -> int:
    """How many of so many calls, all at once, were let through."""

    async def call() -> bool:
        try:
            await limits(method, caller)
        except ResourceExhausted:
            return False
        return True

    return sum(await asyncio.gather(*(call() for _ in range(calls))))


async def test_caller_is_limited_by_class_and_for_itself(buckets: RedisBuckets):
    """Another class and another caller have buckets of their own."""
    limits, registry = limits_over(buckets)
    assert await passed(limits, READ, ANN, 9) == 3
    assert await passed(limits, WRITE, ANN, 9) == 3
    assert await passed(limits, READ, BOB, 2) == 2
    refused = registry.get_sample_value("aegis_rate_limited_total", {"class": "read"})
    assert refused == 6


async def test_two_servers_share_the_limits_but_for_a_lease_each(buckets: RedisBuckets):
    """Together they let through the burst, however calls are spread."""
    one, _ = limits_over(buckets)
    other, _ = limits_over(buckets)
    through = [await passed(each, EVALUATE, ANN, 200) for each in (one, other)]
    assert through[0] == 200
    assert sum(through) == 250


async def test_callers_without_identity_share_that_of_their_network(buckets: RedisBuckets):
    """Whatever they call themselves."""
    limits, _ = limits_over(buckets)
    login = "/aegis.v1.SessionService/Login"
    strangers = [
        Caller("anonymous:unknown", "", method="anonymous", address=address)
        for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
    ]
    assert [await passed(limits, login, each, 2) for each in strangers] == [2, 0, 2]


@pytest.mark.parametrize("method", [READ, EVALUATE, "/aegis.v1.SessionService/Login"])
async def test_reads_pass_uncounted_while_redis_is_away(gone: RedisBuckets, method: str):
    """And a counter says how many."""
    limits, registry = limits_over(gone)
    assert await passed(limits, method, ANN, 20) == 20
    samples = [
        sample.value
        for metric in registry.collect()
        if metric.name == "aegis_limiter_failed_open"
        for sample in metric.samples
        if sample.name.endswith("_total")
    ]
    assert samples == [20]


async def test_changes_wait_for_redis(gone: RedisBuckets):
    """What changes something is refused, and may be tried again."""
    limits, _ = limits_over(gone)
    with pytest.raises(Unavailable) as refused:
        await limits(WRITE, ANN)
    assert refused.value.reason == "LIMITER_UNAVAILABLE"
    assert refused.value.retry_seconds is not None


class _Policy(policy_pb2_grpc.PolicyServiceServicer):
    async def GetPolicy(self, request, context):
        return policy_pb2.GetPolicyResponse()


@asynccontextmanager
async def calling(limits: Limits) -> AsyncIterator[policy_pb2_grpc.PolicyServiceStub]:
    """A stub of a server behind these limits."""

    async def authenticate(method: str, peer: Peer) -> Caller:
        return ANN

    async def admit(method: str, caller: Caller) -> Grant:
        return Grant()

    doors = Doors(
        authenticate=authenticate,
        limit=limits,
        admit=admit,
        metrics=CallMetrics(CollectorRegistry()),
    )
    server = grpc.aio.server(interceptors=[doors])
    policy_pb2_grpc.add_PolicyServiceServicer_to_server(_Policy(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield policy_pb2_grpc.PolicyServiceStub(channel)
    await server.stop(None)


async def test_refused_call_is_told_when_to_come_again(buckets: RedisBuckets):
    """RESOURCE_EXHAUSTED with the class and a RetryInfo, over the wire."""
    limits, _ = limits_over(buckets)
    async with calling(limits) as stub:
        for _ in range(3):
            await stub.GetPolicy(policy_pb2.GetPolicyRequest(), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.GetPolicy(policy_pb2.GetPolicyRequest(), timeout=5)
    refusal: AegisError = from_rpc_error(failure.value)
    assert isinstance(refusal, ResourceExhausted)
    assert (refusal.reason, refusal.metadata["limit"]) == ("RATE_LIMITED", "read")
    assert "0.001 read calls a second, and 3 at once" in refusal.message
    assert refusal.retry_seconds is not None
    assert 990 <= refusal.retry_seconds <= 1000
