"""The streams of this process: who attends, and until when.

A participant has one stream that counts, its newest, whichever server has it; the others end. Which
that is, and whether the participant is still one, is in the database: every stream looks there each
time it hears of something, and every other second.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from functools import partial

from aegis.errors import (
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    PermissionDenied,
    Unavailable,
)
from aegis.serving.database import Database
from aegis.spiffe import Caller
from aegis.v1 import participant_pb2, training_pb2
from aegis_server.objects.blobs import BlobStore
from aegis_server.training.attendance import store
from aegis_server.training.attendance.contents import Contents
from aegis_server.training.attendance.incoming import Incoming
from aegis_server.training.attendance.memory import Memory
from aegis_server.training.attendance.store import Standing
from aegis_server.training.attendance.stream import (
    Means,
    Pace,
    Request,
    Response,
    SchemaOf,
    Stream,
    next_within,
    time_of,
)
from aegis_server.training.tasks.answers import Answers
from aegis_server.training.tasks.news import News
from aegis_server.training.tasks.store import StoredTask, open_tasks
from aegis_server.training.words import one_line

log = logging.getLogger(__name__)

_PROTOCOL = 1
_KIND = "participant:"
_ANSWERS_BYTES_MAX = 512 * 1024 * 1024


class Streams:
    """Serves ParticipantService.Attend.

    `schema_of` finds the digest of a data set's schema; `own_app` is the application of runs whose
    plan names none.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        answers: Answers,
        news: News,
        *,
        clock: Callable[[], datetime],
        schema_of: SchemaOf,
        own_app: training_pb2.App,
        pace: Pace = Pace(),  # noqa: B008  # frozen
        answers_bytes_max: int = _ANSWERS_BYTES_MAX,
    ) -> None:
        self._database = database
        self._answers = answers
        self._news = news
        self._clock = clock
        self._schema_of = schema_of
        self._own_app = own_app
        self._pace = pace
        self._contents = Contents(blobs)
        self.memory = Memory(answers_bytes_max)

    async def attend(
        self, requests: AsyncIterator[Request], caller: Caller
    ) -> AsyncGenerator[Response, None]:
        """Yields what a participant is sent, for as long as it takes part.

        Raises `InvalidArgument`; `PermissionDenied` (PARTICIPANT_UNKNOWN, PARTICIPANT_REVOKED);
        `FailedPrecondition` (STATE_CONFLICT) when it came in again elsewhere; `DeadlineExceeded`
        for silence; `Unavailable`, also when this server is about to stop.
        """
        self._news.require_open()
        participant = caller.subject.removeprefix(_KIND)
        standing = await self._standing(participant)
        if not caller.subject.startswith(_KIND) or standing is None:
            raise PermissionDenied(
                "PARTICIPANT_UNKNOWN", "this is no participant", participant=participant
            )
        _require_enrolled(participant, standing)
        hello = await self._hello(aiter(requests))
        stream_id = uuid.uuid4().hex
        # Less than a silence: the site would take us for gone.
        patience = 2 * self._pace.heartbeat
        incoming = Incoming(self._answers, self.memory, participant, patience=patience)
        with self._news.about(f"participant:{participant}") as heard:
            await self._enter(participant, stream_id, hello)
            stream = Stream(self._means(participant, stream_id), incoming, heard)
            try:
                yield self._welcome(participant, standing)
                async with aclosing(stream.responses(aiter(requests))) as responses:
                    async for response in responses:
                        yield response
            finally:
                await asyncio.shield(self._leave(participant, stream_id, incoming))

    async def _standing(self, participant: str) -> Standing | None:
        async with self._database.transaction() as connection:
            return await store.standing_of(connection, participant)

    async def _hello(self, requests: AsyncIterator[Request]) -> Request.Hello:
        first = await next_within(requests, self._pace.silence) or Request()
        description = ""
        if not first.HasField("hello"):
            description = "a hello has to come first"
        elif first.hello.protocol != _PROTOCOL:
            description = f"this server speaks protocol {_PROTOCOL}"
        if description:
            raise InvalidArgument(
                "FIELD_INVALID", description, violations=[FieldViolation("hello", description)]
            )
        return first.hello

    async def _enter(self, participant: str, stream_id: str, hello: Request.Hello) -> None:
        now, software = self._clock(), one_line(hello.software)
        async with self._database.transaction() as connection:
            await store.enter(
                connection,
                participant,
                stream_id=stream_id,
                software=software,
                at=now,
                clock_offset_seconds=(time_of(hello.clock) - now).total_seconds(),
            )
        log.info("%s is here, with %s", participant, software or "unnamed software")

    def _welcome(self, participant: str, standing: Standing) -> Response:
        welcome = Response.Welcome(participant=participant, node_id=standing.node_id)
        welcome.heartbeat.FromNanoseconds(int(self._pace.heartbeat * 1e9))
        welcome.clock.FromDatetime(self._clock())
        return Response(welcome=welcome)

    def _means(self, participant: str, stream_id: str) -> Means:
        return Means(
            look=partial(self._look, participant, stream_id),
            see=partial(self._see, participant, stream_id),
            contents=self._contents,
            own_app=self._own_app,
            schema_of=self._schema_of,
            clock=self._clock,
            pace=self._pace,
        )

    async def _look(self, participant: str, stream_id: str) -> list[StoredTask] | None:
        """Returns what is open, None when nobody can say; raises when the stream has to end."""
        try:
            async with self._database.transaction() as connection:
                standing = await store.standing_of(connection, participant)
                tasks = await open_tasks(connection, participant)
        except Unavailable as error:
            log.debug("%s waits for the database: %s", participant, error.__cause__)
            return None
        _require_enrolled(participant, standing)
        if standing is not None and standing.stream_id != stream_id:
            raise FailedPrecondition(
                "STATE_CONFLICT",
                f"{participant} came in again elsewhere",
                resource=participant,
                state="attending elsewhere",
            )
        return tasks

    async def _see(self, participant: str, stream_id: str, shown: datetime) -> None:
        now = self._clock()
        async with self._database.transaction() as connection:
            await store.see(
                connection,
                participant,
                stream_id=stream_id,
                at=now,
                clock_offset_seconds=(shown - now).total_seconds(),
            )

    async def _leave(self, participant: str, stream_id: str, incoming: Incoming) -> None:
        await incoming.forget()
        try:
            async with self._database.transaction() as connection:
                await store.leave(connection, participant, stream_id=stream_id)
        except Unavailable as error:
            log.debug("nobody could be told that %s has left: %s", participant, error.__cause__)


def _require_enrolled(participant: str, standing: Standing | None) -> None:
    state = None if standing is None else standing.state
    if state == participant_pb2.Participant.STATE_REVOKED:
        raise PermissionDenied(
            "PARTICIPANT_REVOKED", f"{participant} was revoked", participant=participant
        )
    if state != participant_pb2.Participant.STATE_ENROLLED:
        raise PermissionDenied(
            "PARTICIPANT_UNKNOWN", f"{participant} is not enrolled", participant=participant
        )
