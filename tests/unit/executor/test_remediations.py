"""The catalogue: what each remediation sends, and how it is recognised afterwards."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from aegis.errors import AegisError
from aegis_executor.remediations import (
    ACTION_ID,
    RestartPod,
    RollbackDeployment,
    ScaleDeployment,
    Sent,
    Trace,
    plan,
    recognise,
)

POD: dict[str, Any] = {
    "metadata": {
        "name": "web-1",
        "uid": "pod-1",
        "resourceVersion": "7",
        "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": True}],
    },
    "spec": {},
}
SENT = Sent(uid="d-1", resource_version="20", generation=4)


def template(image: str, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"app": "web", **labels}},
        "spec": {"containers": [{"name": "web", "image": image, "fieldOfTheFuture": 1}]},
    }


def deployment(**changes: Any) -> dict[str, Any]:
    metadata = {"name": "web", "uid": "d-1", "resourceVersion": "20", "generation": 4}
    return {
        "metadata": metadata | changes.pop("metadata", {}),
        "status": {"observedGeneration": changes.pop("observed", 4)},
        "spec": {"replicas": 3, "template": template("web:3")} | changes,
    }


def replica_set(revision: int, image: str, owner: str = "d-1") -> dict[str, Any]:
    name_hash = f"hash{revision}"
    return {
        "metadata": {
            "name": f"web-{name_hash}",
            "labels": {"pod-template-hash": name_hash},
            "annotations": {"deployment.kubernetes.io/revision": str(revision)},
            "ownerReferences": [{"uid": owner, "controller": True}],
        },
        "spec": {"template": template(image, **{"pod-template-hash": name_hash})},
    }


HISTORY = [replica_set(9, "web:2"), replica_set(10, "web:3"), replica_set(2, "web:1")]
RESTART = RestartPod("demo", "web-1", "", None)
SCALE = ScaleDeployment("demo", "web", "", 5)
ROLLBACK = RollbackDeployment("demo", "web", "", "")


def refusal(wanted: Any, live: Any, replica_sets: Any = ()) -> str:
    with pytest.raises(AegisError) as caught:
        plan(wanted, live, replica_sets, "a-1")
    return caught.value.reason


def patched(change: Any) -> dict[str, Any]:
    return {operation["path"]: operation["value"] for operation in change.body}


@pytest.mark.parametrize("wanted", [RESTART, SCALE, ROLLBACK], ids=lambda w: type(w).__name__)
def test_object_that_is_gone_is_refused(wanted: Any):
    """Nothing there, or already on its way out, is TARGET_GONE."""
    assert refusal(wanted, None) == "TARGET_GONE"
    live = copy.deepcopy(POD)
    live["metadata"]["deletionTimestamp"] = "2026-05-01T12:00:00Z"
    assert refusal(wanted, live) == "TARGET_GONE"


def test_object_with_another_uid_is_refused():
    """A name is not an identity: the replacement is somebody else."""
    assert refusal(RestartPod("demo", "web-1", "pod-0", None), POD) == "TARGET_CHANGED"


@pytest.mark.parametrize("kind", ["Job", "Node", None])
def test_pod_that_nothing_replaces_is_not_restarted(kind: str | None):
    """Evicting a bare pod would delete it for good; a Job would lose its work."""
    live = copy.deepcopy(POD)
    live["metadata"]["ownerReferences"] = [{"kind": kind, "controller": True}] if kind else []
    assert refusal(RESTART, live) == "CLUSTER_REFUSED"


def test_scale_to_what_it_already_is_changes_nothing():
    """An absolute number makes the repeat a no-op."""
    assert plan(ScaleDeployment("demo", "web", "", 3), deployment(), (), "a-1") is None


def test_rollback_goes_to_the_revision_before_the_current():
    """Revisions are numbers: 10 comes after 9, and the hash label does not travel."""
    change = plan(ROLLBACK, deployment(), HISTORY, "a-1")
    assert patched(change)["/spec/template"] == template("web:2")


def test_rollback_finds_its_target_by_hash():
    """Numbers move when a revision is used again; hashes stay."""
    wanted = RollbackDeployment("demo", "web", "", "hash2")
    change = plan(wanted, deployment(), HISTORY, "a-1")
    assert patched(change)["/spec/template"]["spec"]["containers"][0]["image"] == "web:1"


def test_rollback_is_pinned_and_marked():
    """uid and version make a stale patch a conflict; the action id makes it recognisable."""
    values = patched(plan(ROLLBACK, deployment(), HISTORY, "a-1"))
    assert values["/metadata/uid"] == "d-1"
    assert values["/metadata/resourceVersion"] == "20"
    assert values["/metadata/annotations"] == {ACTION_ID: "a-1"}


def test_rollback_keeps_other_annotations():
    """Only our own annotation is written where there are others."""
    live = deployment(metadata={"annotations": {"team": "web"}})
    values = patched(plan(ROLLBACK, live, HISTORY, "a-1"))
    assert values["/metadata/annotations/aegis.dev~1action-id"] == "a-1"


def test_rollback_waits_for_the_deployments_controller():
    """A template that has no ReplicaSet yet is the current one: the newest is the one before."""
    replica_sets = [replica_set(1, "web:1"), replica_set(2, "web:2")]
    assert refusal(ROLLBACK, deployment(observed=3), replica_sets) == "TARGET_CHANGED"
    named = RollbackDeployment("demo", "web", "", "hash2")
    assert plan(named, deployment(observed=3), replica_sets, "a-1") is not None


def test_rollback_ignores_replica_sets_of_others():
    """The same labels do not make a ReplicaSet ours."""
    foreign = [replica_set(9, "other:1", owner="d-2"), replica_set(10, "web:3")]
    assert refusal(ROLLBACK, deployment(), foreign) == "CLUSTER_REFUSED"


def test_rollback_of_a_paused_deployment_is_refused():
    """It would be accepted, and nothing would roll."""
    assert refusal(ROLLBACK, deployment(paused=True), HISTORY) == "CLUSTER_REFUSED"


def test_rollback_to_an_unknown_hash_is_refused():
    """A revision that was cleaned away is gone."""
    wanted = RollbackDeployment("demo", "web", "", "hash77")
    assert refusal(wanted, deployment(), HISTORY) == "TARGET_GONE"


@pytest.mark.parametrize(
    ("live", "trace"),
    [
        (None, Trace.APPLIED),
        ({"metadata": {**POD["metadata"], "uid": "pod-2"}}, Trace.APPLIED),
        ({"metadata": {**POD["metadata"], "deletionTimestamp": "now"}}, Trace.APPLIED),
        (POD, Trace.OPEN),
    ],
)
def test_restart_is_recognised_by_the_pods_uid(live: Any, trace: Trace):
    """The very pod is gone or going, or it was not evicted yet."""
    assert recognise(RESTART, Sent("pod-1", "7", 0), live, "a-1") is trace


@pytest.mark.parametrize(
    ("live", "trace"),
    [
        (deployment(replicas=5), Trace.APPLIED),
        (deployment(), Trace.OPEN),
        (deployment(metadata={"resourceVersion": "21"}), Trace.DEAD),
        (deployment(metadata={"resourceVersion": "30", "generation": 6}), Trace.HIDDEN),
        (deployment(metadata={"uid": "d-2"}), Trace.HIDDEN),
        (None, Trace.HIDDEN),
    ],
)
def test_scale_is_recognised_by_number_and_version(live: Any, trace: Trace):
    """A moved version kills the pinned write; a moved spec may hide it."""
    assert recognise(SCALE, SENT, live, "a-1") is trace


def test_rollback_is_recognised_by_the_action_id():
    """Our mark is on it, or somebody else's is."""
    ours = deployment(metadata={"annotations": {ACTION_ID: "a-1"}, "generation": 5})
    theirs = deployment(metadata={"annotations": {ACTION_ID: "a-0"}})
    assert recognise(ROLLBACK, SENT, ours, "a-1") is Trace.APPLIED
    assert recognise(ROLLBACK, SENT, theirs, "a-1") is Trace.OPEN
