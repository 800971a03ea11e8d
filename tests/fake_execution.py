"""An ExecutionService that plays a control plane: what is watched moves on, so nobody waits.

A server on a real port, without policy, executor or clock. It checks signatures and nonces as the
real one does, keeps every request, and answers what it was told where a test says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message
from grpc_status import rpc_status

from aegis import algorithms, dsse
from aegis.errors import AegisError, AlreadyExists, NotFound, Unauthenticated
from aegis.v1 import (
    envelope_pb2,
    execution_pb2,
    execution_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
)

Action = execution_pb2.Action
BORN = 1_700_000_000

ONCALL = envelope_pb2.ApprovalStep(step=1, group="role:oncall", needed=1)


class FakeExecution(
    execution_pb2_grpc.ExecutionServiceServicer, identity_pb2_grpc.IdentityServiceServicer
):
    """One issuer's actions; `verdicts` are how the next ones end, VERIFIED when there is none."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.me = identity_pb2.WhoAmIResponse(subject="user:ann", roles=["role:oncall"])
        self.requests: list[envelope_pb2.ActionRequest] = []
        self.asked: list[tuple[str, Message]] = []
        self.told: dict[str, deque[Any]] = {}
        self.actions: dict[str, execution_pb2.Action] = {}
        self.steps: list[envelope_pb2.ApprovalStep] = []
        self.verdicts: deque[int] = deque()
        self.rungs: deque[envelope_pb2.ActionSpec] = deque()
        self.rejects = False
        self.plan = execution_pb2.PlanActionResponse(allowed=True, ready=True)
        self._nonces: set[bytes] = set()

    def tell(self, method: str, *answers: Message | AegisError) -> None:
        """Has the next calls of a method answered with these instead."""
        self.told.setdefault(method, deque()).extend(answers)

    def last(self, method: str) -> Any:
        """The last request of a method."""
        return next(request for name, request in reversed(self.asked) if name == method)

    def names(self) -> list[str]:
        """The methods that were called, in order."""
        return [name for name, _ in self.asked]

    def add(self, action: execution_pb2.Action) -> execution_pb2.Action:
        """Has an action stored, and gives it its digest."""
        action.spec_bytes = action.spec_bytes or action.spec.SerializeToString()
        action.action_digest = action.action_digest or dsse.action_digest(action.spec_bytes)
        self.actions[action.action_id] = action
        return action

    def WhoAmI(self, request: identity_pb2.WhoAmIRequest, context: Any) -> Any:
        return self.me

    def PlanAction(self, request: execution_pb2.PlanActionRequest, context: Any) -> Any:
        if (answer := self._note("PlanAction", request, context)) is not None:
            return answer
        planned = execution_pb2.PlanActionResponse()
        planned.CopyFrom(self.plan)
        spec = envelope_pb2.ActionSpec()
        spec.CopyFrom(request.spec)
        spec.preconditions.generation = 4
        planned.spec = spec.SerializeToString()
        planned.action_digest = dsse.action_digest(planned.spec)
        planned.steps.extend(self.steps)
        return planned

    def SubmitAction(self, request: execution_pb2.SubmitActionRequest, context: Any) -> Any:
        if (answer := self._note("SubmitAction", request, context)) is not None:
            return answer
        try:
            return execution_pb2.SubmitActionResponse(action=self._take(request.envelope))
        except AegisError as error:
            context.abort_with_status(rpc_status.to_status(error.to_status()))

    def WatchAction(
        self, request: execution_pb2.WatchActionRequest, context: Any
    ) -> Iterator[execution_pb2.WatchActionResponse]:
        answer = self._note("WatchAction", request, context)
        if answer is not None:
            yield answer
            return
        action = self.actions[request.action_id]
        yield execution_pb2.WatchActionResponse(action=action)
        for _ in self._moves(action):
            yield execution_pb2.WatchActionResponse(action=action)

    def __getattribute__(self, name: str) -> Any:
        mine = name in FakeExecution.__dict__ or not name[:1].isupper()
        if mine:
            return super().__getattribute__(name)
        return lambda request, context: self._change(name, request, context)

    def _change(self, name: str, request: Any, context: Any) -> Any:
        """What only reads or decides: the stored action, where the test gave no answer."""
        if (answer := self._note(name, request, context)) is not None:
            return answer
        if request.action_id not in self.actions:
            missing = NotFound("RESOURCE_NOT_FOUND", f"there is no action {request.action_id}")
            context.abort_with_status(rpc_status.to_status(missing.to_status()))
        action = self.actions[request.action_id]
        return getattr(execution_pb2, f"{name}Response")(action=action)

    def _note(self, name: str, request: Message, context: Any) -> Any:
        self.asked.append((name, request))
        queued = self.told.get(name)
        if not queued:
            return None
        answer = queued.popleft()
        if isinstance(answer, AegisError):
            context.abort_with_status(rpc_status.to_status(answer.to_status()))
        return answer

    def _take(self, envelope: envelope_pb2.SignedEnvelope) -> execution_pb2.Action:
        payload, _ = dsse.verify(
            envelope,
            dsse.REQUEST_TYPE,
            lambda key_id: ("key", algorithms.public_half(self.key)),
        )
        request = envelope_pb2.ActionRequest.FromString(payload)
        if request.nonce in self._nonces:
            raise Unauthenticated("REPLAY_DETECTED", "this very envelope was taken before")
        self._nonces.add(request.nonce)
        self.requests.append(request)
        stored = next(
            (each for each in self.actions.values() if each.request_id == request.request_id), None
        )
        if stored is None:
            return self._new(request)
        if stored.spec_bytes != request.spec:
            raise AlreadyExists("REQUEST_ID_REUSED", "another spec")
        if stored.state == Action.STATE_APPROVED:
            self._send(stored, request.mode)
        return stored

    def _new(self, request: envelope_pb2.ActionRequest) -> execution_pb2.Action:
        action = execution_pb2.Action(
            action_id=f"action-{len(self.actions) + 1}",
            request_id=request.request_id,
            issuer=request.issuer,
            spec=envelope_pb2.ActionSpec.FromString(request.spec),
            spec_bytes=request.spec,
            state=Action.STATE_PENDING_APPROVAL,
            steps=self.steps,
            break_glass=request.break_glass,
        )
        action.incident_id = action.spec.incident_id
        action.create_time.seconds = action.update_time.seconds = BORN
        if not self.steps or request.break_glass:
            self._send(action, request.mode)
        return self.add(action)

    def _send(self, action: execution_pb2.Action, mode: int) -> None:
        dry = mode == envelope_pb2.ActionRequest.MODE_DRY_RUN
        action.state = Action.STATE_DRY_RUN if dry else Action.STATE_APPLIED

    def _moves(self, action: execution_pb2.Action) -> Iterator[None]:
        if action.state == Action.STATE_PENDING_APPROVAL and self.rejects:
            action.state, action.message = Action.STATE_REJECTED, "not tonight"
            yield
        elif action.state == Action.STATE_PENDING_APPROVAL:
            action.approvals.add(approver="user:mia", step=1, group=self.steps[0].group)
            action.state = Action.STATE_APPROVED
            yield
        elif action.state == Action.STATE_APPLIED:
            action.state = self.verdicts.popleft() if self.verdicts else Action.STATE_VERIFIED
            if action.state != Action.STATE_VERIFIED and self.rungs:
                action.next.CopyFrom(self.rungs.popleft())
            yield


@contextmanager
def serving(fake: FakeExecution) -> Iterator[str]:
    """Serves it and gives its address."""
    running = grpc.server(futures.ThreadPoolExecutor(4))
    execution_pb2_grpc.add_ExecutionServiceServicer_to_server(fake, running)
    identity_pb2_grpc.add_IdentityServiceServicer_to_server(fake, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        running.stop(None).wait()
