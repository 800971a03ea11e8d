"""Intake: what is let in to be judged, and what is refused for which reason.

From the announcement alone: the round is known, the size, the round and its run are open, the
sender takes part, the base model. Then of the bytes: the digest, the format, the tensors, the
numbers. Nothing is unpickled, ever. What is refused leaves an audit record and no bytes; what
passes is stored as PENDING and judged with its round.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from aegis.errors import (
    AegisError,
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Connection, Database
from aegis.serving.doors import Call
from aegis.v1 import audit_pb2
from aegis_learning import parameters
from aegis_server.objects.blobs import BlobStore
from aegis_server.review import store
from aegis_server.review.standing.standings import STANDINGS
from aegis_server.review.standing.store import in_force
from aegis_server.review.updates import RESOURCE, Claim, RunLookup, Update, details, update_of

_BYTES_MAX = 64 * 1024 * 1024
_FLOAT_BYTES = 4
# The safetensors header: a length, and for each tensor its name, type, shape and offsets.
_HEADER_BYTES = 1024
_HEADER_BYTES_A_TENSOR = 512
_PICKLE_PROTOCOLS = range(2, 6)


class Intake:
    """Takes updates in."""

    def __init__(
        self,
        *,
        database: Database,
        audit: AuditLog,
        blobs: BlobStore,
        runs: RunLookup,
        clock: Callable[[], datetime],
        bytes_max: int = _BYTES_MAX,
    ) -> None:
        self._database = database
        self._audit = audit
        self._blobs = blobs
        self._runs = runs
        self._clock = clock
        self._bytes_max = bytes_max

    @asynccontextmanager
    async def refusals_recorded(self, by: Call, claim: Claim | None) -> AsyncIterator[None]:
        """Writes an audit record for every refusal raised inside, and lets it go on."""
        try:
            yield
        except (Unavailable, Internal):
            raise  # our fault, not a verdict on what was sent
        except AegisError as refusal:
            await self._audit.record(_refused(by, claim, refusal))
            raise

    async def expect(self, claim: Claim, *, own: bool) -> Update | None:
        """Decides from the announcement alone whether to read on.

        `own` is said of a participant that sends for itself: in quarantine it may not. Returns the
        update these very bytes made before, which nobody has to send again. Raises `NotFound` for
        an unknown run, round or try, `PermissionDenied` (PARTICIPANT_UNKNOWN), `ResourceExhausted`
        (REQUEST_TOO_LARGE) for more bytes than the limit, or than any update of this model can
        have, `FailedPrecondition` (UPDATE_BASE_MISMATCH, STATE_CONFLICT) and `AlreadyExists`
        (REQUEST_ID_REUSED).
        """
        base = await self._runs.base_of(claim.key.run_id, claim.key.round)
        async with self._database.transaction() as connection:
            earlier = await _earlier(connection, claim)
            round_row = await store.round_of(connection, claim.key)
            locked_out = own and claim.participant in await in_force(connection)
        if earlier is not None:
            return earlier
        _require_begun(claim.key, base.attempts)
        _require_room(claim, min(self._bytes_max, _largest(base.family.shapes)))
        _require_open(claim.key, round_row)
        if not base.open or base.made:
            raise FailedPrecondition(
                "STATE_CONFLICT",
                f"round {claim.key.round} of {claim.key.run_id} takes no more updates",
                resource=claim.key.run_id,
                state="MADE" if base.open else "ENDED",
            )
        if claim.participant not in base.examples or (own and not base.enrolled):
            raise PermissionDenied(
                "PARTICIPANT_UNKNOWN",
                f"{claim.participant} takes no part in {claim.key.run_id}",
                participant=claim.participant,
            )
        if locked_out:
            raise FailedPrecondition(
                "STATE_CONFLICT",
                f"{claim.participant} is in quarantine, and sends nothing until that is lifted",
                resource=f"{STANDINGS}/{claim.participant}",
                state="QUARANTINED",
            )
        if claim.base_sha256 not in (b"", base.params_sha256):
            raise FailedPrecondition(
                "UPDATE_BASE_MISMATCH",
                f"round {claim.key.round} of {claim.key.run_id} starts from another model",
                expected=base.params_sha256.hex(),
            )
        return None

    async def take_in(self, claim: Claim, data: bytes, by: Call) -> Update:
        """Stores an update that was expected as PENDING, or returns the one that is there already.

        Raises what SubmitUpdate's comment lists.
        """
        if len(data) != claim.size_bytes or await _digest(data) != claim.sha256:
            raise InvalidArgument(
                "DIGEST_MISMATCH", "the bytes do not have the announced SHA-256 and size"
            )
        base = await self._runs.base_of(claim.key.run_id, claim.key.round)
        await asyncio.to_thread(require_update, data, base.family.shapes)
        # Before the row: a row must never name bytes that are not there.
        await self._blobs.put(data)
        return await self._insert(claim, by, enrolled=base.enrolled)

    async def _insert(self, claim: Claim, by: Call, *, enrolled: bool) -> Update:
        update_id = f"upd-{uuid.uuid4().hex[:20]}"
        async with self._database.transaction() as connection:
            await store.open_round(connection, claim.key)
            # Two senders of one name, and the judge of this round, wait for each other here.
            round_row = await store.lock_round(connection, claim.key)
            earlier = await _earlier(connection, claim)
            if earlier is not None:
                return earlier
            _require_open(claim.key, round_row)
            await store.insert(
                connection,
                claim.key,
                update_id=update_id,
                participant=claim.participant,
                enrolled=enrolled,
                sha256=claim.sha256,
                size_bytes=claim.size_bytes,
                by=by.caller.subject,
                now=self._clock(),
            )
            stored = await store.find(connection, update_id)
            await self._audit.record_in(connection, _received(by, claim, update_id))
        if stored is None:
            raise RuntimeError(f"update {update_id} vanished inside its own transaction")
        return update_of(stored)


async def _earlier(connection: Connection, claim: Claim) -> Update | None:
    row = await store.of_participant(connection, claim.key, claim.participant, claim.sha256)
    if row is None:
        return None
    if row.sha256 != claim.sha256:
        raise AlreadyExists(
            "REQUEST_ID_REUSED",
            f"{claim.participant} already sent another update for this round",
            update_id=row.update_id,
        )
    return update_of(row)


def _require_begun(key: store.RoundKey, attempts: int) -> None:
    """A participant has one update in each try: it must not be able to make tries up."""
    if key.attempt > attempts:
        raise NotFound(
            "RESOURCE_NOT_FOUND",
            f"round {key.round} of {key.run_id} was not tried {key.attempt} times",
            resource=f"{RESOURCE}/{key.run_id}/{key.round}/{key.attempt}",
        )


def _require_room(claim: Claim, limit: int) -> None:
    if claim.size_bytes > limit:
        raise ResourceExhausted(
            "REQUEST_TOO_LARGE",
            f"an update of this model has at most {limit} bytes",
            limit_bytes=limit,
        )


def _require_open(key: store.RoundKey, row: store.RoundRow | None) -> None:
    if row is not None and row.closed_at is not None:
        raise FailedPrecondition(
            "STATE_CONFLICT",
            f"round {key.round} of {key.run_id} takes no more updates: it is judged",
            resource=f"{RESOURCE}/{key.run_id}/{key.round}/{key.attempt}",
            state="JUDGED" if row.judged_at is not None else "CLOSED",
        )


def require_update(data: bytes, shapes: parameters.Shapes) -> None:
    """Raises `InvalidArgument` unless the bytes are finite numbers in exactly these tensors."""
    try:
        parameters.decode(data, shapes)
    except parameters.FormatError as error:
        raise InvalidArgument(
            "UPDATE_FORMAT_INVALID", f"{_looks_like(data)}; send a safetensors file"
        ) from error
    except parameters.ShapeError as error:
        raise InvalidArgument(
            "UPDATE_SHAPE_MISMATCH", f"not an update of this model: {error}", tensor=error.tensor
        ) from error
    except parameters.NotFiniteError as error:
        raise InvalidArgument("UPDATE_NOT_FINITE", str(error), tensor=error.tensor) from error


def _looks_like(data: bytes) -> str:
    """Says what bytes that are no safetensors file are, by their first bytes only."""
    if data[:1] == b"\x80" and data[1:2] and data[1] in _PICKLE_PROTOCOLS:
        return "this is a pickle, which is never opened because it can run code"
    if data.startswith(b"PK\x03\x04"):
        return "this is a zip archive (torch.save makes those), which is never opened"
    return "this is not a safetensors file"


def _largest(shapes: parameters.Shapes) -> int:
    numbers = sum(math.prod(shape) for shape in shapes.values())
    return _HEADER_BYTES + _HEADER_BYTES_A_TENSOR * len(shapes) + _FLOAT_BYTES * numbers


async def _digest(data: bytes) -> bytes:
    return (await asyncio.to_thread(hashlib.sha256, data)).digest()


def _received(by: Call, claim: Claim, update_id: str) -> Entry:
    return Entry(
        kind=audit_pb2.AUDIT_KIND_REVIEW,
        actor=by.caller.subject,
        action="submit",
        resource=f"{RESOURCE}/{update_id}",
        outcome="received",
        policy_revision=by.grant.revision,
        rule_id=by.grant.rule_id,
        subject_id=update_id,
        details=details(claim.key, claim.participant, claim.sha256),
    )


def _refused(by: Call, claim: Claim | None, refusal: AegisError) -> Entry:
    return Entry(
        kind=audit_pb2.AUDIT_KIND_REVIEW,
        actor=by.caller.subject,
        action="submit",
        resource=RESOURCE,
        outcome="refused",
        reason=refusal.reason,
        policy_revision=by.grant.revision,
        rule_id=by.grant.rule_id,
        details=details(claim.key, claim.participant, claim.sha256) if claim else {},
    )
