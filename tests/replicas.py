"""A server that only keeps rules and answers about them, with a network that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from aegis.channel import OPTIONS
from aegis.errors import AegisError, FieldViolation, InvalidArgument, Unavailable
from aegis.serving.doors import Grant
from aegis.spiffe import Caller
from aegis.v1 import policy_pb2, policy_pb2_grpc
from aegis_policy import Engine, Line, RequestError, read_rules, to_csv
from aegis_server.policy.store import Revision
from aegis_server.policy.watching import Held, State, Step, watch
from tests.doors import DoorsFor

CALLER = Caller("service:shop", "spiffe://aegis.local/service/shop")


@dataclass
class Kept:
    """One revision, as a server keeps it."""

    revision: Revision
    lines: dict[int, Line]
    engine: Engine


class Rules:
    """A `Source` in memory."""

    def __init__(self, csv: str) -> None:
        self.kept: list[Kept] = []
        self.roles = Held(1, {})
        self.told: list[str] = []
        self.problem: AegisError | None = None
        self.model_digest = b""
        self._looked_at: datetime | None = None
        self._frozen = False
        self._changed = asyncio.Event()
        self.replace(csv)

    def replace(self, csv: str) -> int:
        """Makes a revision of a rule file; lines that stay keep their places."""
        before = {line: place for place, line in self.lines.items()}
        fresh = max(self.lines, default=0) + 1
        lines = {}
        for line in read_rules(csv).lines:
            place = before.get(line)
            if place is None:
                place, fresh = fresh, fresh + 1
            lines[place] = line
        previous = self.kept[-1].revision.digest if self.kept else bytes(32)
        number = len(self.kept) + 1
        text = to_csv(lines[place] for place in sorted(lines))
        digest = hashlib.sha256(previous + hashlib.sha256(text.encode()).digest()).digest()
        revision = Revision(number, previous, digest, "user:admin", "", len(lines), None)
        self.kept.append(Kept(revision, lines, Engine.from_csv(text)))
        self._tell()
        return number

    def give(self, roles: Mapping[str, Sequence[str]]) -> None:
        """Replaces the directory."""
        self.roles = Held(self.roles.version + 1, roles)
        self._tell()

    def freeze(self) -> None:
        """Takes Postgres away: looks do not work any more."""
        self._looked_at = datetime.now(UTC)
        self._frozen = True

    @property
    def lines(self) -> dict[int, Line]:
        return self.kept[-1].lines if self.kept else {}

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def look(self) -> State:
        if self._frozen:
            raise Unavailable("DATABASE_UNAVAILABLE", "the newest revision cannot be read")
        return self.state()

    def state(self) -> State:
        newest = self.kept[-1].revision
        looked_at = self._looked_at or datetime.now(UTC)
        return State(newest.number, newest.digest, looked_at)

    def held(self) -> Held:
        return self.roles

    async def full(self) -> Step:
        self.told.append("full")
        newest = self.kept[-1]
        return Step(0, newest.revision, (), sorted(newest.lines.items()))

    async def delta(self, number: int, digest: bytes) -> Step | None:
        if number > len(self.kept) or self.kept[number - 1].revision.digest != digest:
            return None
        self.told.append(f"delta {number}")
        old, new = self.kept[number - 1].lines, self.kept[-1]
        removed = [place for place, line in old.items() if new.lines.get(place) != line]
        added = [(place, line) for place, line in new.lines.items() if old.get(place) != line]
        return Step(number, new.revision, removed, sorted(added))

    async def wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()


@dataclass
class Service(policy_pb2_grpc.PolicyServiceServicer):
    """Answers by the newest rules; `alter` may change what is told to a replica."""

    rules: Rules
    piece_bytes: int = 1024 * 1024
    sign_seconds: float = 0.05
    asked: list[policy_pb2.BatchEvaluateRequest] = field(default_factory=list)
    reported: list[policy_pb2.ReportedDecision] = field(default_factory=list)
    watched: list[policy_pb2.WatchPolicyRequest] = field(default_factory=list)
    # Raised by the next calls, one each.
    failures: list[AegisError] = field(default_factory=list)
    report_failures: list[AegisError] = field(default_factory=list)
    hold: asyncio.Event | None = None

    async def alter(
        self, message: policy_pb2.WatchPolicyResponse
    ) -> policy_pb2.WatchPolicyResponse | None:
        """Returns what is sent instead; None ends the stream."""
        return message

    async def WatchPolicy(self, request, context):
        self.watched.append(request)
        if self.failures:
            raise self.failures.pop(0)
        told = watch(
            self.rules, request, piece_bytes=self.piece_bytes, sign_seconds=self.sign_seconds
        )
        async for message in told:
            altered = await self.alter(message)
            if altered is None:
                return
            yield altered

    async def BatchEvaluate(self, request, context):
        self.asked.append(request)
        if self.failures:
            raise self.failures.pop(0)
        if self.hold is not None:
            await self.hold.wait()
        newest = self.rules.kept[-1]
        response = policy_pb2.BatchEvaluateResponse()
        for item in request.requests:
            answer, status = response.responses.add(), response.statuses.add()
            try:
                decision = newest.engine.decide(
                    subject=item.subject,
                    domain=item.domain or "aegis",
                    resource=item.resource,
                    action=item.action,
                    attributes=MessageToDict(item.attributes),
                    roles=self.rules.roles.roles.get(item.subject, ()),
                )
                _refuse_explosions(item)
            except RequestError as error:
                violation = FieldViolation(f"requests[0].{error.field}", error.expected)
                bad = InvalidArgument("FIELD_INVALID", "no", violations=[violation])
                status.CopyFrom(bad.to_status())
                continue
            answer.effect = 1 if decision.allowed else 2
            answer.rule_id = decision.rule_id
            answer.revision = newest.revision.number
        return response

    async def ReportDecisions(self, request, context):
        if self.report_failures:
            raise self.report_failures.pop(0)
        self.reported.extend(request.decisions)
        return policy_pb2.ReportDecisionsResponse()


def _refuse_explosions(item: policy_pb2.EvaluateRequest) -> None:
    if item.action == "explode":
        raise RequestError("action", "expected something harmless")


class Stand:
    """The service at a socket, behind the doors; `stop` and `start` are its power switch."""

    def __init__(self, folder: Path, csv: str) -> None:
        self.rules = Rules(csv)
        self.service = Service(self.rules)
        self.address = f"unix:{folder}/s"
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        async def admit(method: str, caller: Caller) -> Grant:
            return Grant()

        self._server = grpc.aio.server(interceptors=[DoorsFor(CALLER, admit)])
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(self.service, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    def channel(self) -> grpc.aio.Channel:
        options = (*OPTIONS, ("grpc.max_reconnect_backoff_ms", 200), ("grpc.enable_retries", 0))
        return grpc.aio.insecure_channel(self.address, options=options)


class Hands:
    """A clock that only the test moves forward, beside the real one."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skipped


async def until(true: Any, seconds: float = 5.0) -> None:
    """Waits for a fact."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)


def in_threads(count: int, work: Any) -> list[threading.Thread]:
    """Starts the work in so many threads."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads
