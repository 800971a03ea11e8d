"""One server's policy room, as app.py wires it, for tests that need one or more."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

from prometheus_client import CollectorRegistry

from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis_server.policy.administration.service import PolicyAdminService
from aegis_server.policy.decisionlog import DecisionLog
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.lockout import Standing
from aegis_server.policy.news import News
from aegis_server.policy.proposals.deciding import Proposals
from aegis_server.policy.revisions import Change, Revisions
from aegis_server.policy.service import PolicyService

ADMIN = "user:admin"


def now() -> datetime:
    """The real clock."""
    return datetime.now(UTC)


class Nobody:
    """A directory that knows nobody; `News` asks no more of it."""

    def __init__(self) -> None:
        self.snapshot = SimpleNamespace(version=1, accounts={})

    async def refresh(self) -> None:
        """There is nothing to read."""


class Room:
    """One server's policy room."""

    def __init__(
        self, database: Database, *, two_person: bool = False, standing: Standing = dict
    ) -> None:
        self.database = database
        self.audit = AuditLog(database, log_id="test", clock=now)
        registry = CollectorRegistry()
        self.log = DecisionLog(
            database, audit=self.audit, replica="test", clock=now, registry=registry
        )
        self.decisions = Decisions(
            database,
            cache=None,
            clock=now,
            registry=registry,
            poll_seconds=0.02,
            next_id=self.log.next_id,
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
        self._standing = standing

    def policy_service(self, deeds: Deeds | None = None) -> PolicyService:
        """The service that answers questions."""
        return PolicyService(
            decisions=self.decisions,
            revisions=self.revisions,
            log=self.log,
            news=News(self.database, self.decisions, Nobody(), clock=now),
            deeds=deeds or Deeds(),
            clock=now,
            standing=lambda: {who: roles for who, roles in self._standing().items() if roles},
        )

    def admin_service(self, deeds: Deeds) -> PolicyAdminService:
        """The service that changes rules."""
        return PolicyAdminService(
            revisions=self.revisions,
            proposals=self.proposals,
            decision_log=self.log,
            decisions=self.decisions,
            deeds=deeds,
            clock=now,
        )

    async def import_(self, csv: str, **changes: object) -> int:
        """Imports as the administrator; returns the number of the revision."""
        change = Change(csv, ADMIN, "a test")
        outcome = await self.revisions.import_rules(replace(change, **changes))  # type: ignore[arg-type]
        assert outcome.revision is not None
        return outcome.revision.number
