"""When a checkpoint is cut, and how: signed over what the database holds at that moment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis import algorithms
from aegis.audit import checkpoints
from aegis.audit.checkpoints import Checkpoint
from aegis.audit.merkle import Frontier, peaks_of
from aegis.errors import AegisError, FailedPrecondition
from aegis.serving.auditlog import AuditLog
from aegis.serving.auditlog.log import Growth
from aegis.serving.checkpointing.store import CheckpointStore, KeptNote
from aegis.serving.database import Connection
from aegis.trust import AUDIT_CHECKPOINT, TrustBundle
from aegis.v1 import audit_pb2

log = logging.getLogger(__name__)

RECORDS_MAX = 256
AGE_MAX = timedelta(seconds=10)
# Silence for longer than this is an alarm, so an idle log says that it is idle.
INTERVAL = timedelta(hours=1)
_POLL_SECONDS = 1.0
_REST_SECONDS = 0.2

# What changes the world or the rules is sealed within a second.
HIGH_RISK = frozenset(
    {
        audit_pb2.AUDIT_KIND_ACTION,
        audit_pb2.AUDIT_KIND_EXECUTION,
        audit_pb2.AUDIT_KIND_POLICY_CHANGE,
        audit_pb2.AUDIT_KIND_KEY_CHANGE,
        audit_pb2.AUDIT_KIND_ERASURE,
    }
)
# Of identity only what changes who may do something: a login is sealed with the next ten seconds.
RIGHTS = frozenset(
    {"bootstrap", "change_roles", "create", "delete", "disable", "enable", "revoke", "rotate"}
)
_IDENTITY = audit_pb2.AUDIT_KIND_IDENTITY


def due(
    now: datetime,
    size: int,
    newest: KeptNote | None,
    fresh: Mapping[int, datetime],
    *,
    rights: bool = False,
) -> bool:
    """Says whether to cut now.

    `fresh` are the kinds of the records behind the newest checkpoint, with the time of the first
    of each; `rights` says that one of them changed who may do something. Checkpoints of other logs
    alone wait for the hour, or two logs that record each other would never come to rest.
    """
    if size == 0:
        return False
    if newest is not None and now - newest.at >= INTERVAL:
        return True
    own = {kind: at for kind, at in fresh.items() if kind != audit_pb2.AUDIT_KIND_CHECKPOINT_PEER}
    if not own:
        return newest is None
    if size - (newest.tree_size if newest is not None else 0) >= RECORDS_MAX:
        return True
    return rights or not HIGH_RISK.isdisjoint(own) or now - min(own.values()) >= AGE_MAX


class Checkpoints:
    """The checkpoints of one log. Run `run()` as a part where the log is written."""

    def __init__(
        self,
        audit: AuditLog,
        key: Ed25519PrivateKey,
        *,
        clock: Callable[[], datetime],
        schema: str = "aegis",
        trust: Callable[[], TrustBundle] | None = None,
    ) -> None:
        self.growth = Growth()
        self.store = CheckpointStore(schema)
        self._audit = audit
        self._database = audit.database
        self._key = key
        self._trust = trust
        self.clock = clock

    async def newest(self) -> KeptNote | None:
        """Returns the last one, or None before the first."""
        async with self._database.transaction() as connection:
            return await self.store.newest(connection)

    async def since(self, size: int, after: int, limit: int) -> list[KeptNote]:
        """Returns those of trees at least that large, cut after number `after`, in order."""
        async with self._database.transaction() as connection:
            return await self.store.since(connection, size=size, after=after, limit=limit)

    async def cut_if_due(self) -> KeptNote | None:
        """Cuts, signs and keeps a checkpoint if it is time; returns it.

        Raises `FailedPrecondition`: AUDIT_FORKED when the database contradicts the last one,
        SIGNING_KEY_UNUSABLE when our key does not count.
        """
        async with self._database.transaction() as connection:
            # Replicas take turns, so that each sees what the one before it has cut.
            await self.store.lock(connection)
            newest = await self.store.newest(connection)
            behind = newest.tree_size if newest is not None else 0
            size, root, chained = await self._audit.state_in(connection)
            if size < behind:
                raise _forked(f"{behind} records were signed, the log has {size}")
            now = self.clock()
            if not await self._due(connection, now, size, newest):
                return None
            self._refuse_useless_key(now)
            if newest is not None:
                await self._refuse_another_past(connection, newest)
            cut = Checkpoint(self._audit.log_id, size, root, chained, now)
            await self.store.insert(connection, size, now, checkpoints.sign(cut, self._key))
            kept = await self.store.newest(connection)
        self.growth.tell()
        return kept

    async def _due(
        self, connection: Connection, now: datetime, size: int, newest: KeptNote | None
    ) -> bool:
        behind = newest.tree_size if newest is not None else 0
        fresh = await self.store.kinds_since(connection, behind) if size > behind else {}
        rights = False
        if _IDENTITY in fresh:
            verbs = await self.store.actions_since(connection, behind, _IDENTITY)
            rights = not RIGHTS.isdisjoint(verbs)
        return due(now, size, newest, fresh, rights=rights)

    def _refuse_useless_key(self, now: datetime) -> None:
        """Raises unless whoever verifies believes what we sign now.

        A checkpoint stays in the log for good: by a key that was revoked meanwhile, it would make
        every copy one whose signatures do not hold.
        """
        if self._trust is None:
            return
        ours = algorithms.key_id(self._key.public_key())
        known = self._trust().of_owner(AUDIT_CHECKPOINT, f"log:{self._audit.log_id}")
        if not any(key.key_id == ours and key.usable(now) for key in known):
            text = f"key {ours} does not count for log:{self._audit.log_id}: nothing is sealed"
            raise FailedPrecondition("SIGNING_KEY_UNUSABLE", text)

    async def _refuse_another_past(self, connection: Connection, newest: KeptNote) -> None:
        """Raises unless the records still begin as they were signed.

        Whoever rewrites the database shall not get the key to swear to it.
        """
        signed = checkpoints.parse(newest.note).checkpoint
        peaks = await self._audit.store.nodes(connection, peaks_of(signed.size))
        if Frontier(signed.size, peaks).root() != signed.root:
            raise _forked(f"the first {signed.size} records are not those that were signed")

    async def run(self) -> None:
        """Cuts whenever it is time, until cancelled."""
        told = ""
        while True:
            try:
                await self.cut_if_due()
            except FailedPrecondition as error:
                # Nothing is signed until a person has looked; said once, not every second.
                if error.message != told:
                    told = error.message
                    log.critical("no checkpoint is cut: %s: %s", error.reason, error.message)
            except AegisError as error:
                log.warning("no checkpoint could be cut: %s", error.message)
            await self._audit.growth.wait(_POLL_SECONDS)
            # A burst of records becomes one checkpoint instead of many.
            await asyncio.sleep(_REST_SECONDS)


def _forked(problem: str) -> FailedPrecondition:
    return FailedPrecondition("AUDIT_FORKED", problem)
