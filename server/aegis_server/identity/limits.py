"""How often one caller may call: a token bucket for each caller and class of methods.

A class says two things: how much of it is plenty, and what happens while nobody can count. Reads
then pass, because looking changes nothing; whatever changes something waits. Tokens are taken by
the lease, a hundredth of the burst in one trip to Redis, so that most calls pay nothing. A server
may use what it has leased later, which lets through a lease for each server above the burst.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Counter

from aegis.errors import ResourceExhausted, Unavailable
from aegis.spiffe import Caller
from aegis_server.access import ACCESS, Needs
from aegis_server.identity.buckets import Bucket, Buckets, rounded_up
from aegis_server.identity.throttle import network_of

EVALUATE, READ, MUTATE, TRAIN, SESSION = "evaluate", "read", "mutate", "train", "session"
STOP = "stop"

# A second and at once. What one server answers is less than most of these allow: they are there
# against a caller gone wrong, not to share out a machine.
DEFAULTS: Mapping[str, Bucket] = MappingProxyType(
    {
        EVALUATE: Bucket(EVALUATE, rate=5000, burst=10_000),
        READ: Bucket(READ, rate=200, burst=1000),
        MUTATE: Bucket(MUTATE, rate=50, burst=200),
        TRAIN: Bucket(TRAIN, rate=500, burst=2000),
        SESSION: Bucket(SESSION, rate=20, burst=200),
        STOP: Bucket(STOP, rate=5, burst=50),
    }
)

# Only where who calls is one of our own programs, or where the throttle of attempts, which does
# fail closed, comes after; and the kill switch, which has to work when nothing else does.
_PASS_UNCOUNTED = frozenset({EVALUATE, READ, TRAIN, SESSION, STOP})

_OF_ACTION = {
    "evaluate": EVALUATE,
    "read": READ,
    "explain": READ,
    "simulate": READ,
    "plan": READ,
    "replicate": READ,
    "export": READ,
    "coordinate": TRAIN,
    "judge": TRAIN,
    "attend": TRAIN,
    "download": READ,
    "pause": STOP,
}
# Methods that need no permission, or whose permission says less than their name.
_OF_METHOD = {
    "/aegis.v1.IdentityService/WhoAmI": READ,
    "/aegis.v1.UserService/GetProfile": READ,
    "/aegis.v1.UserService/UpdateProfile": MUTATE,
    "/aegis.v1.UserService/ChangePassword": MUTATE,
    "/aegis.v1.DetectorService/PromoteDetector": MUTATE,
    "/aegis.v1.GoldenSetService/PromoteGoldenSet": MUTATE,
    "/aegis.v1.ReviewService/SubmitUpdate": TRAIN,
    "/aegis.v1.ReviewService/GetUpload": TRAIN,
    "/aegis.v1.TrainingService/PauseRun": MUTATE,
    "/aegis.v1.PolicyService/ReportDecisions": EVALUATE,
}
_ENTRY = re.compile(r"([a-z]+)=(\d{1,6}(?:\.\d{1,3})?)/(\d{1,6})")
_LEASES_MAX = 10_000
_LEASE_SHARE = 100


@cache
def class_of(method: str) -> str:
    """Returns the class of a method; what nobody classified is counted as a change."""
    if method in _OF_METHOD:
        return _OF_METHOD[method]
    needs = ACCESS.get(method)
    if isinstance(needs, Needs):
        return _OF_ACTION.get(needs.action, MUTATE)
    return MUTATE if needs is None else SESSION


def parse_limits(text: str) -> Mapping[str, Bucket]:
    """Reads "mutate=20/40 read=100/200", calls a second and at once; others as in `DEFAULTS`.

    Raises ValueError naming the entry that makes no sense.
    """
    limits = dict(DEFAULTS)
    for entry in text.split():
        match = _ENTRY.fullmatch(entry)
        if match is None or match[1] not in DEFAULTS or not float(match[2]) or not int(match[3]):
            raise ValueError(
                f"AEGIS_LIMITS: {entry!r} is not CLASS=RATE/BURST with one of {', '.join(DEFAULTS)}"
            )
        limits[match[1]] = Bucket(match[1], rate=float(match[2]), burst=int(match[3]))
    return limits


@dataclass(slots=True)
class _Lease:
    left: int = 0
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Limits:
    """Counts calls in `buckets`, for `Doors`."""

    def __init__(
        self,
        buckets: Buckets,
        *,
        registry: CollectorRegistry,
        limits: Mapping[str, Bucket] = DEFAULTS,
    ) -> None:
        self._buckets = buckets
        self._limits = limits
        self._leases: OrderedDict[tuple[str, str], _Lease] = OrderedDict()
        self._refused = Counter(
            "aegis_rate_limited_total",
            "Calls refused because their caller calls too often, by class.",
            ["class"],
            registry=registry,
        )
        self._uncounted = Counter(
            "aegis_limiter_failed_open_total",
            "Calls let through uncounted while Redis was away, by class.",
            ["class"],
            registry=registry,
        )

    async def __call__(self, method: str, caller: Caller) -> None:
        """Pays for a call.

        Raises `ResourceExhausted` (RATE_LIMITED) saying when to come again, or, for what changes
        something, `Unavailable` (LIMITER_UNAVAILABLE).
        """
        kind = class_of(method)
        bucket = self._limits[kind]
        of = network_of(caller.address) if caller.method == "anonymous" else caller.subject
        lease = self._leases.get((bucket.name, of))
        if lease is not None and lease.left:
            # Nearly always: nothing to wait for.
            lease.left -= 1
            self._leases.move_to_end((bucket.name, of))
            return
        try:
            wait = await self._pay(bucket, of)
        except Unavailable:
            if kind not in _PASS_UNCOUNTED:
                raise
            self._uncounted.labels(kind).inc()
            return
        if wait > 0:
            self._refused.labels(kind).inc()
            raise ResourceExhausted(
                "RATE_LIMITED",
                f"{of} may make {bucket.rate:g} {kind} calls a second, and {bucket.burst} at once",
                retry_seconds=rounded_up(wait),
                limit=kind,
            )

    async def _pay(self, bucket: Bucket, of: str) -> float:
        lease = self._lease(bucket, of)
        # One asks for all that wait here.
        async with lease.renewing:
            if not lease.left:
                most = max(1, bucket.burst // _LEASE_SHARE)
                lease.left, wait = await self._buckets.lease(bucket, of, most)
                if not lease.left:
                    return wait
            lease.left -= 1
            return 0

    def _lease(self, bucket: Bucket, of: str) -> _Lease:
        key = (bucket.name, of)
        lease = self._leases.get(key)
        if lease is None:
            lease = self._leases[key] = _Lease()
            if len(self._leases) > _LEASES_MAX:
                self._leases.popitem(last=False)
        self._leases.move_to_end(key)
        return lease
