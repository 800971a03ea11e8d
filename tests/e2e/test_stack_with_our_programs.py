"""The stack with the real control plane, executor and sandbox, as `aegis up` runs it."""

import asyncio
import os
import uuid
from pathlib import Path

import pytest

from aegis.channel import connect
from aegis.local.health import status
from aegis.local.stack import Stack
from aegis.local.state import read
from aegis.v1 import training_pb2, training_pb2_grpc
from tests.integration.training.conftest import small_plan

Run = training_pb2.Run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, and nothing of Aegis in the environment."""
    for name in [name for name in os.environ if name.startswith("AEGIS_")]:
        monkeypatch.delenv(name)
    return tmp_path / "home"


async def test_whole_stack_is_healthy_and_survives_a_killed_server(home: Path) -> None:
    """Every part answers over its own door; after kill -9 the server is back at its address."""
    async with Stack(home, sandbox=True) as stack:
        parts = {part.name: part for part in await status(home)}
        assert list(parts) == ["postgres", "valkey", "sandbox", "witness", "executor", "server"]
        assert [part.detail for part in parts.values()] == ["healthy"] * 6
        address = stack.address
        stack.kill("server")
        parts = {part.name: part for part in await status(home)}
        assert parts["server"].detail == "its process is gone"
        assert parts["executor"].healthy
        await stack.restart("server")
        assert stack.address == address
        assert all(part.healthy for part in await status(home))
        pids = [part.pid for part in await status(home)]
    assert read(home) is None
    assert not [pid for pid in pids if pid and Path(f"/proc/{pid}").exists()]


async def test_programs_are_told_no_more_than_they_need(home: Path) -> None:
    """No running program knows the owner's password, and the executor none but its own."""
    async with Stack(home, sandbox=True) as stack:
        told = {
            name: Path(f"/proc/{stack.pid(name)}/environ").read_text()
            for name in ("sandbox", "executor", "server")
        }
    passwords = {
        role: (home / "data" / f"aegis_{role}.password").read_text()
        for role in ("owner", "server", "executor")
    }
    known = {
        name: [role for role, password in passwords.items() if password in text]
        for name, text in told.items()
    }
    assert known == {"sandbox": [], "executor": ["executor"], "server": ["server"]}
    assert "decision.key" not in told["executor"]
    assert "kubeconfig" not in told["server"]


async def test_rounds_in_a_queue_are_examined(home: Path) -> None:
    """A server that leaves them to workers gets one with it."""
    async with Stack(home, sandbox=True, given={"AEGIS_REVIEW_WORKERS": "queue"}) as stack:
        async with connect(stack.address, stack.identity("admin")) as channel:
            training = training_pb2_grpc.TrainingServiceStub(channel)
            request = training_pb2.StartRunRequest(
                request_id=str(uuid.uuid4()), plan=small_plan(rounds=2, review=True)
            )
            run = (await training.StartRun(request, timeout=30)).run
            async with asyncio.timeout(120):
                while run.state not in (Run.STATE_COMPLETED, Run.STATE_FAILED, Run.STATE_STOPPED):
                    await asyncio.sleep(0.5)
                    asked = training_pb2.GetRunRequest(run_id=run.run_id)
                    run = (await training.GetRun(asked, timeout=10)).run
        assert run.state == Run.STATE_COMPLETED, run.reason
        assert all(part.healthy for part in await status(home))
        pid = stack.pid("review-worker")
    assert not Path(f"/proc/{pid}").exists()
