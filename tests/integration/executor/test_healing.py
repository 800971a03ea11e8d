"""Verification with a real journal in front of a sandbox: what helps, and what is taken back."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from psycopg.types.json import Jsonb
from tests.factories import restart, scale

from aegis.errors import Aborted
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database
from aegis.v1.envelope_pb2 import ActionRequest, ActionSpec
from aegis_executor.catalogue import of_spec
from aegis_executor.departing import Departure
from aegis_executor.kubernetes import Kubernetes, Reach, configuration
from aegis_executor.reading import see
from aegis_executor.verification.healing import Healing
from aegis_executor.verification.ledger import Ledger
from aegis_executor.verification.prometheus import Nobody
from aegis_executor.verification.terms import Defaults
from aegis_sandbox.sandbox import Sandbox, sandbox

SECONDS = Defaults(
    stabilise_seconds=0.2, window_seconds=2.0, every_seconds=0.1, successes=2, failures=100
)
Checks = ActionSpec.Verification


def now() -> datetime:
    return datetime.now(UTC)


class Executor:
    """The executor's parts that heal, in front of one sandbox and one database."""

    def __init__(self, url: str, world: Sandbox, cluster: Kubernetes, database: Database) -> None:
        self.url = url
        self.world = world
        self.cluster = cluster
        self._database = database
        self.fenced = False

    def healing(self) -> Healing:
        """A fresh process."""
        audit = AuditLog(
            self._database, log_id="aegis-executor", clock=now, schema="aegis_executor"
        )
        ledger = Ledger(self._database, audit, name="executor:local", fence=self._fence, clock=now)
        return Healing(
            ledger=ledger,
            cluster=self.cluster,
            metrics=Nobody(),
            defaults=SECONDS,
            remedy_of=of_spec,
            recheck=self._recheck,
            clock=now,
            departure=Departure(65),
            registry=CollectorRegistry(),
        )

    async def _fence(self, connection: Connection) -> None:
        if self.fenced:
            raise Aborted("FENCED", "another executor has taken over")

    async def _recheck(self, applied: Any, undo: Any) -> None:
        pass

    async def change(self, spec: ActionSpec) -> str:
        """Does what the executor does, without asking whether it may; returns the request id."""
        request_id, remedy = str(uuid.uuid4()), of_spec(spec)
        seen = await see(self.cluster, remedy)
        change = remedy.plan(seen, "a-1")
        assert change is not None
        self.run(
            """
            insert into aegis_executor.intent (request_id, action_id, action, issuer,
                action_digest, key_id, nonce, request, decision, intent_at, kind, namespace, name)
            values (%s, 'a-1', %s, 'automation:autopilot', %s, 'k', %s, %s, '', now(), %s, %s, %s)
            """,
            request_id,
            remedy.verb,
            bytes(32),
            uuid.uuid4().bytes,
            ActionRequest(spec=spec.SerializeToString()).SerializeToString(),
            remedy.place.kind.value,
            remedy.place.namespace,
            remedy.place.name,
        )
        await self.healing().capture(request_id, remedy, spec, seen)
        self.run(
            "insert into aegis_executor.attempt values (%s, 1, %s, %s, %s, now())",
            request_id,
            change.place.uid,
            change.resource_version,
            change.generation,
        )
        await self.cluster.apply(change)
        self.run(
            "insert into aegis_executor.ending values (%s, 'APPLIED', '', '', %s, now())",
            request_id,
            Jsonb({**change.observations, "changed": "yes"}),
        )
        return request_id

    def run(self, statement: Any, *values: Any) -> list[Any]:
        with psycopg.connect(self.url) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def verdict(self, request_id: str) -> Any:
        found = self.run(
            "select state, message from aegis_executor.verdict where request_id = %s", request_id
        )
        return found[0] if found else None

    async def judged(self, request_id: str) -> Any:
        """Runs the part until there is a verdict."""
        part = asyncio.create_task(self.healing().run())
        try:
            async with asyncio.timeout(30):
                while (found := self.verdict(request_id)) is None:
                    assert not part.done(), part.exception()
                    await asyncio.sleep(0.05)
                return found
        finally:
            part.cancel()
            await asyncio.gather(part, return_exceptions=True)

    def replicas(self) -> int:
        found = self.world.objects.get("deployments", "demo", "web")
        assert found is not None
        return int(found["spec"]["replicas"])

    async def break_the_newest(self, known: set[str]) -> None:
        """Lets the pods that come crash for good."""
        async with asyncio.timeout(10):
            while not (new := self.pods() - known):
                await asyncio.sleep(0.01)
        self.world.controllers.workloads._broken |= new

    def pods(self) -> set[str]:
        pods = self.world.objects.list("pods", "demo")
        return {p["metadata"]["uid"] for p in pods if p["metadata"]["labels"]["app"] == "web"}


@pytest.fixture
async def executor(
    executor_database_url: str, executor_tables: str, tmp_path: Path
) -> AsyncIterator[Executor]:
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(sandbox(tmp_path))
        config = configuration(tmp_path / "kubeconfig", "")
        cluster = Kubernetes(config, reach=Reach(frozenset({"demo"})))
        stack.push_async_callback(cluster.close)
        database = Database(executor_database_url, application="test", max_size=8)
        stack.push_async_callback(database.close)
        await database.open()
        living = asyncio.create_task(world.run(0.02))
        try:
            yield Executor(executor_database_url, world, cluster, database)
        finally:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)


def compensated(replicas: int) -> ActionSpec:
    spec = scale("demo", "web", replicas)
    spec.verification.on_failure = Checks.ON_FAILURE_COMPENSATE
    return spec


async def test_scale_that_heals_is_verified(executor: Executor):
    """Settled, ready, and written down together with its audit record."""
    request_id = await executor.change(compensated(4))
    state, _ = await executor.judged(request_id)
    assert state == "VERIFIED"
    assert executor.replicas() == 4
    outcomes = executor.run("select outcome from aegis_executor.audit_index order by idx")
    assert outcomes == [("verified",)]


async def test_restarted_pod_is_judged_by_its_workload(executor: Executor):
    """The pod is gone and its successor has another name: the deployment was remembered."""
    await asyncio.sleep(0.2)  # The disruption budget has to be counted first.
    pods = executor.world.objects.list("pods", "demo")
    pod = next(p["metadata"] for p in pods if p["metadata"]["labels"]["app"] == "web")
    request_id = await executor.change(restart("demo", pod["name"], uid=pod["uid"]))
    assert (await executor.judged(request_id))[0] == "VERIFIED"
    assert pod["uid"] not in executor.pods()


async def test_scale_whose_pods_never_become_ready_is_taken_back(executor: Executor):
    """INEFFECTIVE, scaled back, settled, one verdict; the write was pinned and written down."""
    known = executor.pods()
    request_id = await executor.change(compensated(4))
    await executor.break_the_newest(known)
    state, message = await executor.judged(request_id)
    assert state == "COMPENSATED", message
    assert executor.replicas() == 3
    sent = executor.run("select number from aegis_executor.undo_attempt order by number")
    assert sent[0] == (1,)
    assert len(executor.run("select 1 from aegis_executor.audit_index")) == 1


async def test_executor_that_was_taken_over_judges_nothing(executor: Executor):
    """The fence holds for verdicts as it does for changes."""
    request_id = await executor.change(compensated(4))
    executor.fenced = True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await executor.judged(request_id)
    assert executor.verdict(request_id) is None
    executor.fenced = False
    assert (await executor.judged(request_id))[0] == "VERIFIED"


async def test_change_from_before_verification_is_left_alone(executor: Executor):
    """Intents without a kind are older than all of this."""
    request_id = str(uuid.uuid4())
    executor.run(
        """
        insert into aegis_executor.intent (request_id, action_id, action, issuer, action_digest,
            key_id, nonce, request, decision, intent_at)
        values (%s, 'a-0', 'restart_pod', 'user:mia', %s, 'k', %s, '', '', now())
        """,
        request_id,
        bytes(32),
        bytes(16),
    )
    executor.run(
        "insert into aegis_executor.ending values (%s, 'APPLIED', '', '', '{}', now())", request_id
    )
    await executor.healing().round()
    assert executor.verdict(request_id) is None
