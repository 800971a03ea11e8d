"""Whose updates a coordinator says are in a model, held against what the review has on its rows."""

from __future__ import annotations

from datetime import datetime

from aegis.errors import FailedPrecondition
from aegis.serving.auditlog import Entry
from aegis.serving.database import Connection
from aegis.v1 import training_pb2
from aegis_server.review import ingredients as review
from aegis_server.review.ingredients import Doubt, Named
from aegis_server.review.updates import RESOURCE
from aegis_server.training import store
from aegis_server.training.states import entry
from aegis_server.training.store import StoredRun

Outcome = training_pb2.ParticipantRound

# Of what a coordinator calls somebody or something, in errors and records.
_NAME_MAX = 80


def aggregated(report: training_pb2.Round) -> list[training_pb2.ParticipantRound]:
    """Returns those of a report that are said to have a part in the model."""
    return [each for each in report.participants if each.outcome == Outcome.OUTCOME_AGGREGATED]


async def doubt(
    connection: Connection,
    run: StoredRun,
    plan: training_pb2.RunPlan,
    report: training_pb2.Round,
    *,
    now: datetime,
) -> Doubt | None:
    """Returns what the review does not bear out of a report; None when all of it may be so.

    Nothing is asked of a run without review, and of a round that is stored: it was asked then.
    """
    if not plan.review or await store.round_of(connection, run.run_id, report.round) is not None:
        return None
    return await review.doubt(
        connection,
        run.run_id,
        report.round,
        [Named(each.participant, each.update_id) for each in aggregated(report)],
        fallback=bool(report.fallback),
        now=now,
    )


def refusal(run: StoredRun, report: training_pb2.Round, doubted: Doubt) -> FailedPrecondition:
    """Returns the error that says who cannot have a part in the model, and why."""
    participant, update_id = _names(doubted)
    return FailedPrecondition(
        "STATE_CONFLICT",
        f"{participant} cannot be in the model of round {report.round} of {run.run_id}:"
        f" update {update_id or 'without a name'} {doubted.why}",
        resource=f"{RESOURCE}/{update_id}",
        state=doubted.state,
        participant=participant,
    )


def entry_of(run: StoredRun, report: training_pb2.Round, doubted: Doubt, *, actor: str) -> Entry:
    """Returns the audit entry of a round that was refused."""
    participant, update_id = _names(doubted)
    return entry(
        run,
        actor=actor,
        action="complete_round",
        outcome="refused",
        reason="STATE_CONFLICT",
        details={
            "round": str(report.round),
            "model_sha256": report.model_sha256.hex(),
            "participant": participant,
            "update_id": update_id,
            "why": doubted.why,
        },
    )


def _names(doubted: Doubt) -> tuple[str, str]:
    return doubted.named.participant[:_NAME_MAX], doubted.named.update_id[:_NAME_MAX]
