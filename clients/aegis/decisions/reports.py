"""What was decided here, on its way to the server's decision log.

A decision only leaves a tuple behind; messages are made when a batch is sent. A batch that was not
acknowledged is sent again as it was, so the log sees the same ids and keeps one of each.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from typing import Any, TypeAlias

import grpc

from aegis.decisions.clocks import Backoff
from aegis.decisions.values import Decision
from aegis.errors import AegisError, ResourceExhausted, from_rpc_error
from aegis.v1 import policy_pb2, policy_pb2_grpc

log = logging.getLogger(__name__)

_BATCH = 1000
# Below the 256 KiB that the server's doors let in.
_BATCH_BYTES = 224 * 1024
_PERIOD_SECONDS = 0.5
_CALL_SECONDS = 10.0
_CLOSE_SECONDS = 5.0
# These are about the batch, not about the moment: it will never be taken as it is.
_HOPELESS = frozenset({"FIELD_INVALID", "REQUEST_TOO_LARGE"})


# A decision as it waits, with what was asked: subject, domain, resource, action, attributes; then
# when, by the server's clock, and how many seconds it took. Bare, because one is made each time.
Report: TypeAlias = tuple[Decision, str, str, str, str, dict[str, Any], float, float]


class Reports:
    """Takes reports from any thread; `run()` sends them. At most `most` wait.

    When there are more, the oldest are dropped and counted, or with `refuse` nothing more is
    decided until there is room.
    """

    def __init__(self, stub: policy_pb2_grpc.PolicyServiceStub, *, most: int, refuse: bool) -> None:
        self._stub = stub
        self._most = most
        self._refuse = refuse
        self._lock = threading.Lock()
        self._waiting: deque[Report] = deque()
        self._sending: list[policy_pb2.ReportedDecision] = []
        self._backoff = Backoff(0.2, 10.0)
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sending)

    def make_room(self) -> None:
        """Raises `ResourceExhausted` (DECISION_LOG_FULL) if the next report would not be kept."""
        if self._refuse and len(self._waiting) + len(self._sending) >= self._most:
            raise ResourceExhausted(
                "DECISION_LOG_FULL",
                f"{len(self)} decisions wait to be reported: this one would have no record",
                retry_seconds=1.0,
            )

    def add(self, report: Report) -> None:
        """Keeps a report."""
        self._waiting.append(report)
        if not self._refuse and len(self._waiting) + len(self._sending) > self._most:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft()
                    self.dropped += 1

    async def run(self) -> None:
        """Sends what waits, twice a second, until cancelled."""
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            await self.flush()

    async def close(self) -> None:
        """Sends what is left, within some seconds; the rest is lost, counted and told."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.flush()
        except TimeoutError:
            log.warning("%d decisions could not be reported any more", len(self))
            self.dropped += len(self)
            self._waiting.clear()
            self._sending.clear()

    async def flush(self) -> None:
        """Returns when everything that waits has been taken, however long that takes."""
        size = _BATCH
        while self._fill():
            try:
                await self._send(self._sending[:size])
            except AegisError as error:
                if error.reason in _HOPELESS:
                    size = self._give_up_some(size, error)
                    continue
                pause = max(self._backoff.next(), error.retry_seconds or 0.0)
                log.debug("reporting again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
            else:
                del self._sending[:size]
                size = _BATCH
                self._backoff.reset()

    def _fill(self) -> bool:
        """Makes the next batch, unless one is still there; says whether there is one."""
        if self._sending:
            return True
        size = 0
        while len(self._sending) < _BATCH and (report := self._oldest()) is not None:
            message = _message(report)
            size += message.ByteSize()
            if size > _BATCH_BYTES and self._sending:
                with self._lock:
                    self._waiting.appendleft(report)
                break
            self._sending.append(message)
        return bool(self._sending)

    def _oldest(self) -> Report | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    async def _send(self, batch: list[policy_pb2.ReportedDecision]) -> None:
        request = policy_pb2.ReportDecisionsRequest(decisions=batch)
        try:
            await self._stub.ReportDecisions(request, timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    def _give_up_some(self, size: int, error: AegisError) -> int:
        """Halves what is sent at once, until the one that is refused is alone, and drops that."""
        tried = min(size, len(self._sending))
        if tried > 1:
            return tried // 2
        lost = self._sending.pop(0)
        self.dropped += 1
        log.error("decision %s can never be reported: %s", lost.decision_id, error)
        return _BATCH


def _message(report: Report) -> policy_pb2.ReportedDecision:
    decision, subject, domain, resource, action, attributes, at, seconds = report
    message = policy_pb2.ReportedDecision(
        effect=policy_pb2.EFFECT_ALLOW if decision.allowed else policy_pb2.EFFECT_DENY,
        rule_id=decision.rule_id,
        revision=decision.revision,
        decision_id=decision.decision_id,
        microseconds=int(seconds * 1e6),
    )
    request = message.request
    request.subject = subject
    request.domain = domain
    request.resource = resource
    request.action = action
    if attributes:
        request.attributes.update(attributes)
    message.time.FromNanoseconds(int(at * 1e9))
    return message
