"""A control plane that does nothing but relay tasks, and sites that follow a script.

Postgres, TLS, policy and blobs are real; several servers may stand on one database, as in
production.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from prometheus_client import CollectorRegistry

from aegis.channel import Identity, connect
from aegis.errors import AegisError, from_rpc_error
from aegis.local.authority import Authority, Names
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, Doors, by_certificate, current_call
from aegis.serving.metrics import CallMetrics
from aegis.serving.port import Port
from aegis.serving.tls import TlsFiles
from aegis.spiffe import spiffe_id
from aegis.v1 import participant_pb2, participant_pb2_grpc, training_pb2, training_pb2_grpc
from aegis_learning.datasets import load
from aegis_server.access import Access
from aegis_server.entrance import LARGER
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Revisions
from aegis_server.training import store
from aegis_server.training.attendance.stream import Pace
from aegis_server.training.attendance.streams import Streams
from aegis_server.training.coordination import CoordinatorService
from aegis_server.training.progress import Progress
from aegis_server.training.states import Changes
from aegis_server.training.store import StoredRound, StoredRun
from aegis_server.training.tasks.answers import Answers
from aegis_server.training.tasks.news import News
from aegis_server.training.tasks.tasks import Tasks
from tests.blobs import blobs_in

Request = participant_pb2.AttendRequest
Response = participant_pb2.AttendResponse

OWN_APP = training_pb2.App(name="aegis", sha256=bytes(range(32)))
CHUNK = 256 * 1024
# A poll of 5 s, so that what is quick was told.
PACE = Pace(poll=5.0)
PLAN = training_pb2.RunPlan(dataset="breast-cancer", model="mlp", rounds=5, participants=3)


def now() -> datetime:
    """The clock of these tests."""
    return datetime.now(UTC)


class Attendance(participant_pb2_grpc.ParticipantServiceServicer):
    """The one method that is ours."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    async def Attend(
        self, request_iterator: AsyncIterator[Request], context: Context
    ) -> AsyncIterator[Response]:
        async for response in self._streams.attend(request_iterator, current_call().caller):
            yield response


class Server:
    """One server process' worth of relaying."""

    def __init__(self, url: str, folder: Path, *, pace: Pace, memory: int, listens: bool) -> None:
        self.database = Database(url, application="test")
        self.audit = AuditLog(self.database, log_id="test", clock=now)
        registry = CollectorRegistry()
        self.decisions = Decisions(
            self.database,
            cache=None,
            clock=now,
            registry=registry,
            held_roles=lambda subject: (
                ("role:participant",) if subject.startswith("participant:") else ()
            ),
        )
        self.doors = Doors(
            admit=Access(self.decisions, self.audit).admit,
            metrics=CallMetrics(registry),
            authenticate=by_certificate("aegis.local"),
            larger=LARGER,
        )
        pki = folder / "pki"
        self.port = Port(
            doors=self.doors,
            tls=TlsFiles(pki / "server.crt", pki / "server.key", pki / "ca.crt"),
            services=(),
        )
        self.blobs, self.news, self.deeds = blobs_in(folder / "blobs"), News(url), Deeds()
        self.tasks = Tasks(self.database, self.blobs, clock=now)
        self.streams = Streams(
            self.database,
            self.blobs,
            Answers(self.database, self.blobs, clock=now),
            self.news,
            clock=now,
            schema_of=_schema_of,
            own_app=OWN_APP,
            pace=pace,
            answers_bytes_max=memory,
        )
        self.address = ""
        self._listens = listens
        self._parts: list[asyncio.Task[Any]] = []

    async def open(self, address: str) -> None:
        """Serves."""
        await self.database.open()
        revisions = Revisions(self.database, audit=self.audit, decisions=self.decisions, clock=now)
        self._parts = [asyncio.create_task(self.audit.run())]
        await revisions.ensure_first()
        await self.decisions.open()
        progress = Progress(self.database, self.audit, self.blobs, clock=now, changes=Changes())
        training_pb2_grpc.add_CoordinatorServiceServicer_to_server(
            CoordinatorService(progress, self.deeds, self.tasks, self.news), self.port.server
        )
        participant_pb2_grpc.add_ParticipantServiceServicer_to_server(
            Attendance(self.streams), self.port.server
        )
        if self._listens:
            self._parts.append(asyncio.create_task(self.news.run()))
        self.address = await self.port.open(address)

    async def close(self, grace: float = 2.0) -> None:
        """Drains and ends."""
        self.news.close()
        await self.port.close(grace)
        await self.deeds.drain()
        for part in self._parts:
            part.cancel()
        await asyncio.gather(*self._parts, return_exceptions=True)
        await self.database.close()


async def _schema_of(dataset: str) -> bytes:
    return load(dataset).schema.sha256


@dataclass
class World:
    """Servers on one database, and what a test does to it."""

    url: str
    folder: Path
    stack: AsyncExitStack
    database: Database
    servers: list[Server] = field(default_factory=list)

    async def server(
        self,
        *,
        address: str = "127.0.0.1:0",
        pace: Pace = PACE,
        memory: int = 64 * 1024 * 1024,
        listens: bool = True,
    ) -> Server:
        """One more server."""
        server = Server(self.url, self.folder, pace=pace, memory=memory, listens=listens)
        await server.open(address)
        self.stack.push_async_callback(server.close, 0.0)
        self.servers.append(server)
        return server

    async def coordinator(self, server: Server) -> training_pb2_grpc.CoordinatorServiceStub:
        """How a coordinator calls a server."""
        return training_pb2_grpc.CoordinatorServiceStub(
            await self.channel("coordinator", server.address)
        )

    async def channel(self, name: str, address: str) -> grpc.aio.Channel:
        """A channel with that certificate."""
        identity = Identity.of(name, self.folder)
        return await self.stack.enter_async_context(connect(address, identity))

    async def enrol(self, *names: str) -> None:
        """Participants, with certificates."""
        authority = Authority.open(self.folder / "pki")
        assert authority is not None
        async with self.database.transaction() as connection:
            for name in names:
                names_of = Names(spiffe_id(f"participant:{name}", "aegis.local"))
                authority.issue(name, names_of, now(), [], days=1)
                await connection.execute(
                    """
                    insert into aegis.participant
                        (name, state, invited_by, invited_at, secret_sha256, invitation_ends_at)
                    values (%s, 2, 'user:admin', now(), %s, now())
                    """,
                    (name, hashlib.sha256(name.encode()).digest()),
                )

    async def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What another program does to the database, or a look into it."""
        async with self.database.transaction() as connection:
            cursor = await connection.execute(statement.encode(), values)
            return await cursor.fetchall() if cursor.description else []

    async def run(self, *sites: str, attempt: int = 1) -> str:
        """A running run of these sites whose initial model is stored."""
        run_id = f"run-{uuid.uuid4().hex[:12]}"
        stored = StoredRun(
            run_id, uuid.uuid4(), PLAN.SerializeToString(deterministic=True), 2, "", "user:admin",
            1, "", 1.0, attempt, now(), now(), "user:admin",
        )  # fmt: skip
        async with self.database.transaction() as connection:
            await store.insert_run(connection, stored)
            for name in sites:
                await connection.execute(
                    "insert into aegis.run_site select %s, name, node_id, 100"
                    " from aegis.participant where name = %s",
                    (run_id, name),
                )
        await self.complete(run_id, 0)
        return run_id

    async def complete(self, run_id: str, number: int) -> None:
        """A round is complete."""
        stored = StoredRound(run_id, number, 1, bytes(32), 0.5, 0.5, 0.1, number, now())
        async with self.database.transaction() as connection:
            await store.insert_round(connection, stored, [])

    async def sites(self, run_id: str) -> list[training_pb2.Site]:
        """The sites of a run, as its assignment names them."""
        rows = await self.execute(
            "select name, node_id, examples from aegis.run_site where run_id = %s order by 2",
            run_id,
        )
        return [training_pb2.Site(name=n, node_id=i, examples=e) for n, i, e in rows]

    async def attend(self, name: str, server: Server, *, hello: bool = True, **said: Any) -> Site:
        """A site's stream, and unless it is rude, its hello."""
        stub = participant_pb2_grpc.ParticipantServiceStub(await self.channel(name, server.address))
        site = Site(name, stub.Attend())
        self.stack.callback(site.call.cancel)
        if hello:
            await site.say(hello=Request.Hello(**{"protocol": 1, "software": "script", **said}))
        return site


@dataclass
class Site:
    """One stream of a site, driven by a test."""

    name: str
    call: Any

    async def say(self, **part: Any) -> None:
        """Sends one part."""
        await self.call.write(Request(**part))

    async def hear(self, seconds: float = 10.0) -> Response:
        """The next part; raises the `AegisError` that ended the stream."""
        try:
            async with asyncio.timeout(seconds):
                part = await self.call.read()
                if part is not grpc.aio.EOF:
                    return part
                await self.call.code()
                raise AssertionError("the stream is over")
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def welcomed(self) -> Site:
        """Hears the welcome."""
        assert (await self.hear()).HasField("welcome")
        return self

    async def task(self, seconds: float = 10.0) -> tuple[Response.Task, bytes]:
        """The next task, whole and checked."""
        task = (await self.hear(seconds)).task
        content = bytearray()
        while len(content) < task.content_size_bytes:
            chunk = (await self.hear()).chunk
            assert (chunk.task_id, 0 < len(chunk.data) <= CHUNK) == (task.task_id, True)
            content += chunk.data
        assert hashlib.sha256(content).digest() == task.content_sha256
        return task, bytes(content)

    async def answer(self, task: Response.Task, data: bytes, **changes: Any) -> None:
        """Sends an answer whole; `changes` are lies in its announcement."""
        announced = {
            "task_id": task.task_id,
            "nonce": task.nonce,
            "sha256": hashlib.sha256(data).digest(),
            "size_bytes": len(data),
            "steps": task.mechanism.steps,
            "seconds": 0.1,
            **changes,
        }
        await self.say(answer=Request.Answer(**announced))
        for start in range(0, len(data), CHUNK):
            chunk = Request.Chunk(task_id=task.task_id, data=data[start : start + CHUNK])
            await self.say(chunk=chunk)

    async def oblige(self, answer: Any = lambda content: content) -> None:
        """Answers every task, until it is cancelled."""
        while True:
            task, content = await self.task(seconds=60.0)
            await self.say(receipt=Request.Receipt(task_id=task.task_id))
            await self.answer(task, answer(content))
            assert (await self.hear()).HasField("accepted")


async def dispatch(
    stub: training_pb2_grpc.CoordinatorServiceStub,
    run_id: str,
    participants: Sequence[str],
    content: bytes = b"content",
    **changes: Any,
) -> list[str]:
    """Dispatches as a coordinator does; raises `AegisError`."""
    header = training_pb2.DispatchTasksRequest.Header(
        **{
            "run_id": run_id,
            "attempt": 1,
            "round": 1,
            "participants": participants,
            "message_type": "train",
            "content_sha256": hashlib.sha256(content).digest(),
            "content_size_bytes": len(content),
            "time_left": Duration(seconds=30),
            "mechanism": participant_pb2.Mechanism(
                noise_multiplier=1, sample_rate=0.3, steps=4, clip_norm=1, delta=1e-3
            ),
            "answer_bytes_max": 32 * 1024 * 1024,
            **changes,
        }
    )

    async def parts() -> AsyncIterator[training_pb2.DispatchTasksRequest]:
        yield training_pb2.DispatchTasksRequest(header=header)
        for start in range(0, len(content), CHUNK):
            yield training_pb2.DispatchTasksRequest(chunk=content[start : start + CHUNK])

    try:
        return list((await stub.DispatchTasks(parts(), timeout=30)).task_ids)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


async def collect(
    stub: training_pb2_grpc.CoordinatorServiceStub,
    run_id: str,
    task_ids: Sequence[str],
    *,
    attempt: int = 1,
) -> dict[str, tuple[training_pb2.CollectAnswersResponse.Collected, bytes]]:
    """What came back, by participant; raises `AegisError`."""
    found: dict[str, tuple[Any, bytes]] = {}
    request = training_pb2.CollectAnswersRequest(run_id=run_id, attempt=attempt, task_ids=task_ids)
    last = ""
    try:
        async for part in stub.CollectAnswers(request, timeout=60):
            if part.HasField("collected"):
                last = part.collected.participant
                found[last] = part.collected, b""
            else:
                found[last] = found[last][0], found[last][1] + part.chunk
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error
    return found


async def refusal_of(awaitable: Any) -> AegisError:
    """The `AegisError` something ends with."""
    try:
        found = await awaitable
    except AegisError as error:
        return error
    raise AssertionError(f"not refused: {found}")
