"""AuditService: wire to values and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from aegis.errors import InvalidArgument
from aegis.serving.database import Database
from aegis.serving.doors import Context
from aegis.v1 import audit_pb2, audit_pb2_grpc
from aegis_server.audit import store
from aegis_server.pages import decode_token, encode_token, page_size

_EXPORT_BATCH = 256
_NEWEST = 2**63 - 1
# Clients take messages of 4 MiB.
_BYTES = 2 * 1024 * 1024


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    """Reads the log; nobody writes it through here."""

    def __init__(self, database: Database, log_id: str) -> None:
        self._database = database
        self._log_id = log_id

    async def ListAuditRecords(
        self, request: audit_pb2.ListAuditRecordsRequest, context: Context
    ) -> audit_pb2.ListAuditRecordsResponse:
        """Newest first, from the page token on."""
        query = (sorted(request.kinds), request.subject_id)
        before = decode_token(request.page_token, "audit", *query)
        if isinstance(before, str):
            raise InvalidArgument("PAGE_TOKEN_INVALID", "this is no page token")
        size = page_size(request.page_size)
        async with self._database.transaction() as connection:
            rows = await store.page_before(
                connection,
                before=_NEWEST if before is None else before,
                limit=size,
                kinds=request.kinds,
                subject_id=request.subject_id,
            )
        fitting = _fitting([len(record) for _, record in rows])
        more = len(rows) == size or fitting < len(rows)
        rows = rows[:fitting]
        token = encode_token(rows[-1][0], "audit", *query) if more else ""
        return audit_pb2.ListAuditRecordsResponse(
            records=[audit_pb2.AuditRecord.FromString(record) for _, record in rows],
            next_page_token=token,
        )

    async def ExportAuditRecords(
        self, request: audit_pb2.ExportAuditRecordsRequest, context: Context
    ) -> AsyncIterator[audit_pb2.ExportAuditRecordsResponse]:
        """Batches of exact records, up to the head as it was when the call began."""
        async with self._database.transaction() as connection:
            end, _ = await store.head(connection)
        start = request.start_index
        while start < end:
            async with self._database.transaction() as connection:
                rows = await store.stored_from(
                    connection, start=start, limit=min(_EXPORT_BATCH, end - start)
                )
            rows = rows[: _fitting([len(row[1]) for row in rows])]
            yield audit_pb2.ExportAuditRecordsResponse(
                records=[
                    audit_pb2.StoredAuditRecord(
                        record=record, leaf_hash=leaf, prev_chain_hash=previous, chain_hash=chained
                    )
                    for _, record, leaf, previous, chained in rows
                ]
            )
            # A hole in the table must end the export, not hang it: the reader sees it.
            start = rows[-1][0] + 1 if rows else end

    async def GetAuditHead(
        self, request: audit_pb2.GetAuditHeadRequest, context: Context
    ) -> audit_pb2.GetAuditHeadResponse:
        """The size of the log and its last chain hash."""
        async with self._database.transaction() as connection:
            size, chained = await store.head(connection)
        return audit_pb2.GetAuditHeadResponse(log_id=self._log_id, size=size, chain_hash=chained)


def _fitting(sizes: Sequence[int]) -> int:
    """Returns how many of the records fit in one message: one at least, or nothing would move."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if count and total > _BYTES:
            return count
    return len(sizes)
