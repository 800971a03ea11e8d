"""The local decision point: a verified copy of the rules in this process, and no round trip.

A task follows the server's stream of revisions; `decide` asks the copy, from any thread, in some
microseconds. What keeps that safe:

* A copy is used when its digest is the revision's, and whole revisions are swapped by one
  reference, so no answer comes from half of a change.
* The server says at least once a second that this was the newest revision at such a time. Once the
  last such word is older than the caller's bound, nothing is decided any more. Nor is it before
  the rules *and* the roles of the directory are there: either may hold a deny.
* Time windows are read by the server's clock. A machine whose own clock is wrong grants nothing
  longer.
* Every decision is reported to the decision log, or with `when_unreported="refuse"` not made.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import time
import uuid
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import grpc

from aegis.decisions.clocks import Backoff, since_boot
from aegis.decisions.reading import Known, Reader
from aegis.decisions.reports import Reports
from aegis.decisions.snapshots import BrokenStep, UnusableRules
from aegis.decisions.values import DEFAULT_DOMAIN, Decision, StaleSnapshot, bad, cleaned
from aegis.errors import (
    AegisError,
    FailedPrecondition,
    Internal,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    from_rpc_error,
)
from aegis.v1 import policy_pb2, policy_pb2_grpc
from aegis_policy import RequestError

log = logging.getLogger(__name__)

# The server promises a sign of life every second; a large step may be longer under way.
_SILENCE_SECONDS = (2.0, 10.0)
_CONNECT_SECONDS = 20.0
# Waiting would not help: somebody has to change something first.
_REFUSALS = (FailedPrecondition, PermissionDenied, Unauthenticated)

Stream: TypeAlias = (
    "grpc.aio.UnaryStreamCall[policy_pb2.WatchPolicyRequest, policy_pb2.WatchPolicyResponse]"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a local decision point is doing; `problem` is empty while the stream is there."""

    revision: int
    age_seconds: float
    unreported: int
    dropped: int
    problem: str


class LocalDecisionPoint:
    """Decides by rules that are at most `max_age_seconds` old. Use it with `async with`.

    `report` says whether decisions go to the server's decision log. At most `unreported_max` wait
    for that; when there are more, `when_unreported` says whether the oldest are dropped and
    counted, or no more decisions are made. `clock` counts seconds and never goes back.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        max_age_seconds: float,
        report: bool = True,
        when_unreported: Literal["refuse", "drop"] = "refuse",
        unreported_max: int = 50_000,
        clock: Callable[[], float] = since_boot,
    ) -> None:
        if not 0 < max_age_seconds < math.inf:
            raise ValueError("max_age_seconds: expected a bound")
        self._channel = channel
        self._stub = policy_pb2_grpc.PolicyServiceStub(channel)
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._reports = (
            Reports(self._stub, most=unreported_max, refuse=when_unreported == "refuse")
            if report
            else None
        )
        least, most = _SILENCE_SECONDS
        self._silence_seconds = max(least, min(most, max_age_seconds / 2))
        self._known = Known()
        self._problem: AegisError | None = None
        self._changed = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        # Random once, then counted, as the server's: cheap, and the log shows where one is missing.
        random = str(uuid.uuid4())
        self._series = f"{random[:14]}8{random[15:24]}"
        self._numbers = itertools.count(1)
        _POINTS.add(self)

    async def __aenter__(self) -> LocalDecisionPoint:
        self._running = asyncio.create_task(self.run())
        return self

    async def __aexit__(self, *failure: object) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
            if not self._running.cancelled():
                self._running.result()

    async def run(self) -> None:
        """Follows the server until cancelled; then reports what is left."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow())
                if self._reports is not None:
                    tasks.create_task(self._reports.run())
        finally:
            self._know(Known())
            if self._reports is not None:
                await self._reports.close()

    def decide(
        self,
        *,
        subject: str,
        resource: str,
        action: str,
        domain: str = DEFAULT_DOMAIN,
        attributes: Mapping[str, object] | None = None,
    ) -> Decision:
        """Returns the decision, at once and in any thread; a denial is one, not an error.

        Raises `StaleSnapshot` when what is known here is older than the bound, `InvalidArgument`
        (FIELD_INVALID) for a question that is not canonical, and `ResourceExhausted`
        (DECISION_LOG_FULL) when it would have no record and has to have one.
        """
        known = self._known
        began = self._clock()
        snapshot, roles = known.snapshot, known.roles
        if began - known.made_at > self._max_age_seconds or snapshot is None or roles is None:
            raise self._stale(began - known.made_at)
        reports = self._reports
        if reports is not None:
            reports.make_room()
        started = time.perf_counter()
        read = cleaned(attributes) if attributes else {}
        domain = domain or DEFAULT_DOMAIN
        at = began + known.offset
        try:
            answer = snapshot.engine.decide(
                subject=subject,
                domain=domain,
                resource=resource,
                action=action,
                attributes=read,
                roles=roles.get(subject, ()),
                now=datetime.fromtimestamp(at, UTC),
            )
        except RequestError as error:
            raise bad(error.field, error.expected) from None
        decision = Decision(
            answer.allowed,
            answer.rule_id,
            snapshot.revision,
            f"{self._series}{next(self._numbers):012x}",
            answer.valid_until,
        )
        if reports is not None:
            seconds = time.perf_counter() - started
            reports.add((decision, subject, domain, resource, action, read, at, seconds))
        return decision

    async def ready(self, *, at_least_revision: int = 0) -> None:
        """Returns once it can decide, by that revision or a later one.

        Raises `PermissionDenied`, `Unauthenticated` or `FailedPrecondition` (POLICY_NOT_COMPILED)
        when the server will not have it; else waits, so give it a timeout.
        """
        while True:
            changed = self._changed
            standing = self.standing()
            if (
                standing.age_seconds <= self._max_age_seconds
                and standing.revision >= at_least_revision
            ):
                return
            if isinstance(self._problem, _REFUSALS):
                raise self._problem
            await changed.wait()

    def standing(self) -> Standing:
        """Returns how it is doing, for a health page or a metric."""
        known, reports = self._known, self._reports
        return Standing(
            revision=known.revision,
            age_seconds=self._clock() - known.made_at,
            unreported=len(reports) if reports is not None else 0,
            dropped=reports.dropped if reports is not None else 0,
            problem=self._problem.message if self._problem else "",
        )

    def _stale(self, age_seconds: float) -> StaleSnapshot:
        problem = self._problem.message if self._problem else ""
        return StaleSnapshot(age_seconds, self._max_age_seconds, problem)

    def forget(self) -> None:
        """Drops what is known; decides again once the server has told all of it."""
        self._known = Known()

    def _know(self, known: Known) -> None:
        self._known = known
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _follow(self) -> None:
        backoff = Backoff(0.2, 5.0)
        while True:
            try:
                await self._read_stream(backoff)
            except AegisError as error:
                again = self._problem is not None and self._problem.message == error.message
                log.log(logging.DEBUG if again else logging.WARNING, "not following: %s", error)
                self._problem = error
                self._know(self._known)
            await asyncio.sleep(backoff.next())

    async def _read_stream(self, backoff: Backoff) -> None:
        """Reads one stream to its end; raises `AegisError` for why it ended."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self._channel.channel_ready()
            reader = Reader(self._known, self._clock)
            call = self._stub.WatchPolicy(reader.request())
            try:
                while (message := await self._next(call)) is not None:
                    self._know(await reader.take(message))
                    if reader.lags(message, self._max_age_seconds):
                        raise Unavailable("POLICY_UNUSABLE", "what the server says is too old")
                    self._problem = None
                    backoff.reset()
            finally:
                call.cancel()
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        except TimeoutError:
            raise Unavailable("POLICY_UNUSABLE", "the server says nothing") from None
        except BrokenStep as error:
            # Either side may be wrong about what is held here: all of it is asked for again.
            self._know(Known())
            raise Internal("INTERNAL", f"the rules held here are dropped: {error}") from error
        except UnusableRules as error:
            raise Unavailable("POLICY_UNUSABLE", str(error)) from error

    async def _next(self, call: Stream) -> policy_pb2.WatchPolicyResponse | None:
        async with asyncio.timeout(self._silence_seconds):
            message = await call.read()
        return message if isinstance(message, policy_pb2.WatchPolicyResponse) else None


_POINTS: weakref.WeakSet[LocalDecisionPoint] = weakref.WeakSet()


def _forget_all() -> None:
    for point in _POINTS:
        point.forget()


# A child has the rules, but nobody who follows them or reports, and would use its parent's ids.
os.register_at_fork(after_in_child=_forget_all)
