"""An executor process over mTLS, in front of a sandbox process, with a journal in Postgres."""

from __future__ import annotations

import asyncio
import json
import ssl
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from tests.factories import Signers
from tests.processes import Process, until

from aegis.channel import Identity, connect
from aegis.executor.v1 import executor_pb2, executor_pb2_grpc
from aegis.local import pki
from aegis.local.postgres import DATABASE, EXECUTOR, Postgres
from aegis.serving.database import migrate
from aegis.v1 import execution_pb2
from aegis.v1.envelope_pb2 import ActionSpec, SignedEnvelope

# A module of tests does in a minute what should take days.
_LIFTED = """
cool_down_seconds = 0
relapse_seconds = 0
attempts = 100
[concurrent]
namespace = 1000
global = 1000
[hourly]
target = 1000
namespace = 1000
global = 1000
[storm]
share = 1
anomalous_min = 1000
[breakers]
consecutive = 100
outcomes_min = 1000
"""


_UNDER_WATCH = """
select request_id, action from aegis_executor.ending join aegis_executor.intent using (request_id)
where state = 'APPLIED'
  and not exists (select from aegis_executor.verdict v where v.request_id = ending.request_id)
"""


class Cluster:
    """The sandbox as its administrator sees it."""

    def __init__(self, home: Path) -> None:
        control = json.loads((home / "control.json").read_text())
        self._client = httpx2.Client(
            base_url=control["url"],
            headers={"Authorization": f"Bearer {control['token']}"},
            verify=ssl.create_default_context(cafile=control["ca"]),
            trust_env=False,
        )
        self._earlier = 0

    def forget(self) -> None:
        """Leaves out of the ledger what is in it now."""
        self._earlier += len(self._sent())

    def replicas(self, namespace: str, name: str) -> int:
        return int(self.deployment(namespace, name)["spec"]["replicas"])

    def close(self) -> None:
        self._client.close()

    def pods(self, namespace: str, app: str) -> list[dict[str, Any]]:
        found = self._get(f"/api/v1/namespaces/{namespace}/pods?labelSelector=app={app}")
        return [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]

    def deployment(self, namespace: str, name: str) -> dict[str, Any]:
        return self._get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")

    def replica_sets(self, namespace: str, app: str) -> list[dict[str, Any]]:
        path = f"/apis/apps/v1/namespaces/{namespace}/replicasets?labelSelector=app={app}"
        return self._get(path)["items"]

    def effects(self) -> list[dict[str, Any]]:
        """What the executor changed, by the sandbox's own ledger."""
        return [write for write in self.writes() if write["changed"]]

    def writes(self) -> list[dict[str, Any]]:
        """What the executor sent to change something, refused or not."""
        return [write for write in self._sent() if not write["dry_run"]]

    def tried(self) -> list[dict[str, Any]]:
        """What the executor let the API server try."""
        return [write for write in self._sent() if write["dry_run"]]

    def _sent(self) -> list[dict[str, Any]]:
        everything = self._get("/sandbox/ledger")["writes"]
        ours = [
            write
            for write in everything
            if write["user"] != "sandbox-admin" and write["resource"] != "events"
        ]
        return ours[self._earlier :]

    def fault(self, where: str, seconds: float = 0.0) -> None:
        """Lets something go wrong with the next change; its dry run before it is spared."""
        self.tell("fault", where=where, seconds=seconds)

    def tell(self, what: str, **told: Any) -> dict[str, Any]:
        return self._client.post(f"/sandbox/{what}", json=told).raise_for_status().json()

    def fault_waits(self) -> bool:
        """Whether the fault that was ordered has met no write yet."""
        return bool(self._get("/sandbox/fault")["waiting"])

    def send(self, method: str, path: str, body: Any = None) -> None:
        """Writes as the administrator; a list is a JSON patch."""
        kind = "json" if isinstance(body, list) else "merge"
        kind = f"application/{kind}-patch+json" if method == "PATCH" else "application/json"
        self._client.request(
            method,
            path,
            content=json.dumps(body) if body is not None else None,
            headers={"Content-Type": kind},
        ).raise_for_status()

    def patch_deployment(self, namespace: str, name: str, patch: dict[str, Any]) -> None:
        self._client.patch(
            f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
            content=json.dumps(patch),
            headers={"Content-Type": "application/merge-patch+json"},
        ).raise_for_status()

    def settled(self, namespace: str, name: str) -> dict[str, Any]:
        """Waits for the rollout and returns the deployment."""

        def done() -> dict[str, Any] | None:
            found = self.deployment(namespace, name)
            status, wanted = found["status"], found["spec"]["replicas"]
            counts = [status[f"{key}Replicas"] for key in ("updated", "ready", "available")]
            observed = status["observedGeneration"] >= found["metadata"]["generation"]
            return found if observed and {*counts, status["replicas"]} == {wanted} else None

        return until(done)

    def _get(self, path: str) -> dict[str, Any]:
        return self._client.get(path).raise_for_status().json()


class Stack:
    """Everything together, and the server's side of the conversation."""

    def __init__(self, folder: Path, postgres: Postgres, database: str) -> None:
        self._folder = folder
        self._database = database
        self._database_url = postgres.url(EXECUTOR, database)
        self._owner_url = postgres.url(database="postgres")
        migrated = migrate(postgres.url(database=database), "aegis_executor", "aegis_executor")
        asyncio.run(migrated)
        self.pki = folder / "pki"
        pki.ensure(self.pki)
        self.signers = Signers.of_home(self.pki)
        for name in ("sandbox", "executor"):
            (folder / name).mkdir()
        home = str(folder / "sandbox")
        arguments = ("aegis_sandbox", "--home", home, "--tick-seconds", "0.02")
        self._guards = folder / "guards.toml"
        self._guards.write_text(_LIFTED)
        self._running: list[Process] = []
        self.sandbox = self._started(Process(folder / "sandbox", *arguments))
        self.cluster = Cluster(folder / "sandbox")
        self.executor: Process | None = None
        self.program = "aegis_executor"
        self._earlier = 0

    def begin(self) -> None:
        """Starts the executor unless it runs, and looks at what is new from here on."""
        # One that was killed may not have met what was ordered for it.
        self.cluster.tell("faults", faults=[])
        if self.executor is None or not self.executor.running():
            self.start_executor()
        for namespace, name in (("demo", "web"), ("demo", "api"), ("shop", "checkout")):
            self.cluster.settled(namespace, name)
        self.watched()
        self.cluster.forget()
        self._earlier = self._intents()

    def intents(self) -> int:
        """How many requests were claimed since the test began."""
        return self._intents() - self._earlier

    def _intents(self) -> int:
        return int(self.journal("select count(*) from aegis_executor.intent")[0][0])

    def _started(self, process: Process) -> Process:
        self._running.append(process)
        return process

    def environment(self, **changes: str) -> dict[str, str]:
        return {
            "AEGIS_EXECUTOR_DATABASE_URL": self._database_url,
            "AEGIS_LISTEN": "127.0.0.1:0",
            "AEGIS_TLS_CERT": str(self.pki / "executor.crt"),
            "AEGIS_TLS_KEY": str(self.pki / "executor.key"),
            "AEGIS_TLS_CA": str(self.pki / "ca.crt"),
            "AEGIS_TRUST_DOMAIN": "aegis.local",
            "AEGIS_TRUST_BUNDLE": str(self.pki / "trust.json"),
            "AEGIS_AUDIT_KEY": str(self.pki / "executor-audit.key"),
            "AEGIS_EXECUTOR_NAME": "executor:local",
            "AEGIS_EXECUTOR_PEERS": "server:aegis",
            "AEGIS_AUDIENCE": "aegis",
            "AEGIS_CLUSTER": "sandbox",
            "AEGIS_EXECUTOR_NAMESPACES": "demo,shop",
            "AEGIS_KUBECONFIG": str(self._folder / "sandbox" / "kubeconfig"),
            "AEGIS_EXECUTOR_SETTLE_SECONDS": "2",
            "AEGIS_EXECUTOR_GUARDS": str(self._guards),
            "AEGIS_EXECUTOR_STABILISE_SECONDS": "0",
            "AEGIS_EXECUTOR_WINDOW_SECONDS": "10",
            "AEGIS_EXECUTOR_LOOK_SECONDS": "0.1",
            # Nothing keeps the clock of a test's machine.
            "AEGIS_EXECUTOR_CLOCK_CHECK": "no",
            **changes,
        }

    def start_executor(self, **changes: str) -> Process:
        self.executor = self._started(
            Process(self._folder / "executor", self.program, **self.environment(**changes))
        )
        return self.executor

    async def execute(
        self,
        request: SignedEnvelope,
        decision: SignedEnvelope | None = None,
        *,
        peer: str = "server",
        seconds: float | None = 10.0,
    ) -> executor_pb2.Execution:
        message = executor_pb2.ExecuteActionRequest(
            request=request, decision=decision or self.signers.decision(request)
        )
        identity = Identity.of(peer, self._folder)
        async with connect(self.executor.address, identity, retries=False) as channel:
            stub = executor_pb2_grpc.ExecutorServiceStub(channel)
            return (await stub.ExecuteAction(message, timeout=seconds)).execution

    async def do(self, spec: ActionSpec) -> executor_pb2.Execution:
        """Executes, waits for the verdict (the target is busy until then), returns the answer."""
        answered = await self.execute(self.signers.request(spec))
        await asyncio.to_thread(self.watched)
        return answered

    def watched(self) -> None:
        """Waits until it is known of everything that was done whether it helped."""
        until(lambda: not self.journal(_UNDER_WATCH), lambda: str(self.journal(_UNDER_WATCH)))

    async def plan(self, spec: ActionSpec) -> executor_pb2.PlanExecutionResponse:
        identity = Identity.of("server", self._folder)
        async with connect(self.executor.address, identity, retries=False) as channel:
            stub = executor_pb2_grpc.ExecutorServiceStub(channel)
            asked = executor_pb2.PlanExecutionRequest(
                spec=spec.SerializeToString(), issuer="automation:autopilot"
            )
            return await stub.PlanExecution(asked, timeout=10)

    async def find(self, request_id: str) -> executor_pb2.Execution:
        asked = executor_pb2.GetExecutionRequest(request_id=request_id)
        async with self._stub() as stub:
            return (await stub.GetExecution(asked, timeout=10, wait_for_ready=True)).execution

    async def pause(self, pause: execution_pb2.Pause) -> None:
        async with self._stub() as stub:
            await stub.Pause(executor_pb2.PauseRequest(pause=pause), timeout=10)

    async def resume(self, pause_id: str, *, who: str) -> None:
        asked = executor_pb2.ResumeRequest(pause_id=pause_id, who=who, reason="enough")
        async with self._stub() as stub:
            await stub.Resume(asked, timeout=10)

    @asynccontextmanager
    async def _stub(self) -> AsyncIterator[executor_pb2_grpc.ExecutorServiceStub]:
        identity = Identity.of("server", self._folder)
        async with connect(self.executor.address, identity) as channel:
            yield executor_pb2_grpc.ExecutorServiceStub(channel)

    @contextmanager
    def database_away(self) -> Iterator[None]:
        """Cuts the executor's pool off its database."""
        cut = (
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = %s and application_name = 'aegis-executor'"
        )
        with psycopg.connect(self._owner_url, autocommit=True) as owner:
            owner.execute(f"alter database {self._database} allow_connections false")
            owner.execute(cut, (self._database,))
            try:
                yield
            finally:
                owner.execute(f"alter database {self._database} allow_connections true")

    def journal(self, query: str) -> list[Any]:
        with psycopg.connect(self._database_url) as connection:
            return connection.execute(query).fetchall()

    def close(self) -> None:
        self.cluster.close()
        for process in reversed(self._running):
            process.stop()


@pytest.fixture(scope="module")
def shared_stack(
    postgres: Postgres, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """One sandbox and one executor: starting two programs takes longer than most tests."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"create database {name} template {DATABASE} strategy wal_log")
        started = Stack(tmp_path_factory.mktemp("stack"), postgres, name)
        try:
            yield started
        finally:
            started.close()
            connection.execute(f"drop database {name} with (force)")


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    """The stack with its executor running, and nothing remembered of earlier tests."""
    shared_stack.begin()
    return shared_stack
