"""The catalogue of data sets: the one that ships, and those that somebody registered.

A name stands for one schema and one set of evaluation rows for ever, because sites pin the first
and figures are compared by the second.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from aegis.errors import FailedPrecondition, NotFound
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Database
from aegis.v1 import audit_pb2
from aegis_learning import datasets as shipped
from aegis_learning.datasets import Dataset
from aegis_learning.schema import Schema
from aegis_server.objects.blobs import BlobStore
from aegis_server.participants.datasets import evaluation, store
from aegis_server.participants.datasets.evaluation import Asked, Evaluation, Fault
from aegis_server.participants.datasets.store import StoredDataset
from aegis_server.workers import Workers

RESOURCE = "/training/datasets"
BUILT_IN = "breast-cancer"

_GOLDEN_SHARE = 0.35
_CACHED_MAX = 16


@dataclass(frozen=True, slots=True)
class Registration:
    """What somebody registers; `golden_share` 0 means the usual one."""

    name: str
    schema: Schema
    description: str
    provenance: str
    consent_basis: str
    public: bool
    evaluation_csv: bytes
    golden_share: float


@dataclass(frozen=True, slots=True)
class Description:
    """A data set as it is shown; what ships has neither owner nor time."""

    name: str
    schema: Schema
    description: str
    provenance: str
    consent_basis: str
    public: bool
    golden_rows: int
    test_rows: int
    owner: str = ""
    created_at: datetime | None = None


class Datasets:
    """The data sets; `find` remembers those that were asked for last."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        blobs: BlobStore,
        workers: Workers,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._blobs = blobs
        self._workers = workers
        self._clock = clock
        self._cached: OrderedDict[str, Dataset] = OrderedDict()

    async def find(self, name: str) -> Dataset:
        """Returns a data set with its golden and test rows; `train` only for the one that ships.

        Raises `NotFound`, or `DataLoss` (DATA_DAMAGED) when its rows are not what they were.
        """
        if name == BUILT_IN:
            return shipped.load(name)
        cached = self._cached.get(name)
        if cached is not None:
            self._cached.move_to_end(name)
            return cached
        stored = await self._stored(name)
        rows = Evaluation.from_bytes(await self._blobs.get(stored.evaluation_sha256))
        found = Dataset(
            name=name,
            schema=_schema(stored),
            golden=rows.golden,
            test=rows.test,
            public=stored.public,
        )
        self._cached[name] = found
        if len(self._cached) > _CACHED_MAX:
            self._cached.popitem(last=False)
        return found

    async def schema(self, name: str) -> Schema:
        """Returns a data set's schema; raises `NotFound`."""
        if name == BUILT_IN:
            return shipped.SCHEMA
        return _schema(await self._stored(name))

    async def known(self, name: str) -> bool:
        """Says whether there is a data set of this name."""
        try:
            await self.schema(name)
        except NotFound:
            return False
        return True

    async def describe(self, name: str) -> Description:
        """Returns what is shown of a data set; raises `NotFound`."""
        return _built_in() if name == BUILT_IN else _described(await self._stored(name))

    async def list(self) -> list[Description]:
        """Returns every data set by name."""
        async with self._database.transaction() as connection:
            found = await store.everything(connection)
        return sorted([_built_in(), *map(_described, found)], key=lambda each: each.name)

    async def register(self, asked: Registration, *, actor: str) -> Description:
        """Stores a data set; the same content under the same name returns what is stored.

        Raises `InvalidArgument` (DATASET_ROWS_INVALID, FIELD_INVALID) and `FailedPrecondition`
        (STATE_CONFLICT) when the name stands for something else.
        """
        if asked.name == BUILT_IN:
            raise _conflict(asked.name)
        share = asked.golden_share or _GOLDEN_SHARE
        rows = await self._workers.run(
            evaluation.read, Asked(asked.evaluation_csv, asked.schema, share)
        )
        if isinstance(rows, Fault):
            raise rows.error()
        wanted = StoredDataset(
            name=asked.name,
            schema=asked.schema.canonical,
            schema_sha256=asked.schema.sha256,
            description=asked.description,
            provenance=asked.provenance,
            consent_basis=asked.consent_basis,
            public=asked.public,
            owner=actor,
            created_at=self._clock(),
            evaluation_sha256=await self._blobs.put(rows.to_bytes()),
            golden_rows=len(rows.golden),
            test_rows=len(rows.test),
        )
        async with self._database.transaction() as connection:
            if await store.insert(connection, wanted):
                await self._audit.record_in(connection, _entry(actor, wanted))
                return _described(wanted)
            before = await store.find(connection, asked.name)
        if before is None or before != replace(
            wanted, owner=before.owner, created_at=before.created_at
        ):
            raise _conflict(asked.name)
        return _described(before)

    async def _stored(self, name: str) -> StoredDataset:
        async with self._database.transaction() as connection:
            found = await store.find(connection, name)
        if found is None:
            raise NotFound(
                "RESOURCE_NOT_FOUND", f"no data set {name}", resource=f"{RESOURCE}/{name}"
            )
        return found


def _schema(stored: StoredDataset) -> Schema:
    return Schema.from_bytes(stored.schema)


def _described(stored: StoredDataset) -> Description:
    return Description(
        name=stored.name,
        schema=_schema(stored),
        description=stored.description,
        provenance=stored.provenance,
        consent_basis=stored.consent_basis,
        public=stored.public,
        golden_rows=stored.golden_rows,
        test_rows=stored.test_rows,
        owner=stored.owner,
        created_at=stored.created_at,
    )


def _built_in() -> Description:
    ships = shipped.load(BUILT_IN)
    return Description(
        name=BUILT_IN,
        schema=ships.schema,
        description="Breast Cancer Wisconsin (Diagnostic): 569 rows of 30 measures",
        provenance="UCI Machine Learning Repository, as scikit-learn ships it",
        consent_basis="public",
        public=True,
        golden_rows=len(ships.golden),
        test_rows=len(ships.test),
    )


def _entry(actor: str, stored: StoredDataset) -> Entry:
    return Entry(
        kind=audit_pb2.AUDIT_KIND_IDENTITY,
        actor=actor,
        action="register",
        resource=f"{RESOURCE}/{stored.name}",
        outcome="registered",
        subject_id=stored.name,
        details={
            "schema_sha256": stored.schema_sha256.hex(),
            "public": str(stored.public).lower(),
            "golden_rows": str(stored.golden_rows),
            "test_rows": str(stored.test_rows),
            "evaluation_sha256": stored.evaluation_sha256.hex(),
        },
        evidence={"schema.json": stored.schema},
    )


def _conflict(name: str) -> FailedPrecondition:
    return FailedPrecondition(
        "STATE_CONFLICT",
        f"{name} stands for another data set; what was registered never changes",
        resource=f"{RESOURCE}/{name}",
        state="registered",
    )
