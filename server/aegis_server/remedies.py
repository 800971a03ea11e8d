"""How the execution room is put together: what it asks, whom it tells, what must run beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from prometheus_client import CollectorRegistry

from aegis.algorithms import PrivateKey
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.trust import TrustBundle, load_private_key
from aegis_server.execution.actions import Actions
from aegis_server.execution.afterwards import Afterwards
from aegis_server.execution.approvals.approvers import Approvers, Standing
from aegis_server.execution.approvals.deciding import Approvals, Times
from aegis_server.execution.approvals.obligations import Obligations
from aegis_server.execution.asking import Names
from aegis_server.execution.dispatch import Dispatch
from aegis_server.execution.endings import Endings
from aegis_server.execution.healing.report import Reports
from aegis_server.execution.intake import Intake
from aegis_server.execution.ledger import Ledger
from aegis_server.execution.metrics import ActionMetrics
from aegis_server.execution.pauses.pausing import Pauses
from aegis_server.execution.planning import Planner
from aegis_server.execution.service import Room
from aegis_server.execution.settlement import Settlement
from aegis_server.execution.watching import Watching
from aegis_server.execution.why import Why
from aegis_server.foundation import Base, Clock
from aegis_server.policy.decisions import Decisions


@dataclass(frozen=True, slots=True)
class Grounds:
    """What the execution room stands on."""

    database: Database
    audit: AuditLog
    decisions: Decisions
    standing: Standing
    trust: TrustBundle
    decision_key: PrivateKey
    approval_key: PrivateKey
    names: Names
    times: Times
    clock: Clock
    # Acts by itself, where nobody else does.
    server: str


def grounds_of(base: Base, server: str) -> Grounds:
    """Returns what the settings say."""
    settings = base.settings

    def standing() -> Mapping[str, tuple[str, ...] | None]:
        return base.directory.standing()

    return Grounds(
        database=base.database,
        audit=base.audit,
        decisions=base.decisions,
        standing=standing,
        trust=base.trust,
        decision_key=load_private_key(settings.decision_key),
        approval_key=load_private_key(settings.approval_key),
        names=Names(audience=settings.audience, executor=settings.executor_name),
        times=Times(
            approval=timedelta(seconds=settings.approval_seconds),
            execution=timedelta(seconds=settings.execution_seconds),
        ),
        clock=base.clock,
        server=server,
    )


def room_of(
    grounds: Grounds, dispatch: Dispatch, registry: CollectorRegistry
) -> tuple[Room, Settlement]:
    """Returns the room, and what follows the actions that were sent.

    Beside that, the room's `pauses` and `endings` must run.
    """
    decisions = grounds.decisions
    ledger = Ledger(
        grounds.database,
        grounds.audit,
        metrics=ActionMetrics(registry),
        clock=grounds.clock,
        server=grounds.server,
    )
    obligations = Obligations(decisions)
    approvers = Approvers(
        decisions, standing=grounds.standing, trust=grounds.trust, clock=grounds.clock
    )
    approvals = Approvals(
        ledger,
        decisions,
        approvers,
        trust=grounds.trust,
        key=grounds.approval_key,
        times=grounds.times,
    )
    pauses = Pauses(ledger, dispatch)
    settlement = Settlement(ledger, dispatch, pauses, approvals)
    intake = Intake(
        ledger,
        approvers=approvers,
        approvals=approvals,
        pauses=pauses,
        decision_key=grounds.decision_key,
        names=grounds.names,
        times=grounds.times,
    )
    actions = Actions(
        ledger,
        intake=intake,
        obligations=obligations,
        dispatch=dispatch,
        settlement=settlement,
        trust=grounds.trust,
        names=grounds.names,
    )
    planner = Planner(
        ledger, obligations=obligations, approvers=approvers, pauses=pauses, dispatch=dispatch
    )
    room = Room(
        ledger=ledger,
        actions=actions,
        planner=planner,
        approvals=approvals,
        endings=Endings(ledger, decisions),
        afterwards=Afterwards(ledger, dispatch),
        pauses=pauses,
        why=Why(ledger, approvals, pauses, dispatch),
        watching=Watching(ledger),
        reports=Reports(grounds.database, grounds.clock),
        dispatch=dispatch,
    )
    return room, settlement
