"""One server's policy room, as app.py wires it, for tests that need one or more."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry

from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.lockout import Standing
from aegis_server.policy.proposals.deciding import Proposals
from aegis_server.policy.revisions import Change, Revisions

ADMIN = "user:admin"


def now() -> datetime:
    """The real clock."""
    return datetime.now(UTC)


class Room:
    """One server's policy room."""

    def __init__(
        self, database: Database, *, two_person: bool = False, standing: Standing = dict
    ) -> None:
        self.database = database
        self.audit = AuditLog(database, log_id="test", clock=now)
        self.decisions = Decisions(
            database, cache=None, clock=now, registry=CollectorRegistry(), poll_seconds=0.02
        )
        self.revisions = Revisions(
            database,
            audit=self.audit,
            decisions=self.decisions,
            clock=now,
            two_person=two_person,
            standing=standing,
        )
        self.proposals = Proposals(self.revisions.writer)

    async def import_(self, csv: str, **changes: object) -> int:
        """Imports as the administrator; returns the number of the revision."""
        change = Change(csv, ADMIN, "a test")
        outcome = await self.revisions.import_rules(replace(change, **changes))  # type: ignore[arg-type]
        assert outcome.revision is not None
        return outcome.revision.number
