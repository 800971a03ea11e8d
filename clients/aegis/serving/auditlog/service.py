"""AuditService: wire to values and back, for the log of the program that serves it.

A program that can reach another one's log answers for that, too: it hands the call on.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from aegis.audit.merkle import Frontier, Node, consistency_nodes, gather, inclusion_nodes, peaks_of
from aegis.errors import InvalidArgument, NotFound, from_rpc_error
from aegis.serving.auditlog.log import AuditLog, Entry
from aegis.serving.auditlog.store import Filter, Stored
from aegis.serving.database import Connection
from aegis.serving.doors import Context, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import audit_pb2, audit_pb2_grpc

_EXPORT_BATCH = 256
_WATCH_SECONDS = 1.0
_FORWARD_SECONDS = 20.0
_NEWEST = 2**63 - 1
# Clients take messages of 4 MiB.
_BYTES = 2 * 1024 * 1024

Service = TypeVar("Service", bound="AuditService")


class SignedNote(Protocol):
    """A checkpoint as it is kept: number, note with all signatures, size and time."""

    @property
    def number(self) -> int:
        """Counts them in the order they were cut."""

    @property
    def note(self) -> str:
        """The text with every signature."""

    @property
    def tree_size(self) -> int:
        """Number of records."""

    @property
    def at(self) -> datetime:
        """When it was cut."""


class Checkpoints(Protocol):
    """Where checkpoints are kept."""

    async def newest(self) -> SignedNote | None:
        """Returns the largest one, or None before the first."""

    async def since(self, size: int, after: int, limit: int) -> Sequence[SignedNote]:
        """Returns those of trees at least that large, cut after number `after`, in order."""


def _once(
    method: Callable[[Service, Any, Context], Awaitable[Any]],
) -> Callable[[Service, Any, Context], Awaitable[Any]]:
    """Hands a unary call for another log on to the program that keeps it."""

    @functools.wraps(method)
    async def answer(self: Service, request: Any, context: Context) -> Any:
        stub = self.elsewhere(request.log_id)
        if stub is None:
            return await method(self, request, context)
        try:
            return await getattr(stub, method.__name__)(request, timeout=_FORWARD_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    return answer


def _many(
    method: Callable[[Service, Any, Context], AsyncIterator[Any]],
) -> Callable[[Service, Any, Context], AsyncIterator[Any]]:
    """Hands a streaming call for another log on to the program that keeps it."""

    @functools.wraps(method)
    async def answer(self: Service, request: Any, context: Context) -> AsyncIterator[Any]:
        stub = self.elsewhere(request.log_id)
        if stub is None:
            async for response in method(self, request, context):
                yield response
            return
        call = getattr(stub, method.__name__)(request)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()

    return answer


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    """Reads the log and erases what is beside it; nobody writes it through here."""

    def __init__(
        self,
        audit: AuditLog,
        checkpoints: Checkpoints,
        *,
        others: Mapping[str, audit_pb2_grpc.AuditServiceStub] | None = None,
    ) -> None:
        self._audit = audit
        self._store = audit.store
        self._database = audit.database
        self._checkpoints = checkpoints
        self._others = others or {}

    def elsewhere(self, log_id: str) -> audit_pb2_grpc.AuditServiceStub | None:
        """Returns who keeps a log, None for our own; raises `NotFound` (LOG_UNKNOWN)."""
        if log_id in ("", self._audit.log_id):
            return None
        if log_id not in self._others:
            raise NotFound("LOG_UNKNOWN", f"no log {log_id!r} is known here")
        return self._others[log_id]

    @_once
    async def ListAuditRecords(
        self, request: audit_pb2.ListAuditRecordsRequest, context: Context
    ) -> audit_pb2.ListAuditRecordsResponse:
        """Newest first, from the page token on."""
        chosen = _filter(request.filter, request.kinds, request.subject_id)
        before = decode_token(request.page_token, "audit", self._audit.log_id, chosen)
        if isinstance(before, str):
            raise InvalidArgument("PAGE_TOKEN_INVALID", "this is no page token")
        size = page_size(request.page_size)
        async with self._database.transaction() as connection:
            rows = await self._store.page_before(
                connection,
                before=_NEWEST if before is None else before,
                limit=size,
                chosen=chosen,
            )
        fitting = _fitting([len(record) for _, record in rows])
        more = len(rows) == size or fitting < len(rows)
        rows = rows[:fitting]
        token = encode_token(rows[-1][0], "audit", self._audit.log_id, chosen) if more else ""
        return audit_pb2.ListAuditRecordsResponse(
            records=[audit_pb2.AuditRecord.FromString(record) for _, record in rows],
            next_page_token=token,
        )

    @_once
    async def GetAuditRecord(
        self, request: audit_pb2.GetAuditRecordRequest, context: Context
    ) -> audit_pb2.GetAuditRecordResponse:
        """One record, with its hashes and attachments."""
        async with self._database.transaction() as connection:
            await self._size(connection, at_least=request.index + 1)
            (stored,) = await self._store.stored_from(connection, start=request.index, limit=1)
        return audit_pb2.GetAuditRecordResponse(record=_stored(stored))

    @_many
    async def WatchAuditRecords(
        self, request: audit_pb2.WatchAuditRecordsRequest, context: Context
    ) -> AsyncIterator[audit_pb2.WatchAuditRecordsResponse]:
        """What passes the filter, as it comes; also what other replicas append."""
        chosen = _filter(request.filter, request.kinds, "")
        start = request.start_index
        while True:
            async with self._database.transaction() as connection:
                end, _ = await self._store.head(connection)
                start = end if start < 0 else start
                rows = await self._store.page_from(
                    connection, start=start, end=end, limit=_EXPORT_BATCH, chosen=chosen
                )
            fitting = _fitting([len(record) for _, record in rows])
            if rows:
                yield audit_pb2.WatchAuditRecordsResponse(
                    records=[audit_pb2.AuditRecord.FromString(raw) for _, raw in rows[:fitting]]
                )
            if len(rows) == _EXPORT_BATCH or fitting < len(rows):
                start = rows[fitting - 1][0] + 1
                continue
            start = max(start, end)
            await self._audit.growth.wait(_WATCH_SECONDS)

    @_many
    async def ExportAuditRecords(
        self, request: audit_pb2.ExportAuditRecordsRequest, context: Context
    ) -> AsyncIterator[audit_pb2.ExportAuditRecordsResponse]:
        """Batches of exact records, up to the head as it was when the call began."""
        async with self._database.transaction() as connection:
            end, _ = await self._store.head(connection)
        start = request.start_index
        while start < end:
            async with self._database.transaction() as connection:
                rows = await self._store.stored_from(
                    connection, start=start, limit=min(_EXPORT_BATCH, end - start)
                )
            rows = rows[: _fitting([_weight(row) for row in rows])]
            yield audit_pb2.ExportAuditRecordsResponse(records=map(_stored, rows))
            # A hole in the table must end the export, not hang it: the reader sees it.
            start = rows[-1].idx + 1 if rows else end

    @_once
    async def GetAuditHead(
        self, request: audit_pb2.GetAuditHeadRequest, context: Context
    ) -> audit_pb2.GetAuditHeadResponse:
        """The size of the log and its last chain hash."""
        async with self._database.transaction() as connection:
            size, chained = await self._store.head(connection)
        return audit_pb2.GetAuditHeadResponse(
            log_id=self._audit.log_id, size=size, chain_hash=chained
        )

    @_once
    async def GetCheckpoint(
        self, request: audit_pb2.GetCheckpointRequest, context: Context
    ) -> audit_pb2.GetCheckpointResponse:
        """The newest signed note."""
        newest = await self._checkpoints.newest()
        if newest is None:
            raise NotFound("RESOURCE_NOT_FOUND", "no checkpoint was cut yet", resource="checkpoint")
        return audit_pb2.GetCheckpointResponse(checkpoint=_checkpoint(newest))

    @_many
    async def ExportCheckpoints(
        self, request: audit_pb2.ExportCheckpointsRequest, context: Context
    ) -> AsyncIterator[audit_pb2.ExportCheckpointsResponse]:
        """Every signed note, in batches."""
        after = 0
        while notes := await self._checkpoints.since(request.start_size, after, _EXPORT_BATCH):
            yield audit_pb2.ExportCheckpointsResponse(checkpoints=map(_checkpoint, notes))
            after = notes[-1].number

    @_once
    async def GetInclusionProof(
        self, request: audit_pb2.GetInclusionProofRequest, context: Context
    ) -> audit_pb2.GetInclusionProofResponse:
        """The way from a leaf to the root."""
        async with self._database.transaction() as connection:
            size = await self._size(connection, at_least=request.tree_size)
            size = request.tree_size or size
            if request.index >= size:
                raise _out_of_range(size)
            proof = await gather(inclusion_nodes(request.index, size), self._fetching(connection))
            (leaf,) = await self._store.nodes(connection, [(0, request.index)])
            root = await self._root(connection, size)
        return audit_pb2.GetInclusionProofResponse(
            index=request.index, tree_size=size, leaf_hash=leaf, hashes=proof, root_hash=root
        )

    @_once
    async def GetConsistencyProof(
        self, request: audit_pb2.GetConsistencyProofRequest, context: Context
    ) -> audit_pb2.GetConsistencyProofResponse:
        """The way from one root to a later one."""
        async with self._database.transaction() as connection:
            size = await self._size(connection, at_least=request.to_size)
            size = request.to_size or size
            if request.from_size > size:
                raise _out_of_range(size)
            proof = await gather(
                consistency_nodes(request.from_size, size), self._fetching(connection)
            )
            roots = [await self._root(connection, each) for each in (request.from_size, size)]
        return audit_pb2.GetConsistencyProofResponse(
            from_size=request.from_size,
            to_size=size,
            hashes=proof,
            from_root_hash=roots[0],
            to_root_hash=roots[1],
        )

    async def EraseAuditAttachments(
        self, request: audit_pb2.EraseAuditAttachmentsRequest, context: Context
    ) -> audit_pb2.EraseAuditAttachmentsResponse:
        """Deletes what is beside a record, and records that."""
        call = current_call()
        async with self._database.transaction() as connection:
            await self._size(connection, at_least=request.index + 1)
            names = await self._store.erase(connection, request.index)
            if not names:
                raise NotFound(
                    "RESOURCE_NOT_FOUND",
                    f"nothing is stored beside record {request.index}",
                    resource=f"/audit/{request.index}",
                )
            entry = Entry(
                kind=audit_pb2.AUDIT_KIND_ERASURE,
                actor=call.caller.subject,
                action="erase",
                resource=f"/audit/{request.index}",
                outcome="erased",
                reason=request.reason,
                policy_revision=call.grant.revision,
                rule_id=call.grant.rule_id,
                details={"index": str(request.index), "names": ",".join(names)},
            )
            await self._audit.record_in(connection, entry)
        return audit_pb2.EraseAuditAttachmentsResponse(names=names)

    async def _size(self, connection: Connection, *, at_least: int) -> int:
        """Returns the log's size; raises `InvalidArgument` (AUDIT_RANGE_INVALID)."""
        size, _ = await self._store.head(connection)
        if size < at_least:
            raise _out_of_range(size)
        return size

    async def _root(self, connection: Connection, size: int) -> bytes:
        return Frontier(size, await self._store.nodes(connection, peaks_of(size))).root()

    def _fetching(
        self, connection: Connection
    ) -> Callable[[Sequence[Node]], Awaitable[Sequence[bytes]]]:
        return functools.partial(self._store.nodes, connection)


def _out_of_range(size: int) -> InvalidArgument:
    return InvalidArgument("AUDIT_RANGE_INVALID", f"the log has {size} records", size=size)


def _filter(wanted: audit_pb2.AuditFilter, kinds: Sequence[int], subject_id: str) -> Filter:
    return Filter(
        kinds=tuple(sorted(set(kinds))),
        subject_id=subject_id,
        actor=wanted.actor,
        action=wanted.action,
        resource=wanted.resource,
        outcome=wanted.outcome,
        start=_moment(wanted.start_time) if wanted.HasField("start_time") else None,
        end=_moment(wanted.end_time) if wanted.HasField("end_time") else None,
    )


def _moment(timestamp: Timestamp) -> datetime:
    try:
        return timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument("FIELD_INVALID", "a time of the filter is no time") from error


def _stored(row: Stored) -> audit_pb2.StoredAuditRecord:
    return audit_pb2.StoredAuditRecord(
        record=row.record,
        leaf_hash=row.leaf_hash,
        prev_chain_hash=row.prev_chain_hash,
        chain_hash=row.chain_hash,
        attachments=[
            audit_pb2.AuditAttachment(name=beside.name, salt=beside.salt, content=beside.content)
            for beside in row.attachments
        ],
    )


def _checkpoint(signed: SignedNote) -> audit_pb2.SignedCheckpoint:
    message = audit_pb2.SignedCheckpoint(note=signed.note, tree_size=signed.tree_size)
    message.time.FromDatetime(signed.at)
    return message


def _weight(row: Stored) -> int:
    return len(row.record) + sum(len(beside.content) for beside in row.attachments)


def _fitting(sizes: Sequence[int]) -> int:
    """Returns how many of the records fit in one message: one at least, or nothing would move."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if count and total > _BYTES:
            return count
    return len(sizes)
