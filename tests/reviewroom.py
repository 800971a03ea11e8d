"""A review room behind a real gRPC server, on real Postgres, with real processes at its desks.

Import the fixtures a test module needs: `from tests.reviewroom import desks, room`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from aegis.errors import AegisError, NotFound, from_rpc_error
from aegis.serving.auditlog import AuditLog
from aegis.serving.auditlog.store import Store
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis.spiffe import Caller
from aegis.v1 import audit_pb2, review_pb2, review_pb2_grpc
from aegis_learning import parameters
from aegis_learning.datasets import load
from aegis_server.access import Access
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Revisions
from aegis_server.review.desks import Desks
from aegis_server.review.store import RoundKey
from aegis_server.review.updates import Base
from tests.blobs import blobs_in
from tests.doors import DoorsByName
from tests.reviewing import Making
from tests.unit.review.factories import a_round

RUN = "run-1"
COORDINATOR = Caller("service:coordinator", "spiffe://aegis.local/service/coordinator")
ACCEPTED = review_pb2.Update.VERDICT_ACCEPTED
REJECTED = review_pb2.Update.VERDICT_REJECTED
PENDING = review_pb2.Update.VERDICT_PENDING
HELD = review_pb2.Update.VERDICT_HELD

# Made once, as the attacker of every round here: the third of five.
CASE = a_round(s3="sign-flip")
GOOD = CASE.submissions[0].data
KEY = RoundKey(RUN, 1, 1)
# Who has which role here, beside the rules; participants are those that have enrolled.
ROLES: Mapping[str, tuple[str, ...]] = {
    "user:olga": ("role:operator",),
    "user:otto": ("role:operator",),
    "user:vera": ("role:viewer",),
    "service:nightly": ("role:operator",),
    "automation:autopilot": ("role:operator",),
    **{f"participant:s{n}": ("role:participant",) for n in range(1, 8)},
}


class KnownRuns:
    """The training room's answer for one run."""

    def __init__(self) -> None:
        self.base: Base | None = None

    async def base_of(self, run_id: str, round: int) -> Base:  # noqa: A002
        """Knows one run."""
        if run_id != RUN or self.base is None:
            raise NotFound("RESOURCE_NOT_FOUND", f"there is no run {run_id}", resource=run_id)
        return self.base


@dataclass(slots=True)
class Room:
    """The served room, and what a test wants to look at behind it."""

    stub: review_pb2_grpc.ReviewServiceStub
    database: Database
    deeds: Deeds
    runs: KnownRuns
    blobs: Path
    making: Making

    async def submit(
        self,
        data: bytes,
        participant: str = "s1",
        *,
        chunk: int = 1000,
        by: str = "",
        **header: object,
    ) -> review_pb2.Update:
        """Sends an update as an honest client would, but for what `header` overrides."""
        fields = {
            "run_id": RUN,
            "round": 1,
            "attempt": 1,
            "participant": participant,
            "sha256": parameters.digest(data),
            "size_bytes": len(data),
        } | header
        parts = [
            review_pb2.SubmitUpdateRequest(
                header=review_pb2.SubmitUpdateRequest.Header(**fields)  # type: ignore[arg-type]
            ),
            *(
                review_pb2.SubmitUpdateRequest(chunk=data[start : start + chunk])
                for start in range(0, len(data), chunk)
            ),
        ]
        return await self.send(*parts, by=by)

    async def send(self, *parts: review_pb2.SubmitUpdateRequest, by: str = "") -> review_pb2.Update:
        """Sends these parts as somebody; raises the server's error."""
        try:
            call = self.stub.SubmitUpdate(iter(parts), timeout=20, metadata=named(by))
            return (await call).update
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def refusal(self, *parts: review_pb2.SubmitUpdateRequest) -> str:
        """Returns the reason why these parts are refused."""
        with pytest.raises(AegisError) as refused:
            await self.send(*parts)
        return refused.value.reason

    async def submit_round(self) -> None:
        """Sends the five updates of `CASE`."""
        for submission in CASE.submissions:
            await self.submit(submission.data, submission.update_id)

    async def review(self, attempt: int = 1, *asked: str) -> list[review_pb2.Update]:
        """Has round 1 judged, of these or (empty) of all; raises the server's error."""
        request = review_pb2.ReviewRoundRequest(
            run_id=RUN, round=1, attempt=attempt, participants=asked
        )
        try:
            return list((await self.stub.ReviewRound(request, timeout=60)).updates)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def override(
        self, update_id: str, to: review_pb2.Update.Verdict.ValueType, by: str, reason: str = "why"
    ) -> review_pb2.OverrideVerdictResponse:
        """Decides otherwise as somebody; raises the server's error."""
        request = review_pb2.OverrideVerdictRequest(update_id=update_id, verdict=to, reason=reason)
        try:
            return await self.stub.OverrideVerdict(request, timeout=10, metadata=named(by))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def list(self, **query: object) -> review_pb2.ListUpdatesResponse:
        """Lists updates; raises the server's error."""
        try:
            return await self.stub.ListUpdates(review_pb2.ListUpdatesRequest(**query), timeout=10)  # type: ignore[arg-type]
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def records(self, outcome: str = "") -> list[audit_pb2.AuditRecord]:
        """The audit log, in order."""
        async with self.database.transaction() as connection:
            rows = await Store("aegis").stored_from(connection, start=0, limit=1000)
        records = [audit_pb2.AuditRecord.FromString(row[1]) for row in rows]
        return [
            record
            for record in records
            if record.kind == audit_pb2.AUDIT_KIND_REVIEW and outcome in ("", record.outcome)
        ]

    def stored_blobs(self) -> int:
        """Number of files in the blob store, the base model included."""
        return sum(path.is_file() for path in self.blobs.rglob("*"))


@pytest.fixture(scope="module")
def desks() -> Iterator[Desks]:
    started = Desks(1)
    yield started
    started.close()


@asynccontextmanager
async def serving(
    database: Database, folder: Path, desks: Desks, **limits: object
) -> AsyncIterator[Room]:
    def now() -> datetime:
        return datetime.now(UTC)

    audit = AuditLog(database, log_id="test", clock=now)
    writer = asyncio.create_task(audit.run())
    blobs, runs, deeds = blobs_in(folder / "blobs"), KnownRuns(), Deeds()
    runs.base = Base(
        load("breast-cancer"),
        CASE.family.name,
        await blobs.put(CASE.base),
        examples={each.update_id: each.examples for each in CASE.submissions} | {"s6": 50},
    )
    decisions = Decisions(
        database,
        cache=None,
        clock=now,
        registry=CollectorRegistry(),
        held_roles=lambda subject: ROLES.get(subject, ()),
    )
    await Revisions(database, audit=audit, decisions=decisions, clock=now).ensure_first()
    await decisions.open()
    making = Making(database, audit, blobs, runs, decisions, now, desks, deeds, **limits)  # type: ignore[arg-type]
    service = making.service()
    server = grpc.aio.server(
        interceptors=[DoorsByName(COORDINATOR, Access(decisions, audit).admit)]
    )
    review_pb2_grpc.add_ReviewServiceServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{folder}/review.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{folder}/review.sock") as channel:
        stub = review_pb2_grpc.ReviewServiceStub(channel)
        yield Room(stub, database, deeds, runs, folder / "blobs", making)
    await server.stop(1)
    await deeds.drain()
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)


@pytest.fixture
async def room(database: Database, tmp_path: Path, desks: Desks) -> AsyncIterator[Room]:
    async with serving(database, tmp_path, desks) as served:
        yield served


def named(subject: str) -> list[tuple[str, str]]:
    """Says who calls."""
    return [("authorization", subject)] if subject else []


def header(**fields: object) -> review_pb2.SubmitUpdateRequest:
    """The header of `GOOD`, but for these fields."""
    values = {
        "run_id": RUN,
        "round": 1,
        "attempt": 1,
        "participant": "s1",
        "sha256": parameters.digest(GOOD),
        "size_bytes": len(GOOD),
    } | fields
    return review_pb2.SubmitUpdateRequest(
        header=review_pb2.SubmitUpdateRequest.Header(**values)  # type: ignore[arg-type]
    )


def chunk(data: bytes) -> review_pb2.SubmitUpdateRequest:
    """A part of a file."""
    return review_pb2.SubmitUpdateRequest(chunk=data)
