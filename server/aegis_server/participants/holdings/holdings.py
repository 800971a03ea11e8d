"""Holdings: what participants say they have, and how much of it counts.

The weight of a participant's updates is never its own word in a round: it is the rows declared
here, at most as many as whoever invited it allowed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from aegis.errors import FieldViolation, InvalidArgument, NotFound
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Database
from aegis.spiffe import Caller
from aegis.v1 import audit_pb2
from aegis_learning.schema import Schema
from aegis_server.participants.holdings import store
from aegis_server.participants.holdings.store import StoredHolding
from aegis_server.participants.participants import named, path_of


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a participant says about rows of one data set, with the schema they were read by."""

    dataset: str
    schema_sha256: bytes
    rows: int
    class_counts: tuple[int, ...]
    noised: bool
    provenance: str


class Holdings:
    """What participants hold. `schema_of` returns a data set's schema, or raises `NotFound`."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        *,
        schema_of: Callable[[str], Awaitable[Schema]],
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._schema_of = schema_of
        self._clock = clock

    async def declare(self, caller: Caller, declared: Declaration) -> StoredHolding:
        """Stores what a participant holds, in place of what it said before.

        Raises `InvalidArgument` (FIELD_INVALID) and `PermissionDenied` (PARTICIPANT_UNKNOWN).
        """
        name = named(caller)
        try:
            schema = await self._schema_of(declared.dataset)
        except NotFound:
            raise _not_invited(declared.dataset) from None
        _check(declared, schema)
        wanted = StoredHolding(
            participant=name,
            dataset=declared.dataset,
            rows_max=0,
            rows=declared.rows,
            class_counts=list(declared.class_counts),
            noised=declared.noised,
            provenance=declared.provenance,
            declared_at=self._clock(),
        )
        async with self._database.transaction() as connection:
            stored = await store.declare(connection, wanted)
            if stored is None:
                raise _not_invited(declared.dataset)
            await self._audit.record_in(connection, _entry(caller.subject, stored))
        return stored

    async def of_datasets(
        self, datasets: Sequence[str], *, viewer: str
    ) -> dict[str, list[StoredHolding]]:
        """Returns what enrolled participants declared, by data set.

        A participant among viewers sees its own: how many rows others have is not its business.
        """
        async with self._database.transaction() as connection:
            found = await store.holdings_for(connection, datasets)
        only = viewer.removeprefix("participant:") if viewer.startswith("participant:") else ""
        by_dataset: dict[str, list[StoredHolding]] = {}
        for each in found:
            if only in ("", each.participant):
                by_dataset.setdefault(each.dataset, []).append(each)
        return by_dataset


def _check(declared: Declaration, schema: Schema) -> None:
    if declared.schema_sha256 != schema.sha256:
        raise _invalid("schema_sha256", "this is not the schema that was registered")
    counts = declared.class_counts
    if counts and len(counts) != len(schema.classes):
        raise _invalid("class_counts", f"expected {len(schema.classes)}, or none")
    if counts and not declared.noised and sum(counts) != declared.rows:
        raise _invalid("class_counts", "expected as many rows in all as `rows` says")


def _entry(actor: str, stored: StoredHolding) -> Entry:
    return Entry(
        kind=audit_pb2.AUDIT_KIND_IDENTITY,
        actor=actor,
        action="declare",
        resource=path_of(stored.participant),
        outcome="declared",
        subject_id=stored.participant,
        details={
            "dataset": stored.dataset,
            "rows": str(stored.rows),
            "examples": str(stored.examples),
            "noised": str(stored.noised).lower(),
        },
    )


def _not_invited(dataset: str) -> InvalidArgument:
    return _invalid("dataset", f"you were not invited for {dataset}")


def _invalid(field: str, text: str) -> InvalidArgument:
    violation = FieldViolation(field, text)
    return InvalidArgument("FIELD_INVALID", f"{field}: {text}", violations=[violation])
