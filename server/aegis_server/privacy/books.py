"""What people do with ledgers: look, set limits, begin anew, ask for the tighter figure.

A limit and a new account are acts with a name and a reason. Each is one transaction with its audit
record, under the lock that runs reserve under: no run begins against a limit that is being changed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from aegis.errors import FailedPrecondition, NotFound
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Connection, Database
from aegis.serving.doors import Grant
from aegis.v1 import audit_pb2
from aegis_learning.datasets import UnknownDataset, load
from aegis_server.privacy import store
from aegis_server.privacy.book import ALL, Book, Limit, Standing
from aegis_server.privacy.certificate import Certifier, Composition
from aegis_server.privacy.ledger import Ledger, statement
from aegis_server.privacy.store import StoredEntry, StoredLimit

RESOURCE = "/training/privacy"
_ENTRIES_MAX = 1000


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, why, and which rule lets them."""

    subject: str
    reason: str
    grant: Grant


@dataclass(frozen=True, slots=True)
class Certificate:
    """The tighter figure beside the account it is about, and how long it took."""

    standing: Standing
    epsilon: float
    seconds: float


class Books:
    """The ledgers, for people. `ledger` has the limit where none was set."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        ledger: Ledger,
        *,
        clock: Callable[[], datetime],
        certifier: Certifier | None = None,
    ) -> None:
        self._database = database
        self._audit = audit
        self._ledger = ledger
        self._clock = clock
        self._certifier = certifier or Certifier()

    async def look(
        self, dataset: str, *, participant: str = "", history: bool = False
    ) -> tuple[Book, list[Standing], list[StoredEntry]]:
        """Returns the ledger, how everybody (or one) stands in it, and entries, newest first.

        Raises `NotFound`.
        """
        async with self._database.transaction() as connection:
            book = await self._book(connection, dataset, participant)
            entries = await store.entries(
                connection, dataset, participant=participant, history=history, limit=_ENTRIES_MAX
            )
        names = [participant] if participant else book.known
        return book, [book.standing(name) for name in names], entries

    async def limit(
        self, dataset: str, participant: str, wanted: Limit, actor: Actor, *, expected: float = 0.0
    ) -> Standing:
        """Sets a limit; "*" is for all that have none of their own.

        `expected` is the limit the caller saw, zero when it did not look. Raises `NotFound`, or
        `FailedPrecondition` (STATE_CONFLICT) when the limit is another by now.
        """
        async with self._database.transaction() as connection:
            book = await self._book(connection, dataset, participant, lock=True)
            before = book.limit(participant)
            if expected and not math.isclose(expected, before.epsilon, rel_tol=1e-9):
                raise FailedPrecondition(
                    "STATE_CONFLICT",
                    f"the limit of {dataset} is {before.epsilon:g} by now, not {expected:g}",
                    resource=f"{RESOURCE}/{dataset}",
                    state=f"{before.epsilon:g}",
                )
            limit = StoredLimit(
                dataset=dataset,
                participant=participant,
                epsilon=wanted.epsilon,
                delta=wanted.delta,
                actor=actor.subject,
                reason=actor.reason,
                set_at=self._clock(),
            )
            await store.set_limit(connection, limit)
            details = {
                "epsilon_limit": f"{wanted.epsilon:g}",
                "delta": f"{wanted.delta:g}",
                "epsilon_limit_before": f"{before.epsilon:g}",
                "delta_before": f"{before.delta:g}",
            }
            return await self._record(connection, dataset, participant, actor, "limit", details)

    async def reset(self, dataset: str, participant: str, actor: Actor) -> Standing:
        """Begins a new account for a participant, or with "*" for everybody.

        Raises `NotFound`, or `FailedPrecondition` (STATE_CONFLICT) while a run that is charged to
        the ledger is open.
        """
        async with self._database.transaction() as connection:
            book = await self._book(connection, dataset, participant, lock=True)
            run_id = await store.open_run(connection, dataset)
            if run_id is not None:
                raise FailedPrecondition(
                    "STATE_CONFLICT",
                    f"{run_id} is open on {dataset}: a new account begins when it has ended",
                    resource=run_id,
                    state="open",
                )
            before = book.standing(participant)
            names = book.known if participant == ALL else [participant]
            await store.begin_accounts(
                connection,
                dataset,
                {name: book.account(name) + 1 for name in names},
                actor=actor.subject,
                reason=actor.reason,
                at=self._clock(),
            )
            details = {
                "account": str(book.account(participant) + 1),
                "epsilon_spent_before": f"{before.spent:.6f}",
            }
            return await self._record(connection, dataset, participant, actor, "reset", details)

    async def certify(self, dataset: str, participant: str) -> Certificate:
        """Returns the tighter bound of what a participant's rows bear; takes seconds.

        Raises `NotFound` or `FailedPrecondition` (CERTIFICATE_UNAVAILABLE).
        """
        async with self._database.transaction() as connection:
            book = await self._book(connection, dataset, participant)
        standing = book.standing(participant)
        kinds: dict[tuple[float, float], int] = {}
        for line in book.borne_by(participant):
            kind = line.mechanism.counted
            kinds[kind] = kinds.get(kind, 0) + line.mechanism.steps
        began = time.monotonic()
        epsilon = await self._certifier.certify(
            Composition(
                [(noise, rate, steps) for (noise, rate), steps in sorted(kinds.items())],
                standing.limit.delta,
            )
        )
        return Certificate(standing, epsilon, time.monotonic() - began)

    async def _book(
        self, connection: Connection, dataset: str, participant: str, *, lock: bool = False
    ) -> Book:
        if not _ships(dataset) and not await store.registered(connection, dataset):
            raise NotFound(
                "RESOURCE_NOT_FOUND", f"there is no data set {dataset}", resource=dataset
            )
        book = await self._ledger.book(connection, dataset, lock=lock)
        if participant and participant not in book.known:
            if await store.is_participant(connection, participant):
                return book
            raise NotFound(
                "RESOURCE_NOT_FOUND",
                f"there is no participant {participant}",
                resource=participant,
            )
        return book

    async def _record(
        self,
        connection: Connection,
        dataset: str,
        participant: str,
        actor: Actor,
        action: str,
        details: dict[str, str],
    ) -> Standing:
        book = await self._ledger.book(connection, dataset)
        entry = Entry(
            kind=audit_pb2.AUDIT_KIND_RUN,
            actor=actor.subject,
            action=action,
            resource=f"{RESOURCE}/{dataset}",
            outcome="set" if action == "limit" else "begun",
            reason=actor.reason,
            policy_revision=actor.grant.revision,
            rule_id=actor.grant.rule_id,
            details={
                "dataset": dataset,
                "participant": participant,
                **details,
                **statement(book),
            },
        )
        await self._audit.record_in(connection, entry)
        return book.standing(participant)


def _ships(dataset: str) -> bool:
    try:
        load(dataset)
    except UnknownDataset:
        return False
    return True
