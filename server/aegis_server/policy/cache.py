"""Answers shared between processes, in Redis: never needed, never trusted blindly.

The key starts with the policy revision, so an edit of the rules needs no invalidation; the value
carries a MAC over its own key, so that Redis cannot grant anything and an answer cannot be moved
to another question. Whatever goes wrong here is a miss.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import struct
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

_VERSION = 1
_HEAD = struct.Struct(">BBqq")  # version, allowed, decided at, valid until (microseconds; -1: ever)
_MAC_BYTES = 32
_VALUE_BYTES_MAX = 256
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Nobody should wait long for the copy of an evaluation.
_READ_SECONDS = 0.015
_WRITE_SECONDS = 1.0
_READERS_MAX = 16
_WAITING_MAX = 1024
_FAILURES_MAX = 3
_REST_SECONDS = 1.0
_TTL_SECONDS_MAX = 60.0
_TTL_SECONDS_MIN = 1.0
_SKEW_SECONDS = 0.25
# What a round trip is taken to cost before the first, and how much each one counts.
_COST_SECONDS = 0.0005
_WEIGHT = 0.2


class Verdict(NamedTuple):
    """What is remembered of a decision, and when it is good."""

    allowed: bool
    rule_id: str
    decided_at: datetime
    valid_until: datetime | None

    def good_at(self, now: datetime) -> bool:
        """Says whether it may be used; where the clock was read, only inside its own interval."""
        return self.valid_until is None or self.decided_at <= now < self.valid_until


class DecisionCache:
    """Reads within `read_seconds` or not at all; writes behind. `run()` is the writer's task.

    `key` (at least 32 bytes) authenticates values: every server that shares the cache has it.
    """

    def __init__(
        self,
        url: str,
        *,
        key: bytes,
        registry: CollectorRegistry,
        read_seconds: float = _READ_SECONDS,
    ) -> None:
        if len(key) < _MAC_BYTES:
            raise ValueError("the cache key needs at least 32 bytes")
        self._key = key
        self._read_seconds = read_seconds
        self._redis: Redis = Redis.from_url(
            url,
            # We bound every call ourselves. With this set, the client waits in asyncio.wait_for,
            # which on Python 3.11 can swallow a cancellation: our timeout, or the end of `run`.
            socket_timeout=None,
            socket_connect_timeout=_WRITE_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._waiting: asyncio.Queue[tuple[str, bytes, int]] = asyncio.Queue(_WAITING_MAX)
        self.cost_seconds = _COST_SECONDS
        self._readers = 0
        self._failures = 0
        self._rest_until = 0.0
        self._count = Counter(
            "aegis_policy_cache_total",
            "Decisions looked up in or written to Redis, by what came of it.",
            ["outcome"],
            registry=registry,
        )

    async def get(self, names: Sequence[str]) -> dict[str, Verdict]:
        """Returns those answers that are there and authentic; never raises, never waits long."""
        if not names or not self._may_try():
            self._count.labels("skipped").inc(len(names))
            return {}
        self._readers += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._read_seconds):
                values = await self._redis.mget(names)
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)
            self._count.labels("failed").inc(len(names))
            return {}
        finally:
            self._readers -= 1
        self._worked()
        self.cost_seconds += _WEIGHT * (time.monotonic() - began - self.cost_seconds)
        found = {}
        for name, value in zip(names, values, strict=True):
            verdict = self._opened(name, value)
            if verdict is not None:
                found[name] = verdict
        return found

    def put(self, name: str, verdict: Verdict) -> None:
        """Has an answer written later, or drops it when it is short-lived or too many wait."""
        seconds = _TTL_SECONDS_MAX
        if verdict.valid_until is not None:
            left = (verdict.valid_until - verdict.decided_at).total_seconds() - _SKEW_SECONDS
            seconds = min(seconds, left)
        if seconds < _TTL_SECONDS_MIN:
            return
        try:
            self._waiting.put_nowait((name, self._sealed(name, verdict), int(seconds * 1000)))
        except asyncio.QueueFull:
            self._count.labels("dropped").inc()

    async def run(self) -> None:
        """Writes until cancelled.

        Its patience is longer than the readers': over a slow network it is the one that gets a
        connection up, and the pool then lends it to them.
        """
        while True:
            name, value, milliseconds = await self._waiting.get()
            try:
                async with asyncio.timeout(_WRITE_SECONDS):
                    await self._redis.set(name, value, px=milliseconds)
            except (RedisError, OSError, TimeoutError) as error:
                self._failed(error)
                self._count.labels("dropped").inc()
                await asyncio.sleep(_REST_SECONDS)
            else:
                self._worked()
                self._count.labels("written").inc()

    async def close(self) -> None:
        """Closes the connections; call it after `run` has ended."""
        await self._redis.aclose()

    def _may_try(self) -> bool:
        """Says whether Redis is worth asking: not while it rests, and then one asks first."""
        now = time.monotonic()
        if now < self._rest_until or self._readers >= _READERS_MAX:
            return False
        if self._failures >= _FAILURES_MAX:
            self._rest_until = now + _REST_SECONDS
        return True

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures >= _FAILURES_MAX:
            self._rest_until = time.monotonic() + _REST_SECONDS
        if self._failures == _FAILURES_MAX:
            log.warning("Redis does not answer, decisions are evaluated here: %r", error)

    def _worked(self) -> None:
        if self._failures >= _FAILURES_MAX:
            log.info("Redis answers again")
        self._failures = 0
        self._rest_until = 0.0

    def _sealed(self, name: str, verdict: Verdict) -> bytes:
        until = -1 if verdict.valid_until is None else _microseconds(verdict.valid_until)
        head = _HEAD.pack(_VERSION, verdict.allowed, _microseconds(verdict.decided_at), until)
        body = head + verdict.rule_id.encode()
        return body + self._mac(name, body)

    def _opened(self, name: str, value: bytes | str | None) -> Verdict | None:
        if not isinstance(value, bytes):  # str only with decode_responses, which we do not set
            self._count.labels("miss").inc()
            return None
        body, mac = value[:-_MAC_BYTES], value[-_MAC_BYTES:]
        if (
            not _HEAD.size <= len(body) <= _VALUE_BYTES_MAX
            or not hmac.compare_digest(mac, self._mac(name, body))
            or body[0] != _VERSION
        ):
            self._count.labels("refused").inc()
            log.warning("a cached decision was not ours and was refused")
            return None
        self._count.labels("hit").inc()
        _, allowed, decided_at, until = _HEAD.unpack_from(body)
        return Verdict(
            bool(allowed),
            body[_HEAD.size :].decode(),
            _EPOCH + timedelta(microseconds=decided_at),
            None if until == -1 else _EPOCH + timedelta(microseconds=until),
        )

    def _mac(self, name: str, body: bytes) -> bytes:
        # The name is inside: also a reply that reached the wrong reader is refused.
        label = name.encode()
        return hmac.digest(self._key, b"%d:%b%b" % (len(label), label, body), "sha256")


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)
