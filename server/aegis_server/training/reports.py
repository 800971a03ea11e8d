"""What a coordinator reports of a round, and how little of it is believed.

The model must be a model, the steps must fit the plan, and weights and epsilon are computed here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from aegis.errors import FieldViolation, InvalidArgument
from aegis.serving.auditlog import Entry
from aegis.v1 import training_pb2
from aegis_learning import parameters
from aegis_learning.aggregation.refusals import AssumptionBroken
from aegis_learning.datasets import Dataset
from aegis_server.training import strategies
from aegis_server.training.budget import epsilon_of
from aegis_server.training.plans import planned_steps
from aegis_server.training.seats.store import StoredSite
from aegis_server.training.selection import TRAINED
from aegis_server.training.states import entry
from aegis_server.training.store import StoredParticipant, StoredRound, StoredRun

Outcome = training_pb2.ParticipantRound

_TEXT_MAX = 500
_FEATURES_MAX = 16


@dataclass(frozen=True, slots=True)
class Accounts:
    """What is known of a run's private steps before a report.

    By participant: `stored` are those of earlier rounds, `least` what it must have been asked for
    by now, lost rounds and tasks of this round included.
    """

    stored: Mapping[str, int]
    least: Mapping[str, int]


def read(
    run: StoredRun,
    plan: training_pb2.RunPlan,
    report: training_pb2.Round,
    *,
    sites: Sequence[StoredSite],
    accounts: Accounts,
    at: datetime,
    state_sha256: bytes,
) -> tuple[StoredRound, list[StoredParticipant]]:
    """Returns a report as it is stored; raises `InvalidArgument` (FIELD_INVALID)."""
    steps = _steps(plan, report, {site.name for site in sites}, accounts)
    examples = {site.name: site.examples for site in sites}
    # Exact figures about private rows would escape the accountant, whoever sent them.
    public = plan.simulation
    cost = {count: epsilon_of(run, count) for count in set(steps.values()) | {report.steps}}
    participants = [
        StoredParticipant(
            run_id=run.run_id,
            round=report.round,
            participant=p.participant,
            loss=p.loss if public else 0.0,
            accuracy=p.accuracy if public else 0.0,
            auc=p.auc if public else 0.0,
            epsilon=cost[steps[p.participant]],
            examples=min(examples[p.participant], 2**31 - 1),
            outcome=p.outcome,
            update_id=p.update_id,
            reason=p.reason,
            seconds=p.seconds,
            bytes_sent=p.bytes_sent,
            bytes_received=p.bytes_received,
            tries=p.tries,
            steps=p.steps,
        )
        for p in report.participants
    ]
    stored = StoredRound(
        run_id=run.run_id,
        round=report.round,
        attempt=run.attempt,
        model_sha256=report.model_sha256,
        accuracy=report.accuracy,
        loss=report.loss,
        epsilon=cost[report.steps],
        steps=report.steps,
        completed_at=at,
        state_sha256=state_sha256,
        fallback=report.fallback[:_TEXT_MAX],
        scan=_scan(plan, report, examples.keys()),
    )
    return stored, participants


def _scan(plan: training_pb2.RunPlan, report: training_pb2.Round, names: Collection[str]) -> bytes:
    """Returns the scan of a reviewed run's model as it is stored; empty when there is none."""
    if not (plan.review and report.round and report.HasField("scan")):
        return b""
    found = report.scan
    if len(found.features) != len(found.values) or len(found.features) > _FEATURES_MAX:
        raise _no_scan("has as many values as features, few of them")
    if not all(map(math.isfinite, (*found.values, found.success_rate, found.threshold))):
        raise _no_scan("has finite numbers")
    if not set(found.excluded) <= set(names):
        raise _no_scan("excludes participants of the run only")
    kept = training_pb2.TriggerScan()
    kept.CopyFrom(found)
    kept.text = found.text[:_TEXT_MAX]
    return kept.SerializeToString(deterministic=True)


def _no_scan(description: str) -> InvalidArgument:
    """Returns the error for a scan that is none."""
    field = FieldViolation("header.round.scan", description)
    return InvalidArgument("FIELD_INVALID", f"round.scan {description}", violations=[field])


def blocked(stored: StoredRound) -> str:
    """Returns why a round's model may not leave; empty when it may."""
    scan = training_pb2.TriggerScan.FromString(stored.scan)
    return (scan.text or "it seems to hold a backdoor") if scan.suspicious else ""


def _scan_details(stored: StoredRound) -> dict[str, str]:
    scan = training_pb2.TriggerScan.FromString(stored.scan)
    told = {"blocked": blocked(stored), "excluded": ",".join(scan.excluded)}
    return {name: value for name, value in told.items() if value}


def _steps(
    plan: training_pb2.RunPlan,
    report: training_pb2.Round,
    names: set[str],
    accounts: Accounts,
) -> dict[str, int]:
    """Returns each participant's steps after this round."""
    violations: list[FieldViolation] = []
    most = planned_steps(plan) if report.round else 0
    steps = {name: accounts.stored.get(name, 0) for name in names}
    seen: set[str] = set()
    for index, each in enumerate(report.participants):
        field = f"header.round.participants[{index}]"
        if each.participant not in names or each.participant in seen:
            violations.append(FieldViolation(f"{field}.participant", "takes part in the run, once"))
            continue
        seen.add(each.participant)
        steps[each.participant] += each.steps
        trained = plan.local_steps if each.outcome in TRAINED else 0
        least = max(
            accounts.least.get(each.participant, 0),
            accounts.stored.get(each.participant, 0) + trained,
        )
        if each.steps < 0 or not least <= steps[each.participant] <= most:
            earlier = accounts.stored.get(each.participant, 0)
            text = f"must be between {least - earlier} and {most - earlier}"
            violations.append(FieldViolation(f"{field}.steps", text))
    for name in sorted(names - seen):
        if accounts.least.get(name, 0) > steps[name]:
            text = f"must say what {name} was asked for"
            violations.append(FieldViolation("header.round.participants", text))
    total = max(steps.values(), default=0)
    if report.steps != total:
        violations.append(FieldViolation("header.round.steps", f"must be {total}"))
    if violations:
        text = "; ".join(f"{v.field} {v.description}" for v in violations[:3])
        raise InvalidArgument(
            "FIELD_INVALID", text.replace("header.", "", 1), violations=violations
        )
    return steps


def entry_of(
    run: StoredRun, stored: StoredRound, participants: Sequence[StoredParticipant], *, actor: str
) -> Entry:
    """Returns the audit entry of a stored round."""
    aggregated = [p for p in participants if p.outcome == Outcome.OUTCOME_AGGREGATED]
    return entry(
        run,
        actor=actor,
        action="complete_round",
        outcome="completed",
        details={
            "round": str(stored.round),
            "model_sha256": stored.model_sha256.hex(),
            "accuracy": f"{stored.accuracy:.6f}",
            "epsilon": f"{stored.epsilon:.6f}",
            "aggregated": str(len(aggregated)),
            "left_out": str(len(participants) - len(aggregated)),
            "update_ids": ",".join(p.update_id for p in aggregated if p.update_id),
            **({"fallback": stored.fallback} if stored.fallback else {}),
            **_scan_details(stored),
        },
        # Whose data the model was trained on, and who was left out.
        evidence={"participants.json": _by_outcome(participants)},
    )


def _by_outcome(participants: Iterable[StoredParticipant]) -> bytes:
    names: dict[str, list[str]] = {}
    for each in participants:
        outcome = training_pb2.ParticipantRound.Outcome.keys()[each.outcome]
        names.setdefault(outcome.removeprefix("OUTCOME_").lower(), []).append(each.participant)
    return json.dumps(names, sort_keys=True).encode()


def require_model(plan: training_pb2.RunPlan, data: Dataset, model: bytes) -> None:
    """Raises `InvalidArgument` (UPDATE_…) when the bytes are not a model of this run."""
    _require_tensors(model, data.family(plan.model).shapes)


def require_state(plan: training_pb2.RunPlan, data: Dataset, number: int, state: bytes) -> None:
    """Raises `InvalidArgument` unless a strategy that remembers brings its state, and no other."""
    shapes = strategies.state_shapes(plan, data.family(plan.model).shapes) if number else {}
    if bool(shapes) != bool(state):
        description = "a state is missing" if shapes else "there is nothing to remember"
        raise InvalidArgument(
            "FIELD_INVALID",
            f"state: {description}",
            violations=[FieldViolation("header.state_size_bytes", description)],
        )
    if not state:
        return
    _require_tensors(state, shapes)
    try:
        strategies.rule_of(plan, state=parameters.decode(state, shapes))
    except AssumptionBroken as error:
        raise InvalidArgument("UPDATE_FORMAT_INVALID", str(error)) from error


def _require_tensors(data: bytes, shapes: parameters.Shapes) -> None:
    try:
        parameters.decode(data, shapes)
    except parameters.FormatError as error:
        raise InvalidArgument("UPDATE_FORMAT_INVALID", str(error)) from error
    except parameters.ShapeError as error:
        raise InvalidArgument("UPDATE_SHAPE_MISMATCH", str(error), tensor=error.tensor) from error
    except parameters.NotFiniteError as error:
        raise InvalidArgument("UPDATE_NOT_FINITE", str(error), tensor=error.tensor) from error
