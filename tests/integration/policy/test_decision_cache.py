"""The shared cache on a real Valkey: it may help, it may vanish, it may lie; answers stay right."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from aegis.local.valkey import Valkey
from aegis.serving.database import Database
from aegis_policy import Engine
from aegis_server.policy.cache import DecisionCache, Verdict
from aegis_server.policy.decisions import CacheUse, Decisions, Question, Snapshot

KEY = bytes(range(32))
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
RULES = """
p, role:reader, *, /runs/*, read, , allow, readers-read
p, role:reader, *, /runs/secret, read, , deny, secret
p, user:night, *, /runs/*, read, "weekly('Mon-Fri', '22:00', '06:00', 'UTC')", allow, at-night
g2, user:ann, role:reader
"""


class Server:
    """A server's decisions over a shared cache, without a database.

    It is patient, so that a busy machine does not turn a hit into a miss; tests of a Redis that
    is slow or gone take the program's own bound with `patient=False`.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        key: bytes = KEY,
        digest: bytes = b"d" * 32,
        patient: bool = True,
        cache_use: CacheUse = "redis",
    ) -> None:
        self.registry = CollectorRegistry()
        bound = {"read_seconds": 5.0} if patient else {}
        self.cache = DecisionCache(redis_url, key=key, registry=self.registry, **bound)
        self.now = NOON
        self.decisions = Decisions(
            Database("postgresql://", application="test"),
            cache=self.cache,
            clock=lambda: self.now,
            registry=self.registry,
            cache_use=cache_use,
        )
        self.snapshot = Snapshot(7, digest, Engine.from_csv(RULES))
        self.decisions.adopt(self.snapshot)

    def forget(self) -> None:
        """Drops the answers in memory, as a restart would."""
        self.snapshot.forget()

    def counted(self, outcome: str) -> float:
        """Returns how often a look-up or write came to this."""
        value = self.registry.get_sample_value("aegis_policy_cache_total", {"outcome": outcome})
        return value or 0.0


def reads(subject: str, run: str = "1") -> Question:
    return Question(subject, "aegis", f"/runs/{run}", "read")


@contextlib.asynccontextmanager
async def running(*servers: Server) -> AsyncIterator[None]:
    writers = [asyncio.create_task(server.cache.run()) for server in servers]
    try:
        yield
    finally:
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        for server in servers:
            await server.cache.close()


async def until_written(server: Server, count: int) -> None:
    async with asyncio.timeout(5):
        while server.counted("written") < count:
            await asyncio.sleep(0.005)


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A Valkey that the test may kill."""
    with tempfile.TemporaryDirectory(prefix="aegis-tests-") as folder:
        home = Path(folder)
        with Valkey(run=home / "run", log=home / "valkey.log") as server:
            yield server


async def test_one_server_finds_what_another_left(redis_url: str):
    """An answer travels through Redis, under a key that starts with the revision."""
    first, second = Server(redis_url), Server(redis_url)
    async with running(first, second):
        assert (await first.decisions.decide(reads("user:ann"))).source == "engine"
        await until_written(first, 1)
        decision = await second.decisions.decide(reads("user:ann"))
        assert (decision.allowed, decision.rule_id, decision.source) == (
            True,
            "readers-read",
            "redis",
        )
        async with Redis.from_url(redis_url) as redis:
            (name,) = await redis.keys()
            assert name.startswith(b"r7:aegis:decision:")
            assert 0 < await redis.pttl(name) <= 60_000


async def test_poisoned_values_are_refused_and_counted(redis_url: str):
    """Whatever somebody writes into Redis, nobody is let in by it."""
    server = Server(redis_url)
    denied, allowed = reads("user:ann", "secret"), reads("user:ann")
    async with running(server):
        await server.decisions.decide_all([denied, allowed])
        await until_written(server, 2)
    # Its writer has ended, so nothing repairs what is poisoned now.
    async with Redis.from_url(redis_url) as redis:
        name, other = server.snapshot.name_of(denied), server.snapshot.name_of(allowed)
        sealed, grant = await redis.mget(name, other)
        flipped = sealed[:1] + b"\x01" + sealed[2:]
        poison = [b"", b"\x01", b"allow", flipped, grant, sealed[:-1], b"\x00" * 64, b"x" * 100_000]
        for value in poison:
            await redis.set(name, value)
            server.forget()
            decision = await server.decisions.decide(denied)
            assert (decision.allowed, decision.source) == (False, "engine")
        assert server.counted("refused") == len(poison)
    await server.cache.close()


async def test_value_of_another_key_holder_is_refused(redis_url: str):
    """A server with another cache key cannot put words into our mouth."""
    stranger, server = Server(redis_url, key=bytes(32)), Server(redis_url)
    async with running(stranger, server):
        await stranger.decisions.decide(reads("user:ann"))
        await until_written(stranger, 1)
        assert (await server.decisions.decide(reads("user:ann"))).source == "engine"
        assert server.counted("refused") == 1


async def test_two_policies_with_the_same_revision_number_stay_apart(redis_url: str):
    """Two databases on one Redis, or one restored from a backup, do not share answers."""
    first, second = Server(redis_url), Server(redis_url, digest=b"e" * 32)
    async with running(first, second):
        await first.decisions.decide(reads("user:ann"))
        await until_written(first, 1)
        assert (await second.decisions.decide(reads("user:ann"))).source == "engine"


async def test_killing_valkey_in_the_middle_changes_no_answer(own_valkey: Valkey):
    """Under load, before, while and after Redis dies and returns, every answer is the engine's."""
    server = Server(own_valkey.url, patient=False)
    questions = [reads("user:ann", str(index)) for index in range(40)]
    questions += [reads("user:ann", "secret"), reads("user:bob"), reads("user:night")]
    expected = [
        (answer.allowed, answer.rule_id)
        for question in questions
        for answer in [
            server.snapshot.engine.decide(
                subject=question.subject,
                domain=question.domain,
                resource=question.resource,
                action=question.action,
                now=NOON,
            )
        ]
    ]

    async def check_rounds(count: int) -> None:
        for _ in range(count):
            server.forget()
            answers = await asyncio.gather(*(server.decisions.decide(q) for q in questions))
            assert [(a.allowed, a.rule_id) for a in answers] == expected

    async with running(server):
        await check_rounds(3)
        load = asyncio.create_task(check_rounds(20))
        await asyncio.sleep(0.05)
        own_valkey.kill()
        await load
        await check_rounds(3)
        own_valkey.start()
        await asyncio.to_thread(own_valkey.wait_until_ready)
        async with asyncio.timeout(10):
            hits = server.counted("hit")
            while server.counted("hit") == hits:
                server.forget()
                assert (await server.decisions.decide(questions[0])).allowed
                await asyncio.sleep(0.02)


async def test_dead_redis_costs_nothing_after_a_few_tries():
    """The breaker opens: further decisions do not even try, and one probes now and then."""
    server = Server("unix:///nowhere/valkey.sock", patient=False)
    async with running(server):
        for index in range(3):
            await server.decisions.decide(reads("user:ann", str(index)))
        failed = server.counted("failed")
        for index in range(100):
            await server.decisions.decide(reads("user:ann", f"x{index}"))
        # Writes fail as well, and count.
        assert 1 <= server.counted("failed") == failed <= 3
        assert server.counted("skipped") == 103 - failed


async def test_redis_that_never_answers_delays_no_decision_for_long():
    """A connection that swallows everything costs some milliseconds, then nothing."""
    connections: list[asyncio.StreamWriter] = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        with contextlib.suppress(ConnectionError):
            while await reader.read(1024):
                pass

    black_hole = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = black_hole.sockets[0].getsockname()[1]
    server = Server(f"redis://127.0.0.1:{port}", patient=False)
    try:
        async with running(server):
            began = time.monotonic()
            for index in range(50):
                decision = await server.decisions.decide(reads("user:ann", str(index)))
                assert (decision.allowed, decision.source) == (True, "engine")
            assert time.monotonic() - began < 1.0
            assert server.counted("failed") >= 1
    finally:
        black_hole.close()
        for writer in connections:
            writer.close()


async def test_answer_that_reads_the_clock_is_not_used_outside_its_interval(redis_url: str):
    """What holds only at night is asked again in the morning, though Redis still has it."""
    server = Server(redis_url)
    async with running(server):
        server.now = datetime(2026, 3, 3, 5, 59, 30, tzinfo=UTC)
        decision = await server.decisions.decide(reads("user:night"))
        assert decision.allowed
        assert decision.valid_until == datetime(2026, 3, 3, 6, tzinfo=UTC)
        await until_written(server, 1)
        for instant, allowed in ((decision.valid_until, False), (server.now, True), (NOON, False)):
            server.forget()
            server.now = instant
            assert (await server.decisions.decide(reads("user:night"))).allowed is allowed


async def test_memory_does_not_outlive_the_clock_either(redis_url: str):
    """Also an answer in memory ends when its window does."""
    server = Server(redis_url)
    async with running(server):
        server.now = datetime(2026, 3, 3, 5, 59, 59, 900_000, tzinfo=UTC)
        assert (await server.decisions.decide(reads("user:night"))).allowed
        server.now += timedelta(milliseconds=100)
        decision = await server.decisions.decide(reads("user:night"))
        assert (decision.allowed, decision.source) == (False, "engine")


async def test_answer_that_ends_within_a_second_is_not_shared(redis_url: str):
    """Clocks differ a little between machines: the last second before a boundary is not cached."""
    server = Server(redis_url)
    async with running(server):
        server.now = datetime(2026, 3, 3, 5, 59, 59, tzinfo=UTC)
        await server.decisions.decide(reads("user:night"))
        server.now = NOON
        await server.decisions.decide(reads("user:ann"))
        await until_written(server, 1)
        async with Redis.from_url(redis_url) as redis:
            assert await redis.dbsize() == 1


async def test_write_queue_is_bounded(redis_url: str):
    """When Redis cannot keep up, answers are dropped and counted; memory does not grow."""
    server = Server(redis_url)
    verdict = Verdict(True, "readers-read", NOON, None)
    for index in range(2000):
        server.cache.put(f"r7:aegis:decision:{index}", verdict)
    assert server.counted("dropped") == 2000 - 1024
    await server.cache.close()


async def test_cache_key_must_be_long_enough(redis_url: str):
    """A short key would make forged answers cheap."""
    with pytest.raises(ValueError, match="32 bytes"):
        DecisionCache(redis_url, key=b"short", registry=CollectorRegistry())
