"""Quarantines: proposed by the review, decided by a person whom the policy lets.

Who is in one is left out of every round that begins afterwards, until it is lifted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from enum import StrEnum

from aegis.errors import FailedPrecondition, NotFound
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Database
from aegis.serving.doors import Grant
from aegis.v1 import audit_pb2
from aegis_server.review.standing import store
from aegis_server.review.standing.counting import Counts
from aegis_server.review.standing.standings import QUARANTINES
from aegis_server.review.standing.store import QuarantineRow


class Decision(StrEnum):
    """What may be decided about a quarantine."""

    ENFORCE = "enforce"
    REFUSE = "refuse"
    LIFT = "lift"


# What each decides about, and what it makes of it.
_MOVES = {
    Decision.ENFORCE: ("proposed", "in_force"),
    Decision.REFUSE: ("proposed", "refused"),
    Decision.LIFT: ("in_force", "lifted"),
}
# Asks the policy, given what its conditions see; raises `PermissionDenied`.
Permit = Callable[[Mapping[str, object]], Awaitable[Grant]]


class Quarantines:
    """The quarantines."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        *,
        clock: Callable[[], datetime],
        counts: Counts,
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock
        self._counts = counts

    async def page(
        self, *, participant: str, before: int | None, limit: int
    ) -> list[QuarantineRow]:
        """Returns quarantines, newest first, behind position `before`."""
        async with self._database.transaction() as connection:
            return await store.page_quarantines(
                connection, participant=participant, before=before, limit=limit
            )

    async def decide(
        self, quarantine_id: str, decision: Decision, *, reason: str, by: str, permit: Permit
    ) -> QuarantineRow:
        """Decides, once the policy lets `by` do so.

        Raises `PermissionDenied`, `NotFound`, or `FailedPrecondition` (STATE_CONFLICT) when the
        quarantine is not in the state that the decision is about.
        """
        async with self._database.transaction() as connection:
            found = await store.find_quarantine(connection, quarantine_id)
        # Whoever may decide nothing does not learn which there are.
        participant = found.participant if found is not None else ""
        grant = await permit({"decision": decision.value, "participant": participant})
        async with self._database.transaction() as connection:
            row = await store.find_quarantine(connection, quarantine_id, lock=True)
            if row is None:
                raise NotFound(
                    "RESOURCE_NOT_FOUND",
                    f"there is no quarantine {quarantine_id}",
                    resource=f"{QUARANTINES}/{quarantine_id}",
                )
            before, after = _MOVES[decision]
            if row.state != before:
                raise FailedPrecondition(
                    "STATE_CONFLICT",
                    f"{quarantine_id} is {row.state}: there is nothing to {decision.value}",
                    resource=f"{QUARANTINES}/{quarantine_id}",
                    state=row.state.upper(),
                )
            await store.decide_quarantine(
                connection, quarantine_id, state=after, by=by, reason=reason, now=self._clock()
            )
            await self._counts.refresh(connection)
            decided = await store.find_quarantine(connection, quarantine_id)
            assert decided is not None  # noqa: S101  # its row is locked
            await self._audit.record_in(connection, _entry(decided, decision, by, grant))
        return decided


def _entry(row: QuarantineRow, decision: Decision, by: str, grant: Grant) -> Entry:
    return Entry(
        kind=audit_pb2.AUDIT_KIND_REVIEW,
        actor=by,
        action=f"{decision.value}_quarantine",
        resource=f"{QUARANTINES}/{row.quarantine_id}",
        outcome=row.state,
        policy_revision=grant.revision,
        rule_id=grant.rule_id,
        subject_id=row.quarantine_id,
        details={"participant": row.participant, "why": row.reason},
        # A person's words may be about persons.
        attachments={"reason": row.decision_reason.encode()},
    )
