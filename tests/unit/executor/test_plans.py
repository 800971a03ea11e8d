"""PlanExecution: the spec to sign, the difference, and every gate with its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.clusters import FakeCluster, deployment
from tests.factories import Signers, cordon, scale

from aegis.errors import AegisError
from aegis.executor.v1 import executor_pb2
from aegis.v1 import execution_pb2
from aegis.v1.envelope_pb2 import ActionSpec
from aegis_executor.admission import Admission, Limits
from aegis_executor.catalogue.base import Gate, Kind
from aegis_executor.kubernetes import ClusterRefused, ClusterUnreachable, ForbiddenRequest
from aegis_executor.planning import Planner
from aegis_executor.plans import Plans

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SOON = NOW + timedelta(minutes=7)
PASSED = execution_pb2.Gate.VERDICT_PASSED
HELD = execution_pb2.Gate.VERDICT_HELD
REFUSED = execution_pb2.Gate.VERDICT_REFUSED


class FakeGuards:
    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def gates(self, asked: Any) -> list[Gate]:
        self.asked.append(asked)
        return [Gate("cool_down", False, "COOLING_DOWN", "done 3 min ago", retry_at=SOON)]


class World:
    def __init__(self, own: Mapping[str, int] | None = None) -> None:
        self.cluster = FakeCluster((Kind.DEPLOYMENT, deployment()))
        self.guards = FakeGuards()
        admission = Admission(
            trust=Signers.fresh().trust(NOW),
            name="executor:local",
            cluster="sandbox",
            audience="aegis",
            limits=Limits(
                frozenset({"demo"}),
                frozenset({"scale_deployment"}),
                10,
                detached_approvals=own or {},
            ),
            clock=lambda: NOW,
        )
        self.plans = Plans(admission=admission, planner=Planner(self.cluster), guards=self.guards)

    async def plan(self, spec: ActionSpec | bytes) -> executor_pb2.PlanExecutionResponse:
        payload = spec if isinstance(spec, bytes) else spec.SerializeToString()
        request = executor_pb2.PlanExecutionRequest(spec=payload, issuer="user:mia")
        return await self.plans.plan(request)

    async def refusal(self, spec: ActionSpec | bytes) -> str:
        with pytest.raises(AegisError) as caught:
            await self.plan(spec)
        assert self.cluster.sent == []
        return caught.value.reason


@pytest.fixture
def world() -> World:
    return World()


async def test_plan_is_told_whole(world: World):
    """What to sign, what would change, what was warned about."""
    answer = await world.plan(scale("demo", "web", 4))
    spec = ActionSpec.FromString(answer.spec)
    assert (spec.target.uid, spec.preconditions.generation) == ("d-1", 4)
    (difference,) = answer.differences
    assert (difference.path, difference.before, difference.after) == ("spec.replicas", "3", "4")
    assert answer.warnings == ["careful"]


async def test_gates_of_object_and_guards_have_their_verdicts(world: World):
    """Held is what time or a person may open; the rest is a no."""
    world.cluster.objects[Kind.DEPLOYMENT, "web"]["metadata"]["labels"] = {
        "kustomize.toolkit.fluxcd.io/name": "demo"
    }
    answer = await world.plan(scale("demo", "web", 9))
    verdicts = {gate.name: gate.verdict for gate in answer.gates}
    assert verdicts == {
        "object.protected": PASSED,
        "object.veto": PASSED,
        "object.settled": PASSED,
        "object.gitops": REFUSED,
        "object.autoscaler": PASSED,
        "object.step": HELD,
        "cool_down": HELD,
    }
    assert answer.gates[-1].retry_time.ToDatetime(UTC) == SOON
    (asked,) = world.guards.asked
    assert (asked.issuer, asked.verb, asked.approved) == ("user:mia", "scale_deployment", False)
    assert asked.request_id


async def test_own_demand_is_a_gate():
    """Who plans learns of it before the executor refuses what everybody else let through."""
    answer = await World(own={"scale_deployment": 2}).plan(scale("demo", "web", 4))
    gate = answer.gates[0]
    assert (gate.name, gate.verdict, gate.reason) == (
        "approvals.own",
        HELD,
        "APPROVALS_INSUFFICIENT",
    )
    assert "2 approved with keys of their own" in gate.message


async def test_limits_hold_for_plans_too(world: World):
    """What is never done is not even tried."""
    foreign = scale("demo", "web", 4)
    foreign.target.cluster = "production"
    found = [
        await world.refusal(b"\xff"),
        await world.refusal(scale("demo", "web", -1)),
        await world.refusal(scale("", "web", 4)),
        await world.refusal(foreign),
        await world.refusal(scale("payments", "ledger", 4)),
        await world.refusal(cordon("n-1")),
        await world.refusal(scale("demo", "web", 11)),
    ]
    assert found == [
        "PAYLOAD_INVALID",
        "PAYLOAD_INVALID",
        "PAYLOAD_INVALID",
        "AUDIENCE_MISMATCH",
        "NAMESPACE_NOT_ALLOWED",
        "ACTION_NOT_ENABLED",
        "BOUNDS_EXCEEDED",
    ]
    assert world.cluster.calls == []


async def test_clusters_no_is_told(world: World):
    """Gone, changed, refused, away: each under its own reason."""
    world.cluster.faults["dry_run"] = [
        ClusterRefused(422, "Invalid", ("spec.replicas",), "a"),
        ClusterUnreachable("ConnectError"),
        ForbiddenRequest("PATCH /"),
    ]
    found = [await world.refusal(scale("demo", "web", 4)) for _ in range(3)]
    found.append(await world.refusal(scale("demo", "gone", 4)))
    found.append(await world.refusal(scale("demo", "web", 4, uid="d-0")))
    assert found == [
        "CLUSTER_REFUSED",
        "CLUSTER_UNAVAILABLE",
        "CLUSTER_REFUSED",
        "TARGET_GONE",
        "TARGET_CHANGED",
    ]
