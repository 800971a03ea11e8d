"""Planning: what is read, tried and told, and the spec that comes out of it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.clusters import (
    FakeCluster,
    autoscaler,
    budget,
    conflict,
    deployment,
    node,
    pod,
    replica_set,
)
from tests.factories import cordon, restart, restart_rollout, rollback, scale

from aegis import dsse
from aegis.errors import Aborted, AegisError
from aegis.v1.envelope_pb2 import ActionSpec
from aegis_executor.catalogue import of_spec
from aegis_executor.catalogue.base import Kind, Standing
from aegis_executor.differences import Difference
from aegis_executor.kubernetes import ClusterRefused, ClusterSilent, ClusterUnreachable
from aegis_executor.planning import Planned, Planner, filled
from aegis_executor.reading import see

HISTORY = [replica_set(9, "web:2"), replica_set(10, "web:3")]


def world() -> FakeCluster:
    """A deployment with two pods, its history, and a node."""
    cluster = FakeCluster(
        (Kind.DEPLOYMENT, deployment()),
        (Kind.POD, pod()),
        (Kind.POD, pod("web-2")),
        (Kind.NODE, node()),
    )
    cluster.others["replica_sets"] = list(HISTORY)
    cluster.others["budgets"] = [budget()]
    return cluster


async def plan(cluster: FakeCluster, spec: ActionSpec, **told: Any) -> Planned:
    return await Planner(cluster).plan(of_spec(spec), **told)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (restart("demo", "web-1"), "pod"),
        (
            restart_rollout("demo", "web"),
            'spec.template.metadata.annotations["aegis.dev/restarted-by"]',
        ),
        (scale("demo", "web", 4), "spec.replicas"),
        (rollback("demo", "web"), "spec.template.spec.containers[0].image"),
        (cordon("n-1"), "spec.unschedulable"),
    ],
    ids=["restart", "rollout", "scale", "rollback", "cordon"],
)
async def test_plan_tells_what_would_change_and_changes_nothing(spec: ActionSpec, path: str):
    """As the cluster itself says, with its warnings."""
    cluster = world()
    planned = await plan(cluster, spec)
    assert [one.path for one in planned.differences] == [path]
    assert planned.warnings == ["careful"]
    assert all(gate.passed for gate in planned.gates)
    assert cluster.sent == []


@pytest.mark.parametrize(
    "spec", [restart("demo", "web-1"), restart_rollout("demo", "web"), rollback("demo", "web")]
)
async def test_digest_is_the_same_for_plan_and_action(spec: ActionSpec):
    """The plan knows no action id yet; what is approved must be what is done."""
    planned = await plan(world(), spec)
    done = await plan(world(), spec, action_id="a-7", standing=Standing(approved=True))
    assert planned.diff_sha256 == done.diff_sha256


async def test_spec_is_filled_with_what_was_seen():
    """Serialised once: its bytes are what everybody approves."""
    spec = scale("demo", "web", 4)
    planned = await plan(world(), spec)
    payload = filled(spec, planned)
    told = ActionSpec.FromString(payload)
    assert told.target.uid == "d-1"
    assert told.preconditions.generation == 4
    assert told.preconditions.diff_sha256 == planned.diff_sha256
    assert told.scale_deployment.replicas == 4
    assert not spec.HasField("preconditions")
    assert len(dsse.action_digest(payload)) == 32


async def test_plan_shows_every_gate_that_does_not_pass():
    """Who asks wants to know all of it, not the first."""
    cluster = world()
    cluster.objects[Kind.DEPLOYMENT, "web"]["spec"]["paused"] = True
    cluster.others["autoscalers"] = [autoscaler()]
    planned = await plan(cluster, scale("demo", "web", 9))
    reasons = [gate.reason for gate in planned.gates if not gate.passed]
    assert reasons == ["TARGET_UNSETTLED", "HPA_OWNED", "BOUNDS_EXCEEDED"]
    assert planned.differences == [Difference("spec.replicas", "3", "9")]


async def test_nothing_to_change_is_planned_as_nothing():
    """And not tried."""
    cluster = world()
    planned = await plan(cluster, scale("demo", "web", 3))
    assert (planned.change, planned.differences) == (None, [])
    assert "dry_run" not in cluster.calls


async def test_version_that_moves_meanwhile_is_read_again():
    """A status update between reading and trying is nobody's will."""
    cluster = world()
    cluster.before["dry_run"] = lambda: cluster.touch(Kind.DEPLOYMENT, "web")
    assert (await plan(cluster, scale("demo", "web", 4))).differences
    assert cluster.calls.count("dry_run") == 2


async def test_version_that_never_stands_still_is_given_up():
    """Bounded, like everything."""
    cluster = world()
    cluster.faults["dry_run"] = [conflict()] * 5
    with pytest.raises(AegisError) as caught:
        await plan(cluster, scale("demo", "web", 4))
    assert caught.value.reason == "TARGET_CHANGED"
    assert cluster.calls.count("dry_run") == 5


async def test_conflict_over_a_pod_is_not_tried_again():
    """There it means that the pod is another one."""
    cluster = world()
    cluster.faults["dry_run"] = [conflict()]
    with pytest.raises(ClusterRefused):
        await plan(cluster, restart("demo", "web-1"))
    assert cluster.calls.count("dry_run") == 1


@pytest.mark.parametrize("call", ["deployment", "dry_run"])
async def test_silence_while_planning_is_no_doubt(call: str):
    """Nothing was sent that could have taken effect."""
    cluster = world()
    cluster.faults[call] = [ClusterSilent("504")]
    with pytest.raises(ClusterUnreachable):
        await plan(cluster, scale("demo", "web", 4))


async def test_check_comes_before_the_trial():
    """What it raises is the end of the plan."""
    cluster = world()

    def refuse(draft: object) -> None:
        raise AegisError("TARGET_VETOED", "no")

    with pytest.raises(AegisError):
        await plan(cluster, scale("demo", "web", 4), check=refuse)
    assert "dry_run" not in cluster.calls


async def test_pods_deployment_is_found_by_way_of_its_replica_set():
    """By uid at each step: names and labels are anybody's."""
    cluster = world()
    seen = await see(cluster, of_spec(restart("demo", "web-1")))
    assert seen.owner is not None
    assert seen.owner["metadata"]["name"] == "web"
    assert [each["metadata"]["name"] for each in seen.pods] == ["web-1", "web-2"]
    assert seen.budgets == [budget()]


async def test_pod_of_a_lone_replica_set_has_no_deployment():
    """Nobody is above the ReplicaSet, so nothing is missing."""
    cluster = world()
    lone = replica_set(10, "web:3")
    lone["metadata"]["ownerReferences"] = []
    cluster.others["replica_sets"] = [lone]
    assert (await see(cluster, of_spec(restart("demo", "web-1")))).owner is None


async def test_owner_that_is_not_found_is_missing_input():
    """What it may have against the restart was not read."""
    cluster = world()
    for found in ([replica_set(10, "web:3", owner="d-of-another")], []):
        cluster.others["replica_sets"] = found
        with pytest.raises(Aborted) as caught:
            await see(cluster, of_spec(restart("demo", "web-1")))
        assert caught.value.reason == "TARGET_CHANGED"


async def test_pod_without_labels_is_like_no_other():
    """Nothing narrows the list, so no list is asked for."""
    cluster = world()
    lonely = pod("web-9", kind="StatefulSet", metadata={"labels": {}})
    cluster.objects[Kind.POD, "web-9"] = lonely
    assert (await see(cluster, of_spec(restart("demo", "web-9")))).pods == [lonely]
    assert "pods" not in cluster.calls


async def test_remedy_reads_no_more_than_it_needs():
    """Every read is a right that somebody has to grant."""
    cluster = world()
    await see(cluster, of_spec(restart_rollout("demo", "web")))
    assert cluster.calls == ["deployment"]
