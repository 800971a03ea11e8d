"""Token buckets: so many at once, then so many a second.

In Redis they are shared by all servers, and counted by one script, so that two servers never both
take the last token. Without a Redis each server counts for itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from dataclasses import dataclass
from typing import Protocol

import redis.asyncio
from redis.exceptions import RedisError

from aegis.errors import Unavailable

_SECONDS = 0.25
_LOCAL_MAX = 100_000

# KEYS[1] the bucket; ARGV rate, burst, and a time for tests instead of the server's own.
_TAKE = """
local time = redis.call('TIME')
local now = tonumber(ARGV[3]) or (time[1] + time[2] / 1000000)
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = burst
if kept[1] then
    tokens = math.min(burst, tonumber(kept[1]) + math.max(0, now - tonumber(kept[2])) * rate)
end
local wait = 0
if tokens >= 1 then tokens = tokens - 1 else wait = (1 - tokens) / rate end
redis.call('HSET', KEYS[1],
    'tokens', string.format('%.9f', tokens), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], math.ceil(burst / rate) + 1)
return string.format('%.6f', wait)
"""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of `burst` tokens that gets `rate` a second; `name` says what it limits."""

    name: str
    rate: float
    burst: int


class Buckets(Protocol):
    """Where tokens are counted."""

    async def take(self, bucket: Bucket, of: str, *, now: float | None = None) -> float:
        """Takes a token of somebody's bucket; returns 0, or the seconds until there is one.

        Raises `Unavailable` (LIMITER_UNAVAILABLE) when it cannot be counted.
        """

    async def fill(self, bucket: Bucket, of: str) -> None:
        """Fills somebody's bucket again."""


class LocalBuckets:
    """Buckets of one server alone."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, float]] = {}

    async def take(self, bucket: Bucket, of: str, *, now: float | None = None) -> float:
        """See `Buckets`."""
        now = time.time() if now is None else now
        tokens, at = self._kept.pop(_key(bucket, of), (float(bucket.burst), now))
        tokens = min(bucket.burst, tokens + max(0.0, now - at) * bucket.rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / bucket.rate
        if tokens >= 1:
            tokens -= 1
        # The oldest go first: a stranger cannot fill our memory.
        if len(self._kept) >= _LOCAL_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[_key(bucket, of)] = tokens, now
        return wait

    async def fill(self, bucket: Bucket, of: str) -> None:
        """See `Buckets`."""
        self._kept.pop(_key(bucket, of), None)


class RedisBuckets:
    """Buckets that all servers share."""

    def __init__(self, url: str) -> None:
        self._redis = redis.asyncio.from_url(url, socket_connect_timeout=_SECONDS)
        self._take = self._redis.register_script(_TAKE)

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()

    async def take(self, bucket: Bucket, of: str, *, now: float | None = None) -> float:
        """See `Buckets`; waits a quarter of a second for Redis at most."""
        arguments = [bucket.rate, bucket.burst, "" if now is None else now]
        try:
            async with asyncio.timeout(_SECONDS):
                return float(await self._take(keys=[_key(bucket, of)], args=arguments))
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable(
                "LIMITER_UNAVAILABLE", "attempts cannot be counted now, so none is taken"
            ) from error

    async def fill(self, bucket: Bucket, of: str) -> None:
        """See `Buckets`."""
        try:
            async with asyncio.timeout(_SECONDS):
                await self._redis.delete(_key(bucket, of))
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable(
                "LIMITER_UNAVAILABLE", "attempts cannot be counted now, so none is taken"
            ) from error


def _key(bucket: Bucket, of: str) -> str:
    digest = hashlib.sha256(of.encode()).hexdigest()[:32]
    return f"aegis:bucket:{bucket.name}:{digest}"


def rounded_up(seconds: float) -> int:
    """Returns whole seconds, one at least."""
    return max(1, math.ceil(seconds))
