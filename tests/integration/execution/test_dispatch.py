"""Dispatch over a real channel: what the executor's answers mean."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import pytest
from grpc_status import rpc_status
from tests.factories import Signers, restart

from aegis import dsse
from aegis.errors import AegisError, NotFound, PermissionDenied, Unavailable
from aegis.executor.v1 import executor_pb2, executor_pb2_grpc
from aegis.v1 import envelope_pb2, execution_pb2
from aegis_server.execution.dispatch import Dispatch

SIGNERS = Signers.fresh()
LATE = PermissionDenied("DECISION_EXPIRED", "the decision may no longer be executed")
State = execution_pb2.Action
Execution = executor_pb2.Execution


@dataclass
class Executor(executor_pb2_grpc.ExecutorServiceServicer):
    """Refuses whatever it is sent, and knows of the executions it is given."""

    refusal: AegisError
    known: dict[str, Execution] = field(default_factory=dict)
    asked_fails: AegisError | None = None

    async def ExecuteAction(self, request, context):
        await context.abort_with_status(rpc_status.to_status(self.refusal.to_status()))

    async def GetExecution(self, request, context):
        missing = NotFound("RESOURCE_NOT_FOUND", "no such execution")
        error = self.asked_fails or (None if request.request_id in self.known else missing)
        if error is not None:
            await context.abort_with_status(rpc_status.to_status(error.to_status()))
        return executor_pb2.GetExecutionResponse(execution=self.known[request.request_id])


@pytest.fixture
def executor() -> Executor:
    return Executor(LATE)


@pytest.fixture
async def dispatch(executor: Executor) -> AsyncIterator[Dispatch]:
    server = grpc.aio.server()
    executor_pb2_grpc.add_ExecutorServiceServicer_to_server(executor, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Dispatch(channel)
    await server.stop(None)


def asked() -> tuple[envelope_pb2.SignedEnvelope, str, bytes]:
    envelope = SIGNERS.request(restart("demo", "web-1"))
    request = envelope_pb2.ActionRequest.FromString(envelope.payload)
    return envelope, request.request_id, dsse.action_digest(request.spec)


async def test_refusal_of_a_request_nobody_took_is_an_outcome(dispatch: Dispatch):
    """The executor knows nothing of it, so nothing was changed: REFUSED, with its reason."""
    envelope, _, _ = asked()
    outcome = await dispatch.execute(envelope, SIGNERS.decision(envelope))
    assert outcome is not None
    assert (outcome.state, outcome.reason) == (State.STATE_REFUSED, "DECISION_EXPIRED")


async def test_refusal_of_a_late_copy_does_not_hide_what_an_earlier_one_did(
    dispatch: Dispatch, executor: Executor
):
    """The copy that came in time was carried out: REFUSED would say that nothing was."""
    envelope, request_id, digest = asked()
    executor.known[request_id] = Execution(action_digest=digest, state=Execution.STATE_APPLIED)
    outcome = await dispatch.execute(envelope, SIGNERS.decision(envelope))
    assert outcome is not None
    assert outcome.state == State.STATE_APPLIED


async def test_refusal_of_a_late_copy_waits_for_the_earlier_one(
    dispatch: Dispatch, executor: Executor
):
    """While the earlier copy is carried out, nothing can be said."""
    envelope, request_id, digest = asked()
    executor.known[request_id] = Execution(action_digest=digest, state=Execution.STATE_INTENT)
    assert await dispatch.execute(envelope, SIGNERS.decision(envelope)) is None


async def test_refusal_is_kept_open_while_the_executor_cannot_be_asked(
    dispatch: Dispatch, executor: Executor
):
    """Not knowing is no refusal."""
    executor.asked_fails = Unavailable("DATABASE_UNAVAILABLE", "away")
    envelope, _, _ = asked()
    assert await dispatch.execute(envelope, SIGNERS.decision(envelope)) is None


async def test_execution_of_another_action_is_not_taken_for_ours(
    dispatch: Dispatch, executor: Executor
):
    """A request id that names another action there tells nothing about this one."""
    envelope, request_id, _ = asked()
    executor.known[request_id] = Execution(action_digest=bytes(32), state=Execution.STATE_APPLIED)
    outcome = await dispatch.execute(envelope, SIGNERS.decision(envelope))
    assert outcome is not None
    assert outcome.state == State.STATE_REFUSED
