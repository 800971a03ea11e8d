"""The decision log of one process.

`note` takes a decision in about a microsecond. Behind it are three loops: one makes lines of what
was noted, every 50 ms or 2,000 decisions; one writes them; one commits to what was written in the
audit log, every ten seconds. When the process is killed, what was not written is lost, and nothing
else; when it is stopped, nothing is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry

from aegis.errors import AegisError
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis_server.policy.decisionlog.buffer import Buffer, full_error
from aegis_server.policy.decisionlog.commitment import Commitment
from aegis_server.policy.decisionlog.entry import DecisionIds, Entry
from aegis_server.policy.decisionlog.lines import line_of
from aegis_server.policy.decisionlog.writer import Writer

log = logging.getLogger(__name__)

_GATHER_SECONDS = 0.05
_TAKE_SECONDS = 5.0
_STOP_SECONDS = 10.0
# So many lines are made before others get a turn: about half a millisecond.
_SLICE = 128


class DecisionLog:
    """Takes decisions. Run `run()` as a task; call the rest on the same event loop.

    `next_id` returns the name of a decision to be. `note` takes one that is about to be given;
    raises `ResourceExhausted` (DECISION_LOG_FULL), and then it must not be given.
    """

    def __init__(
        self,
        database: Database,
        *,
        audit: AuditLog,
        replica: str,
        clock: Callable[[], datetime],
        registry: CollectorRegistry,
        strict: bool = False,
        keep_attributes: bool = False,
        capacity: int = 50_000,
        unwritable_seconds: float = 5.0,
        commit_seconds: float = 10.0,
        actor: str = "server:aegis",
    ) -> None:
        ids = DecisionIds()
        self.log_id: uuid.UUID = ids.log
        self.database = database
        self._keep = keep_attributes
        self._buffer = Buffer(
            capacity=capacity,
            strict=strict,
            unwritable_seconds=unwritable_seconds,
            registry=registry,
        )
        self._commitment = Commitment(
            database, audit, log_id=ids.log, actor=actor, clock=clock, seconds=commit_seconds
        )
        self._writer = Writer(
            database,
            self._buffer,
            log_id=ids.log,
            replica=replica,
            clock=clock,
            registry=registry,
            tell=self._commitment.tell,
        )
        # Called for every answer: not even a call in between.
        self.next_id: Callable[[], str] = ids.next
        self.note: Callable[[Entry], None] = self._buffer.note

    @property
    def waiting(self) -> int:
        """How many decisions were noted and are not stored yet."""
        return self._buffer.waiting

    async def take(self, entries: Sequence[Entry]) -> None:
        """Takes decisions that were made elsewhere; returns once they are stored.

        Raises `ResourceExhausted` (DECISION_LOG_FULL): send them again. Each is taken once,
        however often it is sent.
        """
        stored = self._buffer.note_all(entries)
        try:
            async with asyncio.timeout(_TAKE_SECONDS):
                await stored
        except TimeoutError:
            raise full_error() from None

    async def run(self) -> None:
        """Writes until cancelled, and then what is left."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._gather_forever())
                group.create_task(self._writer.run())
                group.create_task(self._commitment.run())
                group.create_task(self._commitment.run_for_others())
        finally:
            await self._finish()

    async def _gather_forever(self) -> None:
        some, plenty = self._buffer.some, self._buffer.plenty
        while True:
            await some.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_SECONDS):
                    await plenty.wait()
            some.clear()
            plenty.clear()
            await self._gather()

    async def _gather(self) -> None:
        """Makes lines of what was noted; a long list lets others have a turn."""
        while entries := self._buffer.oldest(_SLICE):
            self._writer.put([line_of(entry, keep=self._keep) for entry in entries])
            await asyncio.sleep(0)
        self._writer.wake()

    async def _finish(self) -> None:
        # Nobody notes anything any more: the port was closed before us.
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._gather()
                await self._writer.write_all()
                await self._commitment.commit()
        except (AegisError, TimeoutError):
            log.exception("the decision log ends with %d decisions unwritten", self.waiting)
