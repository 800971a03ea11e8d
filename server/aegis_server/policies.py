"""How the policy room is put together: decisions and their log, the rules and who changes them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.port import Port
from aegis.v1 import policy_admin_pb2_grpc, policy_pb2_grpc
from aegis_server.entrance import Part
from aegis_server.foundation import Base, Clock
from aegis_server.policy.administration.service import PolicyAdminService
from aegis_server.policy.decisionlog import DecisionLog, Retention
from aegis_server.policy.following import Following
from aegis_server.policy.news import News
from aegis_server.policy.proposals.deciding import Proposals
from aegis_server.policy.revisions import Revisions
from aegis_server.policy.service import PolicyService
from aegis_server.settings import Settings


def decision_log(
    settings: Settings,
    database: Database,
    audit: AuditLog,
    *,
    clock: Clock,
    registry: CollectorRegistry,
) -> DecisionLog:
    """Returns the decision log of this process."""
    wanted = settings.decision_log
    return DecisionLog(
        database,
        audit=audit,
        replica=f"{socket.gethostname()}:{os.getpid()}",
        clock=clock,
        registry=registry,
        strict=wanted.strict,
        keep_attributes=wanted.keep_attributes,
        capacity=wanted.capacity,
    )


async def serve_policy(base: Base, port: Port, log: DecisionLog) -> list[Part]:
    """Serves decisions and rules; returns what must run while it does."""
    revisions = Revisions(
        base.database,
        audit=base.audit,
        decisions=base.decisions,
        clock=base.clock,
        two_person=base.settings.policy_two_person,
        standing=lambda: _standing(base),
    )
    await revisions.ensure_first()
    await base.decisions.open()
    retention = Retention(
        base.database,
        audit=base.audit,
        clock=base.clock,
        days=base.settings.decision_log.retention_days,
    )
    await retention.make_ahead()
    news = News(base.database, base.decisions, base.directory, clock=base.clock)
    policy_pb2_grpc.add_PolicyServiceServicer_to_server(
        PolicyService(
            decisions=base.decisions,
            revisions=revisions,
            log=log,
            news=news,
            deeds=base.deeds,
            clock=base.clock,
            standing=lambda: {who: roles for who, roles in _standing(base).items() if roles},
        ),
        port.server,
    )
    policy_admin_pb2_grpc.add_PolicyAdminServiceServicer_to_server(
        PolicyAdminService(
            revisions=revisions,
            proposals=Proposals(revisions.writer),
            decision_log=log,
            decisions=base.decisions,
            deeds=base.deeds,
            clock=base.clock,
        ),
        port.server,
    )
    base.directory.on_change(lambda _: news.tell())
    hearing = Following(base.settings.database_url, news.look)
    return [base.decisions.run(), hearing.run(), retention.run()]


def _standing(base: Base) -> Mapping[str, tuple[str, ...] | None]:
    """Returns the roles of everybody in the directory, None for a disabled account."""
    accounts = base.directory.snapshot.accounts
    return {name: None if who.disabled else who.roles for name, who in accounts.items()}
