"""Two logs that prove each other: each takes the other's checkpoints into its own records.

Whoever cuts one log short, even by its last record, contradicts what the other one holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aegis.audit import checkpoints
from aegis.audit.checkpoints import Checkpoint, CheckpointError
from aegis.audit.signers import open_checkpoint
from aegis.errors import AegisError, InvalidArgument
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.checkpointing.cutting import Checkpoints
from aegis.serving.database import Connection
from aegis.trust import TrustBundle
from aegis.v1 import audit_pb2

log = logging.getLogger(__name__)

_EVERY_SECONDS = 60.0
_AGAIN_SECONDS = 5.0
_PEER = audit_pb2.AUDIT_KIND_CHECKPOINT_PEER
_RECORDED = "recorded"

# Sends our note, and returns that of the other log, empty before its first.
Send = Callable[[str], Awaitable[str]]


class PeerLog:
    """The other log, as this one knows it."""

    def __init__(
        self, audit: AuditLog, kept: Checkpoints, trust: Callable[[], TrustBundle], log_id: str
    ) -> None:
        self._audit = audit
        self._kept = kept
        self._trust = trust
        self._log_id = log_id
        self._actor = f"log:{log_id}"
        self._told: Checkpoint | None = None

    async def take(self, note: str) -> None:
        """Records a checkpoint of the other log, if it says something new.

        Raises `InvalidArgument` (CHECKPOINT_INVALID) unless a trusted key of that log signed it.
        """
        try:
            theirs = open_checkpoint(note, self._trust(), now=self._kept.clock())
        except CheckpointError as error:
            raise InvalidArgument("CHECKPOINT_INVALID", str(error), check=error.check) from error
        if theirs.log_id != self._log_id:
            text = f"this is a checkpoint of {theirs.log_id}"
            raise InvalidArgument("CHECKPOINT_INVALID", text, check="origin")
        async with self._audit.database.transaction() as connection:
            # Replicas take turns, so that each sees what the one before it has recorded.
            await self._kept.store.lock(connection)
            known = await self._known(connection)
            outcome = _outcome(known, theirs)
            if outcome is None or (outcome != _RECORDED and _same(self._told, theirs)):
                return
            await self._audit.record_in(connection, self._entry(note, theirs.size, outcome))
        if known is not None and outcome != _RECORDED:
            self._told = theirs
            log.critical(
                "%s %s: it had %d records, root %s, and shows %d, root %s",
                self._log_id,
                outcome,
                known.size,
                known.root.hex(),
                theirs.size,
                theirs.root.hex(),
            )

    async def _known(self, connection: Connection) -> Checkpoint | None:
        """Returns the largest checkpoint of the other log that this one holds."""
        stored = await self._kept.store.last_record(connection, _PEER, self._actor, _RECORDED)
        if stored is None:
            return None
        record = audit_pb2.AuditRecord.FromString(stored)
        return checkpoints.parse(record.evidence[0].content.decode()).checkpoint

    async def newest(self) -> str:
        """Returns our own newest note, empty before the first."""
        newest = await self._kept.newest()
        return newest.note if newest is not None else ""

    async def exchange(self, send: Send) -> None:
        """Gives our newest checkpoint for theirs, again and again; run it as a part."""
        while True:
            seconds = _AGAIN_SECONDS
            try:
                if await self.exchange_once(send):
                    seconds = _EVERY_SECONDS
            except AegisError as error:
                log.warning("checkpoints with %s were not exchanged: %s", self._log_id, error)
            await asyncio.sleep(seconds)

    async def exchange_once(self, send: Send) -> bool:
        """Exchanges, unless another replica is about it; says whether that was done.

        One after another from reading ours to recording theirs: two on their way at once could
        arrive the other way round, and the earlier one behind the later looks like a log that was
        cut short.
        """
        async with self._audit.database.transaction() as turn:
            if not await self._kept.store.take_turn(turn):
                return False
            if not (ours := await self.newest()) or not (theirs := await send(ours)):
                return False
            await self.take(theirs)
            return True

    def _entry(self, note: str, size: int, outcome: str) -> Entry:
        return Entry(
            kind=_PEER,
            actor=self._actor,
            action="show",
            resource=f"/audit/{self._log_id}",
            outcome=outcome,
            subject_id=f"{self._log_id}@{size}",
            details={"tree_size": str(size)},
            evidence={"checkpoint": note.encode()},
        )


def _outcome(known: Checkpoint | None, theirs: Checkpoint) -> str | None:
    """Says what a checkpoint tells beside the largest one we hold; None when it is nothing new."""
    if known is None or theirs.size > known.size:
        return _RECORDED
    if theirs.size < known.size:
        return "rolled-back"
    return None if _same(known, theirs) else "forked"


def _same(one: Checkpoint | None, other: Checkpoint) -> bool:
    return one is not None and (one.size, one.root, one.chain) == (
        other.size,
        other.root,
        other.chain,
    )
