"""Golden sets: who judges the judge's rows.

Whoever chooses the rows chooses what counts as harm, so rows are frozen before they are used, and
somebody else than who brought them puts them in use, both of them people. A version's rows never
change: they are a blob named by its digest, and nobody gets them back. Version 0 is what a data set
was registered with.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from aegis.errors import (
    AegisError,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
)
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database
from aegis.serving.doors import Call
from aegis_learning import parameters, rowfiles
from aegis_learning.rows import Split
from aegis_learning.schema import Schema
from aegis_server.access import Permit
from aegis_server.objects.blobs import BlobStore
from aegis_server.participants.datasets.catalogue import Datasets
from aegis_server.review.golden import store
from aegis_server.review.golden.records import (
    conflict,
    entry,
    id_of,
    missing,
    refused_rows,
)
from aegis_server.review.golden.store import StoredSet
from aegis_server.review.people import require_two_people

# Names the version that is in use, instead of a number.
ACTIVE = "active"

# Every update is examined with all of them.
_ROWS_MAX = 10_000
# With fewer, one odd row decides about the recall of a class.
_ROWS_OF_A_CLASS_MIN = 5
_CACHED_MAX = 8
_VERSION = re.compile(f"[0-9]{{1,9}}|{ACTIVE}")


@dataclass(frozen=True, slots=True)
class Announced:
    """What the sender says it is about to send."""

    dataset: str
    description: str
    sha256: bytes
    size_bytes: int


class GoldenSets:
    """The versions of every data set; `active` is what rounds ask."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        blobs: BlobStore,
        datasets: Datasets,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._blobs = blobs
        self._datasets = datasets
        self._clock = clock
        self._cached: OrderedDict[bytes, Split] = OrderedDict()

    async def active(self, dataset: str) -> tuple[Split, bytes] | None:
        """Returns the rows in use and their SHA-256; None for what the data set came with.

        Raises `DataLoss` (DATA_DAMAGED): no round is judged with other rows instead.
        """
        async with self._database.transaction() as connection:
            found = await store.active(connection, dataset)
        if found is None or found.version == 0:
            return None
        return await self.rows(found), found.sha256

    async def expect(self, announced: Announced) -> None:
        """Decides from the announcement alone whether to read on.

        Raises `NotFound`, or `ResourceExhausted` (REQUEST_TOO_LARGE).
        """
        schema = await self._datasets.schema(announced.dataset)
        limit = rowfiles.bytes_max(schema, _ROWS_MAX)
        if announced.size_bytes > limit:
            raise ResourceExhausted(
                "REQUEST_TOO_LARGE",
                f"golden rows of {announced.dataset} have at most {limit} bytes",
                limit_bytes=limit,
            )

    async def create(self, announced: Announced, data: bytes, by: Call) -> StoredSet:
        """Stores rows as a DRAFT, or returns the version that has them.

        Raises `InvalidArgument` (DIGEST_MISMATCH, DATASET_ROWS_INVALID) or `NotFound`.
        """
        if len(data) != announced.size_bytes or parameters.digest(data) != announced.sha256:
            raise InvalidArgument(
                "DIGEST_MISMATCH", "the bytes do not have the announced SHA-256 and size"
            )
        name = announced.dataset
        schema = await self._datasets.schema(name)
        rows = await asyncio.to_thread(_read, data, schema)
        await self._know([name])
        # Written anew, so that what else a file may carry makes no other version of its rows.
        sha256 = await self._blobs.put(rowfiles.encode(rows))
        async with self._database.transaction() as connection:
            await store.lock(connection, name)
            earlier = await store.of_rows(connection, name, sha256)
            if earlier is not None:
                return earlier
            draft = StoredSet(
                dataset=name,
                version=await store.newest(connection, name) + 1,
                state="draft",
                sha256=sha256,
                row_count=len(rows),
                class_counts=_counts(rows, schema),
                description=announced.description,
                created_by=by.caller.subject,
                created_at=self._clock(),
            )
            await store.insert(connection, draft)
            await self._audit.record_in(connection, entry(draft, by, "create", "draft"))
        return draft

    async def refused(self, announced: Announced, by: Call, refusal: AegisError) -> None:
        """Writes down that rows were not taken."""
        told = refused_rows(announced.dataset, announced.sha256, by, refusal)
        await self._audit.record(told)

    async def freeze(self, golden_set_id: str, by: Call) -> StoredSet:
        """Makes a DRAFT fit to be promoted; raises `NotFound`, `FailedPrecondition`."""
        name, version = await self._named(golden_set_id)
        async with self._database.transaction() as connection:
            await store.lock(connection, name)
            before = await _require(connection, name, version)
            if before.state != "draft":
                raise conflict(before)
            await store.set_state(connection, name, version, "frozen")
            after = await _require(connection, name, version)
            await self._audit.record_in(connection, entry(after, by, "freeze", "frozen"))
        return after

    async def promote(
        self, golden_set_id: str, reason: str, by: Call, *, permit: Permit
    ) -> StoredSet:
        """Puts a version in use, and the one that was out of it.

        Raises `NotFound`, what `permit` raises, or `FailedPrecondition` (SECOND_PERSON_NEEDED,
        STATE_CONFLICT).
        """
        name, version = await self._named(golden_set_id)
        async with self._database.transaction() as connection:
            wanted = await _require(connection, name, version)
        grant = await permit(
            {
                "dataset": name,
                "version": version,
                "rows": wanted.row_count,
                "reason": reason,
            }
        )
        by = by._replace(grant=grant)
        try:
            return await self._activate(wanted, reason, by)
        except FailedPrecondition as refusal:
            told = entry(wanted, by, "promote", "refused", reason=reason, refused=refusal.reason)
            await self._audit.record(told)
            raise

    async def get(self, golden_set_id: str) -> StoredSet:
        """Returns one version; raises `NotFound`."""
        name, version = await self._named(golden_set_id)
        async with self._database.transaction() as connection:
            return await _require(connection, name, version)

    async def page(
        self, *, dataset: str, before: tuple[str, str, int] | None, limit: int
    ) -> list[StoredSet]:
        """Returns versions, newest first, behind a position."""
        known = [each.name for each in await self._datasets.list()]
        await self._know([name for name in known if dataset in ("", name)])
        async with self._database.transaction() as connection:
            return await store.page(connection, dataset=dataset, before=before, limit=limit)

    async def _activate(self, wanted: StoredSet, reason: str, by: Call) -> StoredSet:
        name, version, actor = wanted.dataset, wanted.version, by.caller.subject
        # Version 0 came with the data set and was in use before anybody decided.
        first = wanted.created_by if version else ""
        require_two_people(actor, first=first, deed="bring rows and put them in use")
        async with self._database.transaction() as connection:
            await store.lock(connection, name)
            now = await _require(connection, name, version)
            if now.state not in ("frozen", "retired"):
                raise conflict(now)
            former = await store.active(connection, name)
            await store.activate(connection, name, version, by=actor, at=self._clock())
            after = await _require(connection, name, version)
            replaced = id_of(former) if former else ""
            told = entry(after, by, "promote", "active", reason=reason, former=replaced)
            await self._audit.record_in(connection, told)
        return after

    async def _named(self, golden_set_id: str) -> tuple[str, int]:
        """Returns data set and version of an id; makes sure the data set's versions are known."""
        name, _, which = golden_set_id.rpartition("@")
        if not _VERSION.fullmatch(which) or not await self._datasets.known(name):
            raise missing(golden_set_id)
        await self._know([name])
        if which != ACTIVE:
            return name, int(which)
        async with self._database.transaction() as connection:
            found = await store.active(connection, name)
        if found is None:
            raise RuntimeError(f"no golden set of {name} is in use")
        return name, found.version

    async def _know(self, names: Sequence[str]) -> None:
        """Makes the rows of version 0 where they are missing: the data sets came first."""
        async with self._database.transaction() as connection:
            there = await store.registered(connection, names)
        for name in names:
            if name in there:
                continue
            data, shown = await self._datasets.find(name), await self._datasets.describe(name)
            first = StoredSet(
                dataset=name,
                version=0,
                state="active",
                sha256=await self._blobs.put(rowfiles.encode(data.golden)),
                row_count=len(data.golden),
                class_counts=_counts(data.golden, data.schema),
                description="registered with the data set",
                created_by=shown.owner,
                created_at=shown.created_at,
            )
            async with self._database.transaction() as connection:
                await store.insert(connection, first)

    async def rows(self, golden: StoredSet) -> Split:
        """Returns a version's rows; raises `DataLoss` (DATA_DAMAGED)."""
        cached = self._cached.get(golden.sha256)
        if cached is None:
            schema = await self._datasets.schema(golden.dataset)
            data = await self._blobs.get(golden.sha256)
            cached = self._cached[golden.sha256] = rowfiles.decode(data, schema)
            if len(self._cached) > _CACHED_MAX:
                self._cached.popitem(last=False)
        self._cached.move_to_end(golden.sha256)
        return cached


def _read(data: bytes, schema: Schema) -> Split:
    try:
        rows = rowfiles.decode(data, schema)
    except rowfiles.RowsError as error:
        raise InvalidArgument(
            "DATASET_ROWS_INVALID", str(error), row=error.row, column=error.column
        ) from error
    for name, count in zip(schema.classes, _counts(rows, schema), strict=True):
        if count < _ROWS_OF_A_CLASS_MIN:
            raise InvalidArgument(
                "DATASET_ROWS_INVALID",
                f"{count} rows are of class {name}; it takes {_ROWS_OF_A_CLASS_MIN}",
                row=0,
                column=schema.label,
            )
    return rows


def _counts(rows: Split, schema: Schema) -> list[int]:
    return [int(count) for count in np.bincount(rows.y, minlength=len(schema.classes))]


async def _require(connection: Connection, name: str, version: int) -> StoredSet:
    found = await store.find(connection, name, version)
    if found is None:
        raise missing(f"{name}@{version}")
    return found
