"""A signed request as an action: who asked for what, and what the policy said to it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from google.protobuf.message import Message

from aegis import dsse
from aegis.algorithms import PrivateKey
from aegis.envelope import MAX_SKEW, OpenedRequest
from aegis.errors import FieldViolation, InvalidArgument
from aegis.serving.doors import validate
from aegis.v1 import envelope_pb2, execution_pb2
from aegis_server.execution import gates, records
from aegis_server.execution.approvals.counting import Demand, Given, missing, written_demands
from aegis_server.execution.approvals.obligations import Answer
from aegis_server.execution.states import S, State
from aegis_server.execution.store import StoredAction
from aegis_server.policy.decisions import Decision

DECISION_LIFE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Names:
    """Who this server is to those whose signatures it checks, and whom it sends work to."""

    audience: str
    executor: str


@dataclass(frozen=True, slots=True)
class Judged:
    """What is to become of a request, and why."""

    state: State
    decision: Decision
    demands: tuple[Demand, ...]
    gates: tuple[execution_pb2.Gate, ...]

    @property
    def message(self) -> str:
        """A sentence for people, where they have to do something."""
        held = [each for each in self.gates if each.verdict == execution_pb2.Gate.VERDICT_HELD]
        return held[0].message if held and self.state == S.STATE_PENDING_APPROVAL else ""


def check_form(message: Message, reason: str) -> None:
    """Checks a signed message; raises `InvalidArgument` naming each field that is wrong."""
    validate(message, reason)
    if isinstance(message, envelope_pb2.ActionSpec):
        fault = records.fault_of_place(message)
        if fault:
            violation = FieldViolation("target.namespace", fault)
            raise InvalidArgument(reason, f"target.namespace: {fault}", violations=[violation])


def judge(opened: OpenedRequest, answer: Answer, given: Sequence[Given]) -> Judged:
    """Returns what the policy's answer makes of a request with these approvals."""
    request = opened.request
    passed = [gates.of_pause(None), gates.of_policy(answer.decision)]
    if not answer.decision.allowed:
        return Judged(S.STATE_DENIED, answer.decision, (), tuple(passed))
    if answer.glass is not None:
        passed.append(gates.of_policy(answer.glass, "break_glass"))
        if not answer.glass.allowed:
            return Judged(S.STATE_DENIED, answer.glass, (), tuple(passed))
    # A dry run changes nothing, and a broken glass is answered for afterwards.
    free = is_dry_run(request) or request.break_glass
    demands = () if free else answer.demands
    passed.append(gates.of_approvals(demands, given))
    waits = bool(missing(demands, given))
    state = S.STATE_PENDING_APPROVAL if waits else S.STATE_DISPATCHED
    return Judged(state, answer.decision, demands, tuple(passed))


def is_dry_run(request: envelope_pb2.ActionRequest) -> bool:
    """Says whether nothing is to change."""
    return request.mode == envelope_pb2.ActionRequest.MODE_DRY_RUN


def new_action(
    opened: OpenedRequest,
    envelope: envelope_pb2.SignedEnvelope,
    judged: Judged,
    *,
    now: datetime,
    waits_until: datetime,
) -> StoredAction:
    """Returns the action a request makes, without the decision that is sent with it."""
    request = opened.request
    return StoredAction(
        action_id=f"act-{uuid.uuid4().hex[:20]}",
        request_id=uuid.UUID(request.request_id),
        key_id=opened.key.key_id,
        nonce=request.nonce,
        issuer=request.issuer,
        spec=request.spec,
        action_digest=opened.action_digest,
        request_envelope=envelope.SerializeToString(),
        decision_envelope=None,
        execute_not_after=decided_until(opened, now),
        state=judged.state,
        reason="POLICY_DENIED" if judged.state == S.STATE_DENIED else "",
        message=judged.message,
        observations={},
        policy_revision=judged.decision.revision,
        rule_id=judged.decision.rule_id,
        created_at=now,
        updated_at=now,
        steps=written_demands(judged.demands),
        attributes=dict(request.attributes),
        incident_id=opened.spec.incident_id,
        break_glass=request.break_glass,
        dry_run=is_dry_run(request),
        approval_expires_at=waits_until if judged.state == S.STATE_PENDING_APPROVAL else None,
        ended_at=now if judged.state == S.STATE_DENIED else None,
        gates=gates.written(judged.gates),
        verb=records.verb_of(opened.spec),
        namespace=opened.spec.target.namespace,
        asked_at=now if judged.state == S.STATE_DISPATCHED else None,
    )


def decided_until(opened: OpenedRequest, now: datetime) -> datetime:
    """Returns until when what is decided now may be begun.

    A request is taken a little after its end, for the clocks' sake; so is its decision.
    """
    return min(now + DECISION_LIFE, opened.expires_at + MAX_SKEW)


def sign_decision(
    opened: OpenedRequest,
    judged: Judged,
    action: StoredAction,
    *,
    names: Names,
    key: PrivateKey,
    now: datetime,
) -> envelope_pb2.SignedEnvelope:
    """Returns the server's word that exactly this request may be carried out, and with whose."""
    payload = envelope_pb2.ActionDecision(
        decision_id=judged.decision.decision_id,
        action_digest=opened.action_digest,
        request_sha256=opened.payload_sha256,
        subject=opened.request.issuer,
        action_id=action.action_id,
        executor=names.executor,
        cluster=opened.spec.target.cluster,
        policy_revision=judged.decision.revision,
        rule_id=judged.decision.rule_id,
        steps=[demand.message() for demand in judged.demands],
        break_glass=action.break_glass,
    )
    payload.issue_time.FromDatetime(now)
    payload.execute_not_after.FromDatetime(decided_until(opened, now))
    return dsse.sign(dsse.DECISION_TYPE, payload.SerializeToString(), key)
