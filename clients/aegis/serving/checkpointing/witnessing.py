"""The way to the witness: it gets the newest checkpoint with a proof, and gives a signature."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial

import grpc
from prometheus_client import CollectorRegistry, Gauge

from aegis.audit import checkpoints
from aegis.audit.checkpoints import CheckpointError
from aegis.audit.merkle import consistency_nodes, gather
from aegis.audit.signers import cosigned_by, open_checkpoint
from aegis.errors import Aborted, AegisError, FailedPrecondition, from_rpc_error
from aegis.serving.auditlog import AuditLog
from aegis.serving.checkpointing.cutting import Checkpoints
from aegis.serving.checkpointing.store import KeptNote
from aegis.trust import TrustBundle
from aegis.v1 import witness_pb2, witness_pb2_grpc

log = logging.getLogger(__name__)

_SECONDS = 10.0
_POLL_SECONDS = 5.0
_BACK_OFF_SECONDS_MAX = 60.0


class Witnessing:
    """Keeps a witness up to date. Run `run()` as a part."""

    def __init__(
        self,
        audit: AuditLog,
        kept: Checkpoints,
        channel: grpc.aio.Channel,
        *,
        trust: Callable[[], TrustBundle],
        clock: Callable[[], datetime],
        registry: CollectorRegistry,
    ) -> None:
        self._audit = audit
        self._kept = kept
        self._stub = witness_pb2_grpc.WitnessServiceStub(channel)
        self._trust = trust
        self._clock = clock
        self._seen: int | None = None
        self._done = 0
        self._size = Gauge(
            "aegis_audit_witnessed_tree_size",
            "Size of the log in the last checkpoint that the witness has cosigned.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._refused = Gauge(
            "aegis_audit_witness_refuses",
            "1 while the witness says that the log does not continue what it saw.",
            registry=registry,
            multiprocess_mode="livemax",
        )

    async def run(self) -> None:
        """Offers each newest checkpoint until cancelled."""
        failures = 0
        while True:
            try:
                await self.offer_newest()
                failures = 0
            except (AegisError, CheckpointError) as error:
                failures += 1
                log.warning("the witness did not cosign: %s", error)
                await asyncio.sleep(min(2.0**failures, _BACK_OFF_SECONDS_MAX))
            else:
                await self._kept.growth.wait(_POLL_SECONDS)

    async def offer_newest(self) -> None:
        """Has the newest checkpoint cosigned, unless it is.

        Raises `AegisError` as the witness does, AUDIT_FORKED among them, and `CheckpointError`
        when its answer is not the signature of a witness that is trusted.
        """
        newest = await self._kept.newest()
        if newest is None or newest.number == self._done:
            return
        try:
            newest, line = await self._cosigned(newest)
        except AegisError as error:
            # Where the witness stands is asked again before the next attempt.
            self._seen = None
            if error.reason == "AUDIT_FORKED":
                self._refused.set(1)
                log.critical("the witness refuses the audit log: %s", error.message)
            raise
        name = self._signer(newest.note, line)
        async with self._audit.database.transaction() as connection:
            await self._kept.store.add_cosignature(
                connection, newest.number, name, line, self._clock()
            )
        self._seen, self._done = newest.tree_size, newest.number
        self._refused.set(0)
        self._size.set(newest.tree_size)

    async def _cosigned(self, newest: KeptNote) -> tuple[KeptNote, str]:
        """Returns the note that was cosigned in the end, and the cosignature."""
        if self._seen is None:
            newest = await self._look(newest)
        try:
            return newest, await self._offer(newest)
        except Aborted:
            # Another replica was there before us.
            newest = await self._look(newest)
            return newest, await self._offer(newest)

    async def _look(self, newest: KeptNote) -> KeptNote:
        """Asks the witness what it saw; returns our newest checkpoint of a later moment.

        In this order: what another replica shows is in our database before it is shown, so a
        witness that saw more than we then have is no race but an alarm.
        """
        self._seen = await self._last_seen()
        return await self._kept.newest() or newest

    def _signer(self, note: str, line: str) -> str:
        """Returns whose signature a line is; `CheckpointError` unless that is a trusted witness."""
        signers = cosigned_by(checkpoints.uncosigned(note) + line, self._trust())
        if len(signers) != 1 or line.count("\n") != 1:
            raise CheckpointError("key", "the answer is not the signature of a trusted witness")
        return next(iter(signers))

    async def _offer(self, newest: KeptNote) -> str:
        old = self._seen or 0
        proof: list[bytes] = []
        if old <= newest.tree_size:
            proof = await self._proof(old, newest.tree_size)
        else:
            self._refused.set(1)
            log.critical("the witness saw %d records, the log has %d", old, newest.tree_size)
        request = witness_pb2.AddCheckpointRequest(old_size=old, proof=proof, note=newest.note)
        try:
            return (await self._stub.AddCheckpoint(request, timeout=_SECONDS)).cosignature
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def _proof(self, first: int, second: int) -> list[bytes]:
        async with self._audit.database.transaction() as connection:
            fetch = partial(self._audit.store.nodes, connection)
            try:
                return await gather(consistency_nodes(first, second), fetch)
            except KeyError as error:
                text = f"records below {second}, which were signed, are gone"
                raise FailedPrecondition("AUDIT_FORKED", text) from error

    async def _last_seen(self) -> int:
        request = witness_pb2.GetWitnessedCheckpointRequest(log_id=self._audit.log_id)
        try:
            response = await self._stub.GetWitnessedCheckpoint(request, timeout=_SECONDS)
        except grpc.aio.AioRpcError as error:
            refusal = from_rpc_error(error)
            if refusal.reason == "RESOURCE_NOT_FOUND":
                return 0
            raise refusal from error
        # Signed by our own log, or it is not what the witness has seen of it.
        seen = open_checkpoint(response.note, self._trust())
        if seen.log_id != self._audit.log_id:
            raise CheckpointError("origin", f"the witness shows a checkpoint of {seen.log_id}")
        return seen.size
