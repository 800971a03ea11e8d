"""A client that remembers: what it asked, and everything it was ever told."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import grpc

from aegis.errors import from_rpc_error
from aegis.executor.v1.executor_pb2 import Execution
from aegis.v1 import envelope_pb2, execution_pb2
from aegis.v1.envelope_pb2 import ActionSpec, SignedEnvelope
from tests.crash.history import Asked, Paused, Told
from tests.e2e.executor.conftest import Stack

_CALL_SECONDS = 10.0
_LEARN_SECONDS = 25.0
# The executor has been superseded, and does not know what its successor does.
_SUPERSEDED = "FENCED"
# These say nothing about what became of the request.
_LOST = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)
_ON_THE_WAY = frozenset({"INTENT", "APPLIED"})


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, again and again the same bytes."""

    asked: Asked
    spec: ActionSpec
    envelope: SignedEnvelope
    decision: SignedEnvelope


class Client:
    """One who asks the executor as the server would, and waits for the verdict."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.patience_seconds = _LEARN_SECONDS
        self.asked: list[Asked] = []
        self.told: list[Told] = []
        self.paused: list[Paused] = []

    def prepare(self, spec: ActionSpec) -> Request:
        """Signs a request and its decision, both good for a minute."""
        envelope = self._stack.signers.request(spec)
        decision = self._stack.signers.decision(envelope)
        decided = envelope_pb2.ActionDecision.FromString(decision.payload)
        verification = spec.verification.on_failure
        asked = Asked(
            request_id=envelope_pb2.ActionRequest.FromString(envelope.payload).request_id,
            action=spec.WhichOneof("action") or "",
            namespace=spec.target.namespace,
            name=spec.target.name,
            not_after=decided.execute_not_after.ToDatetime(UTC),
            takes_back=verification == ActionSpec.Verification.ON_FAILURE_COMPENSATE,
        )
        self.asked.append(asked)
        return Request(asked, spec, envelope, decision)

    async def send(self, request: Request, *, seconds: float = _CALL_SECONDS) -> Told:
        """Sends it once."""
        began = datetime.now(UTC)
        try:
            call = self._stack.execute(request.envelope, request.decision, seconds=seconds)
            return self._heard(request, began, await call)
        except grpc.aio.AioRpcError as error:
            return self._refused(request, began, error)

    async def find(self, request: Request) -> Told | None:
        """Asks what became of it; None when the executor has never heard of it."""
        began = datetime.now(UTC)
        try:
            return self._heard(request, began, await self._stack.find(request.asked.request_id))
        except grpc.aio.AioRpcError as error:
            before = any(
                told.request_id == request.asked.request_id and told.state for told in self.told
            )
            if error.code() is grpc.StatusCode.NOT_FOUND and not before:
                return None
            return self._refused(request, began, error)

    async def learn(self, request: Request) -> Told:
        """Finds out how it ended, as a client does; what was never claimed is sent again."""
        end = time.monotonic() + self.patience_seconds
        while True:
            told = await self.find(request) or await self.send(request)
            if self._final(told) or time.monotonic() > end:
                return told
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def pause(self, action: str) -> AsyncIterator[None]:
        """Pauses an action, from the acknowledgement until the end of the block."""
        pause = execution_pb2.Pause(
            pause_id=str(uuid.uuid4()), who="user:mia", reason="to see whether it holds"
        )
        pause.scope.action = action
        pause.create_time.FromDatetime(datetime.now(UTC))
        await self._stack.pause(pause)
        self.paused.append(Paused(datetime.now(UTC), None, action=action))
        try:
            yield
        finally:
            self.paused[-1] = replace(self.paused[-1], ended_at=datetime.now(UTC))
            await self._stack.resume(pause.pause_id, who="user:sam")

    def _knows(self, request: Request) -> bool:
        request_id = request.asked.request_id
        return any(told.state for told in self.told if told.request_id == request_id)

    def _final(self, told: Told) -> bool:
        return not told.lost and told.state not in _ON_THE_WAY

    def _heard(self, request: Request, began: datetime, execution: Execution) -> Told:
        state = Execution.State.Name(execution.state).removeprefix("STATE_")
        request_id = request.asked.request_id
        told = Told(request_id, datetime.now(UTC), state, execution.reason, began)
        return self._keep(told)

    def _refused(self, request: Request, began: datetime, error: grpc.aio.AioRpcError) -> Told:
        reason = "" if error.code() in _LOST else from_rpc_error(error).reason
        if reason == _SUPERSEDED:
            reason = ""
        request_id = request.asked.request_id
        return self._keep(Told(request_id, datetime.now(UTC), reason=reason, began=began))

    def _keep(self, told: Told) -> Told:
        self.told.append(told)
        return told
