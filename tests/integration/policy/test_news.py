"""WatchPolicy over what is really stored: a replica follows edits as the server makes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.doors import DoorsFor
from tests.integration.policy.rooms import ADMIN, Room, now

from aegis.decisions import LocalDecisionPoint
from aegis.errors import FailedPrecondition
from aegis.serving.doors import Grant
from aegis.spiffe import Caller
from aegis.v1 import policy_pb2, policy_pb2_grpc
from aegis_policy.baseline import baseline_csv
from aegis_policy.models import DEFAULT_MODEL
from aegis_server.policy.news import News
from aegis_server.policy.watching import watch

RITA = "p, user:rita, *, /books/**, read, , allow, rita-reads\n"
ASK: dict[str, Any] = {"subject": "user:rita", "resource": "/books/1", "action": "read"}


@dataclass
class Account:
    roles: tuple[str, ...]
    disabled: bool = False


class Directory:
    """One that is told who has what; it is its own snapshot."""

    def __init__(self) -> None:
        self.version = 1
        self.accounts: dict[str, Account] = {}

    def give(self, subject: str, account: Account) -> None:
        self.version += 1
        self.accounts = {subject: account}

    @property
    def snapshot(self) -> Directory:
        return self

    async def refresh(self) -> None:
        """Nothing to read."""


class Watched(policy_pb2_grpc.PolicyServiceServicer):
    def __init__(self, news: News) -> None:
        self.news = news
        self.steps: list[policy_pb2.WatchPolicyResponse.Step] = []

    async def WatchPolicy(self, request, context):
        async for message in watch(self.news, request):
            if message.HasField("step"):
                self.steps.append(message.step)
            yield message

    async def ReportDecisions(self, request, context):
        return policy_pb2.ReportDecisionsResponse()


@pytest.fixture
def directory() -> Directory:
    return Directory()


@pytest.fixture
async def watched(
    server: Room, directory: Directory, tmp_path: Path
) -> AsyncIterator[tuple[Watched, LocalDecisionPoint]]:
    """A server's news, and a replica that follows them."""
    service = Watched(News(server.database, server.decisions, directory, clock=now))

    async def admit(method: str, caller: Caller) -> Grant:
        return Grant()

    serving = grpc.aio.server(
        interceptors=[DoorsFor(Caller(ADMIN, "spiffe://aegis.local/user/admin"), admit)]
    )
    policy_pb2_grpc.add_PolicyServiceServicer_to_server(service, serving)
    serving.add_insecure_port(f"unix:{tmp_path}/s")
    await serving.start()
    async with (
        grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel,
        LocalDecisionPoint(channel, max_age_seconds=10, report=False) as point,
    ):
        yield service, point
    await serving.stop(None)


Both = tuple[Watched, LocalDecisionPoint]


async def test_replica_follows_what_is_stored(server: Room, watched: Both):
    """All of it first, then each edit as the difference; the digests of both sides agree."""
    service, point = watched
    async with asyncio.timeout(20):
        await point.ready()
        assert not point.decide(**ASK)
        await point.ready(at_least_revision=await server.import_(baseline_csv() + RITA))
        assert point.decide(**ASK).rule_id == "rita-reads"
        await point.ready(at_least_revision=await server.import_(RITA + baseline_csv()))
        assert point.decide(**ASK).rule_id == "rita-reads"
        await point.ready(at_least_revision=await server.import_(baseline_csv()))
        assert not point.decide(**ASK)
    assert [step.from_revision for step in service.steps] == [0, 1, 2, 3]
    assert len(service.steps[1].added) == 1
    assert len(service.steps[3].removed_places) == 1
    assert point.standing().problem == ""


async def test_replica_has_the_roles_of_the_directory(
    server: Room, directory: Directory, watched: Both
):
    """Given there they count here within a second or so; not those of a disabled account."""
    _, point = watched
    ask = {**ASK, "resource": "/policy"}
    async with asyncio.timeout(20):
        await point.ready()
        directory.give("user:rita", Account(("role:viewer",)))
        while not point.decide(**ask):
            await asyncio.sleep(0.02)
        directory.give("user:rita", Account(("role:viewer",), disabled=True))
        while point.decide(**ask):
            await asyncio.sleep(0.02)


async def test_model_of_its_own_is_not_told(server: Room, watched: Both):
    """A replica would read its rules as Aegis' own."""
    service, point = watched
    async with asyncio.timeout(20):
        await point.ready()
        await server.import_(baseline_csv(), model_conf=DEFAULT_MODEL + "\n# ours\n")
        while "model of its own" not in point.standing().problem:
            await asyncio.sleep(0.02)
        with pytest.raises(FailedPrecondition):
            await service.news.full()
