"""The execution room behind doors, on real Postgres with the real policy, and an executor to fake.

Whoever calls says who they are; the access table and the rules decide whether they may.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry
from tests.factories import restart

from aegis import algorithms, dsse
from aegis.audit.semantics import SERVER, Story
from aegis.errors import AegisError, NotFound, Unauthenticated, Unavailable, from_rpc_error
from aegis.executor.v1 import executor_pb2, executor_pb2_grpc
from aegis.serving.auditlog import AuditLog
from aegis.serving.auditlog.store import Filter, Store
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Doors, Peer
from aegis.serving.metrics import CallMetrics
from aegis.spiffe import Caller
from aegis.trust import (
    ACTION_APPROVAL,
    ACTION_REQUEST,
    APPROVAL_ATTESTATION,
    POLICY_DECISION,
    TrustBundle,
    TrustedKey,
)
from aegis.v1 import audit_pb2, envelope_pb2, execution_pb2, execution_pb2_grpc
from aegis_policy.baseline import baseline_csv
from aegis_server.access import Access
from aegis_server.execution.approvals.deciding import Times
from aegis_server.execution.asking import Names
from aegis_server.execution.dispatch import Dispatch
from aegis_server.execution.service import ExecutionService, Room
from aegis_server.execution.settlement import Settlement
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Change, Revisions
from aegis_server.remedies import Grounds, room_of

AUTOPILOT, ADMIN = "automation:autopilot", "user:admin"
# People with roles in the directory of this house.
OLGA, OTTO, NINA, NORA, VERA = (f"user:{name}" for name in ("olga", "otto", "nina", "nora", "vera"))
ROLES = {
    OLGA: ("role:operator",),
    OTTO: ("role:operator",),
    NINA: ("role:oncall",),
    NORA: ("role:oncall",),
    VERA: ("role:viewer",),
}
SHOP = "/clusters/*/namespaces/shop/**"
Execution = executor_pb2.Execution
State = execution_pb2.Action


def obliges(*actions: str, who: str = "role:automation", where: str = SHOP) -> str:
    """Rules that make somebody need approvals."""
    return "".join(
        f"p, {who}, *, {where}, {action}, , deny, obliged-{number}\n"
        for number, action in enumerate(actions)
    )


class Clock:
    """Real time plus what a test lets pass."""

    def __init__(self) -> None:
        self.passed = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.passed


@dataclass
class Executor(executor_pb2_grpc.ExecutorServiceServicer):
    """Takes each request once and remembers it; refuses what it is told to."""

    away: bool = False
    # By the name of the rpc.
    refusals: dict[str, AegisError] = field(default_factory=dict)
    sent: list[executor_pb2.ExecuteActionRequest] = field(default_factory=list)
    known: dict[str, Execution] = field(default_factory=dict)
    pauses: dict[str, execution_pb2.Pause] = field(default_factory=dict)
    resumed: list[str] = field(default_factory=list)
    resolved: list[executor_pb2.ResolveRequest] = field(default_factory=list)
    planned: list[executor_pb2.PlanExecutionRequest] = field(default_factory=list)
    gates: list[execution_pb2.Gate] = field(default_factory=list)
    ends: Execution.State.ValueType = Execution.STATE_APPLIED
    state: execution_pb2.GetExecutionStateResponse = field(
        default_factory=execution_pb2.GetExecutionStateResponse
    )

    @property
    def decisions(self) -> list[envelope_pb2.ActionDecision]:
        """The decisions it was sent."""
        return [envelope_pb2.ActionDecision.FromString(each.decision.payload) for each in self.sent]

    def becomes(self, state: Execution.State.ValueType, **observations: str) -> None:
        """Lets every execution it knows come to something."""
        for each in self.known.values():
            each.state = state
            each.observations.update(observations)

    async def _meet(self, rpc: str, context: Any) -> None:
        error = Unavailable("DATABASE_UNAVAILABLE", "away") if self.away else None
        error = error or self.refusals.get(rpc)
        if error is not None:
            await context.abort_with_status(rpc_status.to_status(error.to_status()))

    async def ExecuteAction(self, request, context):
        await self._meet("ExecuteAction", context)
        self.sent.append(request)
        asked = envelope_pb2.ActionRequest.FromString(request.request.payload)
        execution = self.known.setdefault(
            asked.request_id,
            Execution(
                request_id=asked.request_id,
                action_digest=dsse.action_digest(asked.spec),
                state=self.ends,
                gates=self.gates,
            ),
        )
        return executor_pb2.ExecuteActionResponse(execution=execution)

    async def GetExecution(self, request, context):
        await self._meet("GetExecution", context)
        if request.request_id not in self.known:
            missing = NotFound("RESOURCE_NOT_FOUND", "no such execution")
            await context.abort_with_status(rpc_status.to_status(missing.to_status()))
        return executor_pb2.GetExecutionResponse(execution=self.known[request.request_id])

    async def PlanExecution(self, request, context):
        await self._meet("PlanExecution", context)
        self.planned.append(request)
        spec = envelope_pb2.ActionSpec.FromString(request.spec)
        spec.target.uid = "uid-1"
        spec.preconditions.diff_sha256 = bytes(32)
        return executor_pb2.PlanExecutionResponse(
            spec=spec.SerializeToString(),
            differences=[execution_pb2.Difference(path="spec.replicas", before="2", after="3")],
            gates=self.gates,
            warnings=["deprecated"],
        )

    async def Pause(self, request, context):
        await self._meet("Pause", context)
        self.pauses[request.pause.pause_id] = request.pause
        return executor_pb2.PauseResponse()

    async def Resume(self, request, context):
        await self._meet("Resume", context)
        self.pauses.pop(request.pause_id, None)
        self.resumed.append(request.pause_id)
        return executor_pb2.ResumeResponse()

    async def Resolve(self, request, context):
        await self._meet("Resolve", context)
        self.resolved.append(request)
        return executor_pb2.ResolveResponse()

    async def GetGuards(self, request, context):
        await self._meet("GetGuards", context)
        return executor_pb2.GetGuardsResponse(state=self.state)


class Keys:
    """Who signs what: whose requests and approvals count, and the server's own."""

    def __init__(self) -> None:
        self.decision, self.attestation = _new(), _new()
        self.requests = {name: _new() for name in (AUTOPILOT, OLGA, OTTO)}
        self.approvals = {name: _new() for name in (NINA, VERA)}

    def trust(self) -> TrustBundle:
        """The bundle of all of them."""
        now = datetime.now(UTC)
        listed = [(POLICY_DECISION, "server:aegis", self.decision)]
        listed.append((APPROVAL_ATTESTATION, "server:aegis", self.attestation))
        listed += [(ACTION_REQUEST, name, key) for name, key in self.requests.items()]
        listed += [(ACTION_APPROVAL, name, key) for name, key in self.approvals.items()]
        return TrustBundle(
            tuple(
                TrustedKey(
                    algorithms.key_id(key.public_key()),
                    usage,
                    owner,
                    key.public_key(),
                    now - timedelta(days=30),
                    now + timedelta(days=30),
                )
                for usage, owner, key in listed
            )
        )


def _new() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@dataclass
class House:
    """Everything a test calls."""

    room: Room
    settlement: Settlement
    executor: Executor
    database: Database
    clock: Clock
    keys: Keys
    revisions: Revisions
    decisions: Decisions
    registry: CollectorRegistry
    channel: grpc.aio.Channel
    roles: dict[str, tuple[str, ...]]

    def as_(self, subject: str) -> Calls:
        """The service, called by somebody."""
        return Calls(self, subject)

    async def rule(self, *lines: str) -> None:
        """Adds rules to the baseline."""
        csv = baseline_csv() + "".join(lines)
        await self.revisions.import_rules(Change(csv, ADMIN, "a test"))

    def sign(
        self,
        spec: envelope_pb2.ActionSpec | bytes | None = None,
        *,
        by: str = AUTOPILOT,
        request_id: str | None = None,
        **fields: Any,
    ) -> envelope_pb2.SignedEnvelope:
        """A request as its issuer signs it now."""
        wanted = spec if spec is not None else restart("shop", "web-1")
        now = self.clock()
        request = envelope_pb2.ActionRequest(
            request_id=request_id or str(uuid.uuid4()),
            nonce=uuid.uuid4().bytes,
            issuer=by,
            audience="aegis",
            spec=wanted if isinstance(wanted, bytes) else wanted.SerializeToString(),
            **fields,
        )
        request.issue_time.FromDatetime(now)
        request.expire_time.FromDatetime(now + timedelta(seconds=60))
        return dsse.sign(dsse.REQUEST_TYPE, request.SerializeToString(), self.keys.requests[by])

    def again(self, action: execution_pb2.Action, **fields: Any) -> envelope_pb2.SignedEnvelope:
        """The same request, signed again."""
        return self.sign(
            action.spec_bytes, by=action.issuer, request_id=action.request_id, **fields
        )

    async def pending(
        self, spec: envelope_pb2.ActionSpec | None = None, **fields: Any
    ) -> execution_pb2.Action:
        """An action that waits for people."""
        action = await self.as_(fields.get("by", AUTOPILOT)).submit(self.sign(spec, **fields))
        assert action.state == State.STATE_PENDING_APPROVAL
        return action

    async def records(self, subject_id: str = "") -> list[audit_pb2.AuditRecord]:
        """The records of actions, the oldest first."""
        async with self.database.transaction() as connection:
            rows = await Store("aegis").page_before(
                connection,
                before=10**9,
                limit=1000,
                chosen=Filter(kinds=(audit_pb2.AUDIT_KIND_ACTION,), subject_id=subject_id),
            )
        return [audit_pb2.AuditRecord.FromString(record) for _, record in reversed(rows)]

    async def outcomes(self, subject_id: str) -> list[str]:
        """How the records of one action go."""
        return [record.outcome for record in await self.records(subject_id)]

    async def broken_rules(self) -> list[str]:
        """What the semantic audit says about the log."""
        story = Story(self.keys.trust())
        async with self.database.transaction() as connection:
            for stored in await Store("aegis").stored_from(connection, start=0, limit=1000):
                beside = {each.name: each.content for each in stored.attachments if each.content}
                record = audit_pb2.AuditRecord.FromString(stored.record)
                story.tell(SERVER, record, beside)
        return [broken.problem for broken in story.broken_rules({SERVER})]

    def refused(self, reason: str) -> float:
        """How often something was refused for a reason."""
        name = "aegis_actions_refused_total"
        return self.registry.get_sample_value(name, {"reason": reason}) or 0


class Calls:
    """The service's methods as one caller; a refusal is an `AegisError`."""

    def __init__(self, house: House, subject: str) -> None:
        self.subject = subject
        self._house = house
        self._stub = execution_pb2_grpc.ExecutionServiceStub(house.channel)

    async def call(self, method: str, **fields: Any) -> Any:
        """Calls a method with the fields of its request."""
        request = getattr(execution_pb2, f"{method}Request")(**fields)
        try:
            return await getattr(self._stub, method)(request, metadata=self._metadata, timeout=20)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def watch(self, action_id: str) -> AsyncIterator[execution_pb2.Action]:
        """Yields an action whenever it changes."""
        request = execution_pb2.WatchActionRequest(action_id=action_id)
        async for response in self._stub.WatchAction(request, metadata=self._metadata, timeout=20):
            yield response.action

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", self.subject),)

    async def submit(self, envelope: envelope_pb2.SignedEnvelope) -> execution_pb2.Action:
        return (await self.call("SubmitAction", envelope=envelope)).action

    async def get(self, action: execution_pb2.Action) -> execution_pb2.Action:
        return (await self.call("GetAction", action_id=action.action_id)).action

    async def approve(self, action: execution_pb2.Action, **fields: Any) -> execution_pb2.Action:
        told = {"action_digest": action.action_digest, "reason": "looked at it"} | fields
        return (await self.call("ApproveAction", action_id=action.action_id, **told)).action

    async def reject(self, action: execution_pb2.Action, **fields: Any) -> execution_pb2.Action:
        told = {"action_digest": action.action_digest, "reason": "not now"} | fields
        return (await self.call("RejectAction", action_id=action.action_id, **told)).action

    async def cancel(self, action: execution_pb2.Action) -> execution_pb2.Action:
        return (await self.call("CancelAction", action_id=action.action_id)).action

    async def why(self, action: execution_pb2.Action) -> dict[str, execution_pb2.Gate]:
        answer = await self.call("WhyAction", action_id=action.action_id)
        return {gate.name: gate for gate in answer.gates}

    async def resolve(self, action: execution_pb2.Action, found: int) -> execution_pb2.Action:
        told = {"action_id": action.action_id, "found": found, "reason": "looked"}
        return (await self.call("ResolveAction", **told)).action

    async def review(self, action: execution_pb2.Action) -> execution_pb2.Action:
        told = {"action_id": action.action_id, "reason": "had to be"}
        return (await self.call("ReviewBreakGlass", **told)).action

    async def pause(self, **fields: Any) -> execution_pb2.Pause:
        return (await self.call("PauseExecution", **{"reason": "smoke", **fields})).pause

    async def resume(self, pause: execution_pb2.Pause) -> execution_pb2.Pause:
        told = {"pause_id": pause.pause_id, "reason": "cleared"}
        return (await self.call("ResumeExecution", **told)).pause


async def refusal(call: Any) -> AegisError:
    """The error a call ends with."""
    with pytest.raises(AegisError) as caught:
        await call
    return caught.value


async def _said_caller(method: str, peer: Peer) -> Caller:
    if not peer.authorization:
        raise Unauthenticated("PEER_UNIDENTIFIED", "say who you are")
    return Caller(peer.authorization, f"spiffe://aegis.local/{peer.authorization}")


@asynccontextmanager
async def serving(
    servicer: Any, add: Callable[[Any, grpc.aio.Server], None], address: str, *doors: Any
) -> AsyncIterator[grpc.aio.Channel]:
    """A server, and a channel to it."""
    server = grpc.aio.server(interceptors=doors)
    add(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield channel
    finally:
        await server.stop(None)


@asynccontextmanager
async def opened(server_url: str, folder: Path) -> AsyncIterator[House]:
    """A house that serves."""
    clock, keys, executor, roles = Clock(), Keys(), Executor(), dict(ROLES)
    database = Database(server_url, application="test")
    await database.open()
    audit = AuditLog(database, log_id="aegis-server", clock=clock)
    writer = asyncio.create_task(audit.run())
    decisions = Decisions(
        database,
        cache=None,
        clock=clock,
        registry=CollectorRegistry(),
        held_roles=lambda subject: roles.get(subject) or (),
    )
    revisions = Revisions(database, audit=audit, decisions=decisions, clock=clock)
    await revisions.ensure_first()
    await decisions.open()
    registry = CollectorRegistry()
    grounds = Grounds(
        database=database,
        audit=audit,
        decisions=decisions,
        standing=lambda: roles,
        trust=keys.trust(),
        decision_key=keys.decision,
        approval_key=keys.attestation,
        names=Names(audience="aegis", executor="executor:local"),
        times=Times(),
        clock=clock,
        server="server:aegis",
    )
    doors = Doors(
        admit=Access(decisions, audit).admit,
        metrics=CallMetrics(CollectorRegistry()),
        authenticate=_said_caller,
    )
    async with serving(
        executor,
        executor_pb2_grpc.add_ExecutorServiceServicer_to_server,
        f"unix:{folder}/executor",
    ) as there:
        room, settlement = room_of(grounds, Dispatch(there), registry)
        async with serving(
            ExecutionService(room, Deeds()),
            execution_pb2_grpc.add_ExecutionServiceServicer_to_server,
            f"unix:{folder}/server",
            doors,
        ) as here:
            yield House(
                room=room,
                settlement=settlement,
                executor=executor,
                database=database,
                clock=clock,
                keys=keys,
                revisions=revisions,
                decisions=decisions,
                registry=registry,
                channel=here,
                roles=roles,
            )
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    await database.close()
