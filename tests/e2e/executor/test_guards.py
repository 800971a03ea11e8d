"""The guards of an executor process: told over mTLS, and what stops it from starting."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.e2e.executor.conftest import Stack
from tests.processes import Process, until

from aegis.channel import Identity, connect
from aegis.errors import AegisError, from_rpc_error
from aegis.executor.v1 import executor_pb2, executor_pb2_grpc
from aegis.v1 import execution_pb2

FOUND_APPLIED = execution_pb2.ResolveActionRequest.FOUND_APPLIED


async def call(stack: Stack, method: str, request: Any, *, peer: str = "server") -> Any:
    identity = Identity.of(peer, stack.pki.parent)
    async with connect(stack.executor.address, identity, retries=False) as channel:
        stub = executor_pb2_grpc.ExecutorServiceStub(channel)
        rpc: Callable[..., Awaitable[Any]] = getattr(stub, method)
        try:
            return await rpc(request, timeout=10)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error


def pause(pause_id: str, **told: Any) -> executor_pb2.PauseRequest:
    laid = execution_pb2.Pause(pause_id=pause_id, who="user:ada", reason="x", **told)
    laid.create_time.FromDatetime(datetime.now(UTC))
    return executor_pb2.PauseRequest(pause=laid)


async def state(stack: Stack) -> execution_pb2.GetExecutionStateResponse:
    found = await call(stack, "GetGuards", executor_pb2.GetGuardsRequest())
    return found.state


async def test_pause_is_laid_shown_and_ended(stack: Stack):
    """And each of it is in the executor's own record."""
    scope = execution_pb2.PauseScope(namespace="shop")
    await call(stack, "Pause", pause("p-1", scope=scope))
    (shown,) = (await state(stack)).pauses
    assert (shown.pause_id, shown.scope.namespace, shown.who) == ("p-1", "shop", "user:ada")
    assert shown.in_force
    resume = executor_pb2.ResumeRequest(pause_id="p-1", who="user:bob", reason="done")
    await call(stack, "Resume", resume)
    assert not (await state(stack)).pauses
    kept = stack.journal(
        "select actor, action, outcome from aegis_executor.audit_index"
        " where action in ('pause', 'resume') order by idx"
    )
    assert kept == [("user:ada", "pause", "paused"), ("user:bob", "resume", "resumed")]


async def test_state_tells_who_acts_and_how_calm_it_is(stack: Stack):
    """The sandbox is well, so the sensor saw calm."""
    found = await state(stack)
    assert found.epoch >= 1
    assert found.storm.state == execution_pb2.Storm.STATE_CALM
    assert found.storm.watched >= 3
    assert {"hour.global", "concurrent.global"} <= {budget.name for budget in found.budgets}
    assert found.local_pause == ""


async def test_unknown_execution_is_not_resolved(stack: Stack):
    """RESOURCE_NOT_FOUND: it never got past the checks."""
    request = executor_pb2.ResolveRequest(
        request_id=str(uuid.uuid4()), who="user:ada", found=FOUND_APPLIED
    )
    with pytest.raises(AegisError) as refusal:
        await call(stack, "Resolve", request)
    assert refusal.value.reason == "RESOURCE_NOT_FOUND"


async def test_pause_that_nobody_could_end_is_refused(stack: Stack):
    """Without an id, an author or a reason, and one whose time is no time."""
    laid = pause("")
    laid.pause.create_time.seconds = 10**17
    for wrong in (executor_pb2.PauseRequest(pause=execution_pb2.Pause()), laid, pause("p" * 65)):
        with pytest.raises(AegisError) as refusal:
            await call(stack, "Pause", wrong)
        assert refusal.value.reason == "FIELD_INVALID"
    bad_time = pause("p-3")
    bad_time.pause.create_time.seconds = 10**17
    with pytest.raises(AegisError) as refusal:
        await call(stack, "Pause", bad_time)
    assert refusal.value.reason in ("FIELD_INVALID", "PAYLOAD_INVALID")


@pytest.mark.parametrize("method", ["Pause", "Resume", "Resolve", "GetGuards"])
async def test_nobody_but_the_server_tells_the_guards(stack: Stack, method: str):
    """A kill switch is a power, too."""
    request = getattr(executor_pb2, f"{method}Request")()
    with pytest.raises(AegisError) as refusal:
        await call(stack, method, request, peer="admin")
    assert refusal.value.reason == "PEER_NOT_ALLOWED"


def attempt(stack: Stack, **changes: str) -> tuple[int, str]:
    """Starts an executor that must not start; returns its exit status and last words."""
    done = subprocess.run(
        [sys.executable, "-m", "aegis_executor"],
        env={**Process.clean(), **stack.environment(**changes)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr


def test_unknown_key_of_the_guards_fails_the_start(stack: Stack, tmp_path: Path):
    """With the key's name: somebody believes in a guard that is not there."""
    file = tmp_path / "guards.toml"
    file.write_text("[breakers]\nineffective_chain = 3\n")
    status, words = attempt(stack, AEGIS_EXECUTOR_GUARDS=str(file))
    assert status == 2
    assert "breakers.ineffective_chain is no key" in words


def test_second_executor_ends_and_a_standby_takes_over(stack: Stack, tmp_path: Path):
    """Two never both act: one ends, one waits until the first is killed."""
    status, words = attempt(stack)
    assert (status, "another executor" in words) == (2, True)
    before = stack.journal("select max(epoch) from aegis_executor.epoch")[0][0]
    environment = stack.environment(AEGIS_EXECUTOR_STANDBY="yes")
    with (tmp_path / "log").open("wb") as log:
        standby = subprocess.Popen(
            [sys.executable, "-m", "aegis_executor"],
            env={
                **Process.clean(),
                **environment,
                "AEGIS_READY_FILE": str(tmp_path / "ready"),
            },
            stderr=log,
        )
    try:
        stack.executor.kill()
        until((tmp_path / "ready").exists, (tmp_path / "log").read_text)
        assert stack.journal("select max(epoch) from aegis_executor.epoch")[0][0] == before + 1
    finally:
        standby.terminate()
        standby.wait(20)
