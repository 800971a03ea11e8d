"""Token buckets: so many at once, then so many a second.

In Redis they are shared by all servers, and counted by one script, so that two servers never both
take the last token. Without a Redis each server counts for itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import redis.asyncio
from redis.exceptions import RedisError

from aegis.errors import Unavailable

_SECONDS = 0.25
_LOCAL_MAX = 100_000

# After a failure Redis is not asked for this long: nobody waits for what is known to be gone.
_REST_SECONDS = 1.0

# KEYS[1] the bucket; ARGV rate, burst, how many at most, and a time for tests instead of the
# server's own. Returns how many were taken, and the seconds until there is one.
_TAKE = """
local time = redis.call('TIME')
local now = tonumber(ARGV[4]) or (time[1] + time[2] / 1000000)
local rate, burst, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = burst
if kept[1] then
    -- A clock that steps back must not fill the bucket once it returns.
    local at = tonumber(kept[2])
    now = math.max(at, now)
    tokens = math.min(burst, tonumber(kept[1]) + (now - at) * rate)
end
local taken = math.max(0, math.min(most, math.floor(tokens)))
local wait = 0
if taken < 1 then wait = (1 - tokens) / rate end
tokens = tokens - taken
redis.call('HSET', KEYS[1],
    'tokens', string.format('%.9f', tokens), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], math.ceil(burst / rate) + 1)
return {taken, string.format('%.6f', wait)}
"""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of `burst` tokens that gets `rate` a second; `name` says what it limits."""

    name: str
    rate: float
    burst: int


class Buckets(Protocol):
    """Where tokens are counted."""

    async def lease(
        self, bucket: Bucket, of: str, most: int, *, now: float | None = None
    ) -> tuple[int, float]:
        """Takes up to `most` tokens of somebody's bucket.

        Returns how many there were and, for none, the seconds until there is one. Raises
        `Unavailable` (LIMITER_UNAVAILABLE) when it cannot be counted.
        """

    async def fill(self, bucket: Bucket, of: str) -> None:
        """Fills somebody's bucket again."""


class LocalBuckets:
    """Buckets of one server alone."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, float]] = {}

    async def lease(
        self, bucket: Bucket, of: str, most: int, *, now: float | None = None
    ) -> tuple[int, float]:
        """See `Buckets`."""
        now = time.time() if now is None else now
        tokens, at = self._kept.pop(_key(bucket, of), (float(bucket.burst), now))
        # A clock that steps back must not fill the bucket once it returns.
        now = max(at, now)
        tokens = min(bucket.burst, tokens + (now - at) * bucket.rate)
        taken = min(most, int(tokens))
        wait = 0.0 if taken else (1 - tokens) / bucket.rate
        # The oldest go first: a stranger cannot fill our memory.
        if len(self._kept) >= _LOCAL_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[_key(bucket, of)] = tokens - taken, now
        return taken, wait

    async def fill(self, bucket: Bucket, of: str) -> None:
        """See `Buckets`."""
        self._kept.pop(_key(bucket, of), None)


class RedisBuckets:
    """Buckets that all servers share."""

    def __init__(self, url: str) -> None:
        self._redis = redis.asyncio.from_url(url, socket_connect_timeout=_SECONDS)
        self._take = self._redis.register_script(_TAKE)
        self._rest_until = 0.0

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()

    async def lease(
        self, bucket: Bucket, of: str, most: int, *, now: float | None = None
    ) -> tuple[int, float]:
        """See `Buckets`; waits a quarter of a second for Redis at most."""
        arguments = [bucket.rate, bucket.burst, most, "" if now is None else now]
        async with self._answer():
            taken, wait = await self._take(keys=[_key(bucket, of)], args=arguments)
        return int(taken), float(wait)

    async def fill(self, bucket: Bucket, of: str) -> None:
        """See `Buckets`."""
        async with self._answer():
            await self._redis.delete(_key(bucket, of))

    @asynccontextmanager
    async def _answer(self) -> AsyncIterator[None]:
        if time.monotonic() < self._rest_until:
            raise _uncounted()
        try:
            async with asyncio.timeout(_SECONDS):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            self._rest_until = time.monotonic() + _REST_SECONDS
            raise _uncounted() from error


def _uncounted() -> Unavailable:
    return Unavailable(
        "LIMITER_UNAVAILABLE",
        "this cannot be counted now, and is not taken uncounted",
        retry_seconds=_REST_SECONDS,
    )


def _key(bucket: Bucket, of: str) -> str:
    digest = hashlib.sha256(of.encode()).hexdigest()[:32]
    return f"aegis:bucket:{bucket.name}:{digest}"


def rounded_up(seconds: float) -> int:
    """Returns whole seconds, one at least."""
    return max(1, math.ceil(seconds))
