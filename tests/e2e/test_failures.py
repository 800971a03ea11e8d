"""Things are killed while they work: no answer changes, nothing is lost, nothing happens twice."""

from __future__ import annotations

import asyncio
import json
import ssl
import tempfile
import urllib.request
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from aegis import algorithms
from aegis.channel import connect
from aegis.envelope import sign_action
from aegis.errors import from_rpc_error
from aegis.local import laptop
from aegis.local.stack import Stack
from aegis.plans import default_plan
from aegis.trust import load_private_key
from aegis.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    envelope_pb2,
    execution_pb2,
    execution_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)
from tests.auditing import chained
from tests.commands import invoke

ROUNDS = 5


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[Stack]:
    """A whole Aegis to be mistreated; what a test kills it starts again."""
    with tempfile.TemporaryDirectory(prefix="aegis-e2e-") as folder:
        # The tests act on one deployment, one soon after the other.
        guards = Path(folder) / "guards.toml"
        guards.write_text(laptop.GUARDS.replace("cool_down_seconds = 30", "cool_down_seconds = 0"))
        told = {"executor": {"AEGIS_EXECUTOR_GUARDS": str(guards)}}
        async with Stack(Path(folder), sandbox=True, environment=told) as running:
            yield running


def channel(stack: Stack, name: str = "admin") -> grpc.aio.Channel:
    return connect(stack.address, stack.identity(name))


async def audit_of(stack: Stack, subject_id: str) -> list[audit_pb2.AuditRecord]:
    """All records about one thing, oldest first; the whole chain must be intact."""
    async with channel(stack) as opened:
        call = audit_pb2_grpc.AuditServiceStub(opened).ExportAuditRecords(
            audit_pb2.ExportAuditRecordsRequest(), timeout=30
        )
        stored = [record async for batch in call for record in batch.records]
    assert chained(stored) == len(stored) > 0
    records = [audit_pb2.AuditRecord.FromString(each.record) for each in stored]
    return [record for record in records if record.subject_id == subject_id]


async def change_nothing(stack: Stack) -> str:
    """How the server refuses to stop a run that is none, once all it had counted is used up."""
    reasons = []
    async with connect(stack.address, stack.identity("admin"), retries=False) as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        for _ in range(5):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.StopRun(
                    training_pb2.StopRunRequest(run_id=str(uuid.uuid4()), reason="none"), timeout=10
                )
            reasons.append(from_rpc_error(refused.value).reason)
    return reasons[-1]


async def test_killing_redis_under_load_changes_no_answer(stack: Stack):
    """Every Evaluate before, during and after the death of Valkey is answered, and rightly.

    What changes something is refused meanwhile, because nobody counts it.
    """
    expected = {
        "shop": ("automation-restarts-pods-in-shop", policy_pb2.EFFECT_ALLOW),
        "payments": ("automation-outside-its-namespaces", policy_pb2.EFFECT_DENY),
        "kube-system": ("kube-system-is-protected", policy_pb2.EFFECT_DENY),
    }
    answered = 0
    finished = asyncio.Event()
    async with channel(stack) as opened:
        stub = policy_pb2_grpc.PolicyServiceStub(opened)

        async def ask() -> None:
            nonlocal answered
            while not finished.is_set():
                for namespace, (rule, effect) in expected.items():
                    # A new name every time, so that no answer comes from this process' memory.
                    request = policy_pb2.EvaluateRequest(
                        subject="automation:autopilot",
                        resource=f"/clusters/c/namespaces/{namespace}/pods/p-{answered}",
                        action="restart_pod",
                    )
                    request.attributes["namespace"] = namespace
                    answer = await stub.Evaluate(request, timeout=10)
                    assert (answer.rule_id, answer.effect) == (rule, effect)
                    answered += 1

        workers = [asyncio.create_task(ask()) for _ in range(16)]
        await asyncio.sleep(1)
        before = answered
        stack.kill("valkey")
        await asyncio.sleep(1.5)
        while_away = answered
        assert await change_nothing(stack) == "LIMITER_UNAVAILABLE"
        await stack.restart("valkey")
        await asyncio.sleep(0.5)
        finished.set()
        await asyncio.gather(*workers)
    assert 0 < before < while_away < answered
    assert await change_nothing(stack) == "RESOURCE_NOT_FOUND"


async def start_run(stack: Stack) -> str:
    plan = default_plan(seed=7, participants=3)
    plan.rounds = ROUNDS
    async with channel(stack) as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        request = training_pb2.StartRunRequest(request_id=str(uuid.uuid4()), plan=plan)
        return (await stub.StartRun(request, timeout=20)).run.run_id


async def until_round(stack: Stack, run_id: str, wanted: int) -> training_pb2.Run:
    ends = (training_pb2.Run.STATE_COMPLETED, training_pb2.Run.STATE_FAILED)
    async with asyncio.timeout(90), channel(stack) as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        while True:
            run = (await stub.GetRun(training_pb2.GetRunRequest(run_id=run_id), timeout=20)).run
            if run.rounds_completed >= wanted or run.state in ends:
                return run
            await asyncio.sleep(0.1)


async def test_run_survives_the_death_of_the_server(stack: Stack):
    """After kill -9 in the middle a run goes on where it was and ends with the same model."""
    undisturbed = await until_round(stack, await start_run(stack), ROUNDS)
    run_id = await start_run(stack)
    await until_round(stack, run_id, 2)
    stack.kill("server")
    await stack.restart("server")
    run = await until_round(stack, run_id, ROUNDS + 1)
    assert run.state == training_pb2.Run.STATE_COMPLETED, run.reason
    assert [done.round for done in run.rounds] == list(range(ROUNDS + 1))
    assert run.model_sha256 == undisturbed.model_sha256
    records = await audit_of(stack, run_id)
    completed = [r.details["round"] for r in records if r.action == "complete_round"]
    assert completed == [str(number) for number in range(ROUNDS + 1)]


def sandbox(stack: Stack, path: str, body: dict[str, object] | None = None) -> dict:
    """Asks the sandbox' control paths as its administrator."""
    control = json.loads((stack.home / "sandbox" / "control.json").read_text())
    request = urllib.request.Request(
        control["url"] + path,
        data=json.dumps(body).encode() if body is not None else None,
        headers={"Authorization": f"Bearer {control['token']}"},
    )
    tls = ssl.create_default_context(cafile=control["ca"])
    with urllib.request.urlopen(request, context=tls, timeout=10) as answer:
        return json.load(answer)


def one_pod(stack: Stack) -> str:
    pods = sandbox(stack, "/api/v1/namespaces/shop/pods?labelSelector=app%3Dcheckout")
    return str(pods["items"][0]["metadata"]["name"])


async def submit(stack: Stack, envelope: envelope_pb2.SignedEnvelope) -> execution_pb2.Action:
    async with connect(stack.address, stack.identity("autopilot"), retries=False) as opened:
        stub = execution_pb2_grpc.ExecutionServiceStub(opened)
        request = execution_pb2.SubmitActionRequest(envelope=envelope)
        return (await stub.SubmitAction(request, timeout=30)).action


def restart_of(stack: Stack, pod: str, request_id: str) -> envelope_pb2.SignedEnvelope:
    return sign_action(
        envelope_pb2.ActionSpec(
            target=envelope_pb2.ActionSpec.Target(cluster="sandbox", namespace="shop", name=pod),
            restart_pod=envelope_pb2.ActionSpec.RestartPod(),
        ),
        key=load_private_key(stack.home / "pki" / "autopilot-signing.key"),
        issuer="automation:autopilot",
        audience="aegis",
        request_id=request_id,
    )


def evictions(stack: Stack, pod: str) -> int:
    writes = sandbox(stack, "/sandbox/ledger")["writes"]
    return sum(
        write["name"] == pod and write["resource"] == "pods/eviction" and not write["dry_run"]
        for write in writes
    )


@pytest.mark.parametrize("victim", ["server", "executor"])
async def test_action_survives_the_death_of_a_part(stack: Stack, victim: str):
    """kill -9 while the cluster is changed: one eviction, one outcome, and the retry finds it."""
    pod, request_id = await asyncio.to_thread(one_pod, stack), str(uuid.uuid4())
    # The dry run before the change is spared.
    faults = [{"where": "before", "seconds": 0}, {"where": "after", "seconds": 2}]
    await asyncio.to_thread(sandbox, stack, "/sandbox/faults", {"faults": faults})
    submitting = asyncio.create_task(submit(stack, restart_of(stack, pod, request_id)))
    async with asyncio.timeout(20):
        while await asyncio.to_thread(evictions, stack, pod) == 0:
            await asyncio.sleep(0.05)
    stack.kill(victim)
    await asyncio.gather(submitting, return_exceptions=True)
    await stack.restart(victim)
    async with asyncio.timeout(60):
        action = await submit(stack, restart_of(stack, pod, request_id))
        while action.state in (
            execution_pb2.Action.STATE_DISPATCHED,
            execution_pb2.Action.STATE_APPLIED,
        ):
            await asyncio.sleep(0.3)
            action = await submit(stack, restart_of(stack, pod, request_id))
    assert action.state == execution_pb2.Action.STATE_VERIFIED
    assert await asyncio.to_thread(evictions, stack, pod) == 1
    outcomes = [record.outcome for record in await audit_of(stack, action.action_id)]
    assert outcomes == ["dispatched", "applied", "verified"]


async def test_revoked_signing_key_is_refused_without_a_restart(stack: Stack):
    """Server, executor and witness follow the bundle that `aegis keys revoke` has signed."""
    key = algorithms.key_id(
        load_private_key(stack.home / "pki" / "autopilot-signing.key").public_key()
    )
    pod = await asyncio.to_thread(one_pod, stack)
    action = await submit(stack, restart_of(stack, pod, str(uuid.uuid4())))
    assert action.state == execution_pb2.Action.STATE_APPLIED
    result = invoke(["--home", str(stack.home), "keys", "revoke", key])
    assert result.exit_code == 0, result.output
    async with asyncio.timeout(5):
        while True:
            try:
                await submit(stack, restart_of(stack, pod, str(uuid.uuid4())))
            except grpc.aio.AioRpcError as error:
                refusal = from_rpc_error(error)
                break
            await asyncio.sleep(0.1)
    assert refusal.reason == "SIGNING_KEY_UNUSABLE"
    async with asyncio.timeout(5):
        while (told := await audit_of(stack, "trust"))[-1].details["version"] != "2":
            await asyncio.sleep(0.1)
    # A server that starts says once more which bundle it has.
    assert {record.details["version"] for record in told[:-1]} == {"1"}
    assert [record.details["revoked"] for record in told[-2:]] == ["", key]
