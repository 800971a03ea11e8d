"""One story through server, executor and sandbox: from the wish to the verdict, and its record."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from aegis.audit.copies import scan_records
from aegis.audit.findings import Verdict
from aegis.audit.verifier import verify_copy
from aegis.channel import Identity, connect
from aegis.cli.audit_copy import LOGS, copy_logs
from aegis.cli.demo.cluster import SandboxCluster
from aegis.errors import AegisError
from aegis.local.authority import Authority, Names
from aegis.local.stack import Stack
from aegis.remediation import Remediator, Request
from aegis.spiffe import spiffe_id
from aegis.trust import TrustBundle, load_private_key
from aegis.v1 import (
    audit_pb2,
    envelope_pb2,
    execution_pb2,
    execution_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
)

Action = execution_pb2.Action
Spec = envelope_pb2.ActionSpec

SOON = {"AEGIS_EXECUTOR_STABILISE_SECONDS": "0.3", "AEGIS_EXECUTOR_LOOK_SECONDS": "0.2"}
RULES = """
p, role:automation, *, /clusters/*/namespaces/shop/**, without_1_oncall, , deny, shop-needs-oncall
g2, user:nadia, role:oncall
"""


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    """A whole Aegis in front of its sandbox, with nothing of the user's."""
    with tempfile.TemporaryDirectory(prefix="aegis-e2e-") as folder:
        async with Stack(Path(folder), given={}, environment={"executor": SOON}) as running:
            yield running


@asynccontextmanager
async def automation(stack: Stack) -> AsyncIterator[Remediator]:
    key = load_private_key(stack.home / "pki" / "autopilot-signing.key")
    identity = stack.identity("autopilot")
    async with connect(stack.address, identity, retries=False) as channel:
        yield Remediator(channel, key=key, issuer="automation:autopilot")


@asynccontextmanager
async def speaking(
    stack: Stack, name: str
) -> AsyncIterator[execution_pb2_grpc.ExecutionServiceStub]:
    async with connect(stack.address, stack.identity(name)) as channel:
        yield execution_pb2_grpc.ExecutionServiceStub(channel)


async def demand_oncall(stack: Stack) -> None:
    """Lets the shop need somebody on call, and gives Nadia a certificate."""
    authority = Authority.open(stack.home / "pki")
    assert authority is not None
    names = Names(spiffe_id("user:nadia", "aegis.local"), ("localhost",), ("127.0.0.1",))
    authority.issue("nadia", names, datetime.now(UTC), [], days=1)
    async with connect(stack.address, stack.identity("admin")) as channel:
        policy = policy_pb2_grpc.PolicyServiceStub(channel)
        current = await policy.GetPolicy(policy_pb2.GetPolicyRequest(), timeout=10)
        request = policy_pb2.ImportPolicyRequest(csv=current.csv.rstrip() + RULES, reason="nights")
        await policy.ImportPolicy(request, timeout=10)


def scale(namespace: str, name: str, replicas: int, incident: str) -> Spec:
    return Spec(
        target=Spec.Target(cluster="sandbox", namespace=namespace, name=name),
        scale_deployment=Spec.ScaleDeployment(replicas=replicas),
        incident_id=incident,
    )


async def recorded(stack: Stack) -> dict[str, list[audit_pb2.AuditRecord]]:
    """Returns the records of both logs, which must verify against each other and the witness."""
    bundle = stack.home / "pki" / "trust.json"
    copy = stack.home / "copy"
    async with connect(stack.address, Identity.of("admin", stack.home)) as channel:
        await copy_logs(channel, copy, LOGS, bundle)
    result = verify_copy(copy, trust=TrustBundle.load(bundle), now=datetime.now(UTC))
    assert result.verdict is Verdict.GOOD, result.findings
    return {
        log: [audit_pb2.AuditRecord.FromString(each.record) for each in scan_records(copy / log)]
        for log in LOGS
    }


async def approved_and_verified(stack: Stack, remediator: Remediator) -> Action:
    spec, request = scale("shop", "checkout", 4, "INC-1"), Request(reason="queues grow")
    plan = await remediator.plan(spec)
    (changed,) = plan.differences
    assert (changed.path, changed.before, changed.after) == ("spec.replicas", "3", "4")
    assert ([step.group for step in plan.steps], plan.ready) == (["role:oncall"], False)
    waiting = await remediator.submit(plan, request)
    assert waiting.state == Action.STATE_PENDING_APPROVAL
    async with speaking(stack, "nadia") as nadia:
        approval = execution_pb2.ApproveActionRequest(
            action_id=waiting.action_id, action_digest=waiting.action_digest, reason="go on"
        )
        assert (await nadia.ApproveAction(approval, timeout=10)).action.state == (
            Action.STATE_APPROVED
        )
    done = await remediator.resume(waiting, request)
    assert (done.state, done.action_id) == (Action.STATE_VERIFIED, waiting.action_id)
    assert [each.approver for each in done.approvals] == ["user:nadia"]
    return done


async def taken_back(stack: Stack, remediator: Remediator) -> Action:
    cluster = SandboxCluster(stack.home / "sandbox" / "control.json")
    spec = scale("demo", "web", 4, "INC-2")
    spec.verification.on_failure = Spec.Verification.ON_FAILURE_COMPENSATE
    spec.verification.window.FromSeconds(2)
    await cluster.keep_pods_away(True)
    try:
        action = await remediator.run(spec)
    finally:
        await cluster.keep_pods_away(False)
    assert action.state == Action.STATE_COMPENSATED, action.message
    assert "not healed within the window" in action.message
    assert len(await cluster.pods("demo", "web")) == 3
    return action


async def test_story_from_the_wish_to_the_record(stack: Stack):
    """Approved, signed again, verified; what did not help is taken back; all of it is recorded."""
    await demand_oncall(stack)
    async with automation(stack) as remediator:
        helped = await approved_and_verified(stack, remediator)
        failed = await taken_back(stack, remediator)
        rung = Spec()
        rung.CopyFrom(failed.next)
        assert rung.WhichOneof("action") == "rollback_deployment"
        assert rung.incident_id == "INC-2"
        rung.verification.window.FromSeconds(30)
        last = await remediator.run(rung)
        assert last.state == Action.STATE_VERIFIED, last.message
    async with speaking(stack, "admin") as admin:
        asked = execution_pb2.GetHealingReportRequest()
        report = await admin.GetHealingReport(asked, timeout=10)
    everything = next(row for row in report.rows if not row.action)
    assert dict(everything.states) == {"VERIFIED": 2, "COMPENSATED": 1}
    logs = await recorded(stack)
    server, executor = logs["aegis-server"], logs["aegis-executor"]

    def by(action: Action, log: list[audit_pb2.AuditRecord]) -> list[audit_pb2.AuditRecord]:
        return [each for each in log if each.subject_id == action.action_id]

    for action, outcome in ((helped, "verified"), (failed, "compensated"), (last, "verified")):
        assert outcome in {each.outcome for each in by(action, server)}
        assert outcome in {each.outcome for each in by(action, executor)}
    approvals = [each.actor for each in by(helped, server) if each.action == "approve"]
    assert approvals == ["user:nadia"]


async def test_killed_executor_finishes_what_it_had_begun(stack: Stack):
    """Away, it takes nothing new; back, it says of the old whether it helped, and did it once."""
    async with automation(stack) as remediator:
        spec = scale("shop", "checkout", 4, "INC-3")
        spec.verification.stabilise.FromSeconds(2)
        begun = await remediator.submit(await remediator.plan(spec))
        assert begun.state == Action.STATE_APPLIED
        stack.kill("executor")
        with pytest.raises(AegisError) as away:
            await remediator.plan(scale("demo", "web", 4, "INC-4"))
        assert away.value.code is grpc.StatusCode.UNAVAILABLE
        await stack.restart("executor")
        async with asyncio.timeout(60):
            ended = await remediator.resume(begun)
        assert ended.state == Action.STATE_VERIFIED, ended.message
        assert ended.observations["replicas_after"] == "4"
