"""Actions on real Postgres with the real policy: decided, recorded before they are sent, once."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import CollectorRegistry

from aegis import algorithms
from aegis.envelope import sign_action
from aegis.errors import AegisError, NotFound, PermissionDenied, Unavailable
from aegis.serving.auditlog import AuditLog
from aegis.serving.auditlog.store import Filter, Store
from aegis.serving.database import Database
from aegis.spiffe import Caller
from aegis.trust import ACTION_REQUEST, TrustBundle, TrustedKey
from aegis.v1 import audit_pb2, envelope_pb2, execution_pb2
from aegis_server.execution import store
from aegis_server.execution.actions import Actions, Names
from aegis_server.execution.approvals.deciding import Times
from aegis_server.execution.dispatch import Outcome
from aegis_server.execution.settlement import Settlement
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Revisions
from aegis_server.remedies import Grounds, room_of

KEY = Ed25519PrivateKey.generate()
DECISION_KEY = Ed25519PrivateKey.generate()
AUTOPILOT = Caller("automation:autopilot", "spiffe://aegis.local/automation/autopilot")
State = execution_pb2.Action


@dataclass
class FakeExecutor:
    """An executor that takes each request once and remembers; `lost` answers never arrive."""

    clock: Clock
    lost: bool = False
    unreachable: bool = False
    refusal: str = ""
    meanwhile: Callable[[], Awaitable[None]] | None = None
    carried_out: dict[str, Outcome] = field(default_factory=dict)
    decisions: list[envelope_pb2.ActionDecision] = field(default_factory=list)

    async def execute(
        self,
        request: envelope_pb2.SignedEnvelope,
        decision: envelope_pb2.SignedEnvelope,
        approvals: Sequence[envelope_pb2.SignedEnvelope] = (),
    ) -> Outcome | None:
        if self.unreachable:
            return None
        self.decisions.append(envelope_pb2.ActionDecision.FromString(decision.payload))
        if self.refusal:
            return Outcome(State.STATE_REFUSED, self.refusal, "no", {})
        asked = envelope_pb2.ActionRequest.FromString(request.payload)
        outcome = Outcome(State.STATE_APPLIED, "", "", {"pod": "web-1"})
        self.carried_out.setdefault(asked.request_id, outcome)
        if self.meanwhile is not None:
            await self.meanwhile()
        return None if self.lost else outcome

    async def outcome_of(self, request_id: str, action_digest: bytes) -> Outcome | None:
        if self.unreachable:
            raise Unavailable("EXECUTOR_UNAVAILABLE", "away")
        if request_id not in self.carried_out:
            raise NotFound("RESOURCE_NOT_FOUND", "never seen")
        return self.carried_out[request_id]


class Clock:
    """Real time plus what a test lets pass."""

    def __init__(self) -> None:
        self.passed = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.passed


@dataclass
class Room:
    actions: Actions
    settlement: Settlement
    executor: FakeExecutor
    database: Database
    clock: Clock

    async def submit(
        self, envelope: envelope_pb2.SignedEnvelope, caller: Caller = AUTOPILOT
    ) -> store.StoredAction:
        return await self.actions.submit(envelope, caller)

    async def records(self, subject_id: str = "") -> list[audit_pb2.AuditRecord]:
        async with self.database.transaction() as connection:
            rows = await Store("aegis").page_before(
                connection,
                before=10**9,
                limit=1000,
                chosen=Filter(kinds=(audit_pb2.AUDIT_KIND_ACTION,), subject_id=subject_id),
            )
        return [audit_pb2.AuditRecord.FromString(record) for _, record in reversed(rows)]


@pytest.fixture
async def room(server_tables: str, server_database_url: str) -> AsyncIterator[Room]:
    clock = Clock()
    database = Database(server_database_url, application="test")
    await database.open()
    audit = AuditLog(database, log_id="test", clock=clock)
    writer = asyncio.create_task(audit.run())
    decisions = Decisions(database, cache=None, clock=clock, registry=CollectorRegistry())
    await Revisions(database, audit=audit, decisions=decisions, clock=clock).ensure_first()
    await decisions.open()
    executor = FakeExecutor(clock)
    grounds = Grounds(
        database=database,
        audit=audit,
        decisions=decisions,
        standing=dict,
        trust=trust(),
        decision_key=DECISION_KEY,
        approval_key=Ed25519PrivateKey.generate(),
        names=Names(audience="aegis", executor="executor:local"),
        times=Times(),
        clock=clock,
        server="server:aegis",
    )
    built, settlement = room_of(grounds, executor, CollectorRegistry())
    actions = built.actions
    yield Room(actions, settlement, executor, database, clock)
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    await database.close()


def trust() -> TrustBundle:
    now = datetime.now(UTC)
    public = KEY.public_key()
    key = TrustedKey(
        algorithms.key_id(public),
        ACTION_REQUEST,
        AUTOPILOT.subject,
        public,
        now - timedelta(days=1),
        now + timedelta(days=1),
    )
    return TrustBundle((key,))


def restart(namespace: str = "shop", pod: str = "web-1") -> envelope_pb2.ActionSpec:
    return envelope_pb2.ActionSpec(
        target=envelope_pb2.ActionSpec.Target(cluster="sandbox", namespace=namespace, name=pod),
        restart_pod=envelope_pb2.ActionSpec.RestartPod(),
    )


def scale(replicas: int, namespace: str = "shop") -> envelope_pb2.ActionSpec:
    return envelope_pb2.ActionSpec(
        target=envelope_pb2.ActionSpec.Target(cluster="sandbox", namespace=namespace, name="web"),
        scale_deployment=envelope_pb2.ActionSpec.ScaleDeployment(replicas=replicas),
    )


def signed(
    spec: envelope_pb2.ActionSpec | None = None,
    request_id: str | None = None,
    now: datetime | None = None,
) -> envelope_pb2.SignedEnvelope:
    return sign_action(
        spec or restart(),
        key=KEY,
        issuer=AUTOPILOT.subject,
        audience="aegis",
        request_id=request_id,
        now=now,
    )


async def refusal_of(
    room: Room, envelope: envelope_pb2.SignedEnvelope, **who: Caller
) -> AegisError:
    with pytest.raises(AegisError) as refusal:
        await room.submit(envelope, **who)
    return refusal.value


async def test_allowed_action_is_applied_and_recorded_twice(room: Room):
    """One record before anything is done, with the signed bytes, and one with the outcome."""
    envelope = signed()
    action = await room.submit(envelope)
    assert (action.state, action.observations) == (State.STATE_APPLIED, {"pod": "web-1"})
    before, after = await room.records(action.action_id)
    assert (before.outcome, after.outcome) == ("dispatched", "applied")
    assert [piece.name for piece in before.evidence] == ["decision"]
    assert [beside.name for beside in before.attachments] == ["request"]
    async with room.database.transaction() as connection:
        (kept,) = await Store("aegis").stored_from(connection, start=before.index, limit=1)
    (request,) = kept.attachments
    assert request.content == envelope.SerializeToString()
    assert hashlib.sha256(request.salt + request.content).digest() == before.attachments[0].sha256
    assert before.rule_id == "automation-restarts-pods-in-shop"


async def test_decision_names_exactly_what_was_asked(room: Room):
    """The decision binds the digest of the spec, the request, the executor and the cluster."""
    envelope = signed()
    action = await room.submit(envelope)
    decision = room.executor.decisions[0]
    assert decision.action_digest == action.action_digest
    assert (decision.subject, decision.executor, decision.cluster, decision.action_id) == (
        AUTOPILOT.subject,
        "executor:local",
        "sandbox",
        action.action_id,
    )


@pytest.mark.refuses("REPLAY_DETECTED")
async def test_replayed_envelope_is_refused(room: Room):
    """The same envelope is good once, and the refusal names the action it made."""
    envelope = signed()
    action = await room.submit(envelope)
    error = await refusal_of(room, envelope)
    assert (error.reason, error.metadata["action_id"]) == ("REPLAY_DETECTED", action.action_id)
    assert len(room.executor.decisions) == 1


async def test_retry_with_a_new_signature_returns_the_stored_action(room: Room):
    """The same request_id and spec, signed again, does nothing twice."""
    request_id = str(uuid.uuid4())
    first = await room.submit(signed(request_id=request_id))
    again = await room.submit(signed(request_id=request_id))
    assert again.action_id == first.action_id
    assert len(room.executor.decisions) == 1


@pytest.mark.refuses("REQUEST_ID_REUSED")
async def test_request_id_of_another_action_is_refused(room: Room):
    """A request_id cannot be used for something else."""
    request_id = str(uuid.uuid4())
    await room.submit(signed(request_id=request_id))
    error = await refusal_of(room, signed(scale(3), request_id=request_id))
    assert error.reason == "REQUEST_ID_REUSED"


async def test_same_envelope_submitted_ten_times_at_once_acts_once(room: Room):
    """Whoever is first gets the action; all others are refused as replays."""
    envelope = signed()
    results = await asyncio.gather(
        *(room.submit(envelope) for _ in range(10)), return_exceptions=True
    )
    reasons = sorted(r.reason for r in results if isinstance(r, AegisError))
    assert reasons == ["REPLAY_DETECTED"] * 9
    assert len(room.executor.decisions) == 1


async def test_tampered_envelope_is_refused_and_recorded(room: Room):
    """Nothing happens for altered bytes, but the attempt is on record."""
    envelope = signed()
    envelope.payload = envelope.payload[:-1] + b"x"
    error = await refusal_of(room, envelope)
    assert error.reason == "SIGNATURE_INVALID"
    (record,) = await room.records()
    assert (record.outcome, record.reason, record.actor) == (
        "refused",
        "SIGNATURE_INVALID",
        AUTOPILOT.subject,
    )


async def test_envelope_sent_by_somebody_else_is_refused(room: Room):
    """A stolen envelope is worth nothing without its owner's certificate."""
    thief = Caller("automation:other", "spiffe://aegis.local/automation/other")
    error = await refusal_of(room, signed(), caller=thief)
    assert error.reason == "SIGNER_PEER_MISMATCH"


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        (scale(3, "payments"), "automation-outside-its-namespaces"),
        (scale(0), "automation-replicas-out-of-bounds"),
        (restart("kube-system"), "kube-system-is-protected"),
    ],
)
@pytest.mark.refuses("POLICY_DENIED")
async def test_denied_action_names_its_rule_and_is_never_sent(
    room: Room, spec: envelope_pb2.ActionSpec, rule: str
):
    """A denial leaves a DENIED action with the deciding rule, and the executor hears nothing."""
    with pytest.raises(PermissionDenied) as refusal:
        await room.submit(signed(spec))
    assert refusal.value.metadata["rule_id"] == rule
    action = await room.actions.get(refusal.value.metadata["action_id"])
    assert (action.state, action.rule_id) == (State.STATE_DENIED, rule)
    assert room.executor.decisions == []
    assert [r.outcome for r in await room.records(action.action_id)] == ["denied"]


async def test_refusal_of_the_executor_ends_the_action(room: Room):
    """What the executor refuses is REFUSED with its reason."""
    room.executor.refusal = "NAMESPACE_NOT_ALLOWED"
    action = await room.submit(signed())
    assert (action.state, action.reason) == (State.STATE_REFUSED, "NAMESPACE_NOT_ALLOWED")


async def test_lost_answer_is_asked_for_until_it_is_known(room: Room):
    """DISPATCHED is not done and not undone: the executor is asked, and acts no second time."""
    room.executor.lost = True
    action = await room.submit(signed())
    assert action.state == State.STATE_DISPATCHED
    assert await room.settlement.reconcile() == 0, "still fresh: the answer may be on its way"
    room.clock.passed = timedelta(seconds=5)
    assert await room.settlement.reconcile() == 1
    settled = await room.actions.get(action.action_id)
    assert settled.state == State.STATE_APPLIED
    assert len(room.executor.decisions) == 1


async def test_request_the_executor_never_got_is_sent_again(room: Room):
    """While the decision is good, the reconciler delivers what was lost on the way."""
    room.executor.unreachable = True
    action = await room.submit(signed())
    room.executor.unreachable = False
    room.clock.passed = timedelta(seconds=5)
    assert await room.settlement.reconcile() == 1
    assert (await room.actions.get(action.action_id)).state == State.STATE_APPLIED


async def test_executor_that_stays_away_ends_in_failed_and_nothing_begun(room: Room):
    """After the decision has expired an action that was never taken FAILS; it is not sent late."""
    room.executor.unreachable = True
    action = await room.submit(signed())
    room.clock.passed = timedelta(seconds=300)
    assert await room.settlement.reconcile() == 0, "unreachable: nobody can know"
    room.executor.unreachable = False
    room.clock.passed = timedelta(seconds=600)
    assert await room.settlement.reconcile() == 1
    settled = await room.actions.get(action.action_id)
    assert (settled.state, settled.reason) == (State.STATE_FAILED, "EXECUTOR_UNAVAILABLE")
    assert room.executor.decisions == []


async def test_action_is_settled_once_by_two_servers(room: Room):
    """Two reconcilers at once write one outcome and one record."""
    room.executor.lost = True
    action = await room.submit(signed())
    room.clock.passed = timedelta(seconds=5)
    await asyncio.gather(*(room.settlement.reconcile() for _ in range(4)))
    outcomes = [record.outcome for record in await room.records(action.action_id)]
    assert outcomes == ["dispatched", "applied"]


@pytest.mark.refuses("DATABASE_UNAVAILABLE")
async def test_no_database_means_no_action(room: Room):
    """Without Postgres a request is UNAVAILABLE and the executor hears nothing."""
    await room.database.close()
    error = await refusal_of(room, signed())
    assert error.reason == "DATABASE_UNAVAILABLE"
    assert room.executor.decisions == []


async def test_database_lost_after_the_deed_is_no_error(room: Room):
    """Something was done: UNAVAILABLE would say the contrary, DISPATCHED says what is known."""
    room.executor.meanwhile = room.database.close
    action = await room.submit(signed())
    assert action.state == State.STATE_DISPATCHED
    assert list(room.executor.carried_out) == [str(action.request_id)]


async def test_request_inside_the_skew_gets_a_decision_that_can_be_executed(room: Room):
    """Whoever is forgiven a slow clock at the door is not refused for it behind."""
    await room.submit(signed(now=datetime.now(UTC) - timedelta(seconds=62)))
    (decision,) = room.executor.decisions
    life = decision.execute_not_after.ToDatetime() - decision.issue_time.ToDatetime()
    assert timedelta(0) < life <= timedelta(seconds=5)


async def test_unknown_action_is_not_found(room: Room):
    """A name nobody gave is NOT_FOUND."""
    with pytest.raises(NotFound):
        await room.actions.get("act-nothing")


async def test_pages_go_from_new_to_old_without_gaps(room: Room):
    """Three pages of two hold five actions, newest first, each once."""
    made = [(await room.submit(signed())).action_id for _ in range(5)]
    seen: list[str] = []
    after = None
    while page := await room.actions.page(after, 2):
        seen += [action.action_id for action in page]
        after = (page[-1].created_at, page[-1].action_id)
    assert seen == made[::-1]
