"""Object gates: what speaks against a remedy, and what an approval or a broken glass opens."""

from __future__ import annotations

from typing import Any

import pytest
from tests.clusters import autoscaler, budget, deployment, node, pod

from aegis.errors import FailedPrecondition, PermissionDenied
from aegis_executor.catalogue import gates
from aegis_executor.catalogue.base import Gate, Kind, Place, Remedy, Seen, Standing
from aegis_executor.catalogue.cordon_node import CordonNode
from aegis_executor.catalogue.restart_pod import RestartPod
from aegis_executor.catalogue.restart_rollout import RestartRollout
from aegis_executor.catalogue.rollback_deployment import RollbackDeployment
from aegis_executor.catalogue.scale_deployment import ScaleDeployment

WEB = Place(Kind.DEPLOYMENT, "demo", "web")
RESTART = RestartPod(Place(Kind.POD, "demo", "web-1"))
ROLLOUT = RestartRollout(WEB)
SCALE = ScaleDeployment(WEB, 4)
ROLLBACK = RollbackDeployment(WEB)
NOBODY = Standing()
APPROVED = Standing(approved=True)
GLASS = Standing(break_glass=True)
BOTH = Standing(approved=True, break_glass=True)
UNREADY = pod(ready=False)


def held(remedy: Remedy, seen: Seen, standing: Standing = NOBODY) -> list[str]:
    """The reasons of the gates that do not pass."""
    return [gate.reason for gate in gates.of(remedy, seen, standing) if not gate.passed]


def marked(**metadata: Any) -> dict[str, Any]:
    return deployment(metadata=metadata)


def stuck(**status: Any) -> dict[str, Any]:
    condition = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    return deployment(status={"conditions": [condition], **status})


@pytest.mark.parametrize(
    ("remedy", "live"),
    [
        (RESTART, pod()),
        (ROLLOUT, deployment()),
        (SCALE, deployment()),
        (ROLLBACK, deployment()),
        (CordonNode(Place(Kind.NODE, "", "n-1")), node()),
    ],
    ids=lambda value: getattr(value, "verb", ""),
)
def test_nothing_speaks_against_a_healthy_object(remedy: Remedy, live: Any):
    """And every gate still says what it compared."""
    owner = deployment() if remedy is RESTART else None
    found = gates.of(remedy, Seen(live, owner=owner), NOBODY)
    assert all(gate.passed and gate.message and not gate.reason for gate in found)


@pytest.mark.parametrize("standing", [NOBODY, APPROVED, GLASS, BOTH], ids=str)
@pytest.mark.parametrize("remedy", [ROLLOUT, SCALE, ROLLBACK], ids=lambda remedy: remedy.verb)
@pytest.mark.refuses("TARGET_PROTECTED", step=14)
def test_protected_object_is_refused_whoever_asks(remedy: Remedy, standing: Standing):
    """Neither approvals nor a broken glass touch what is protected."""
    seen = Seen(marked(labels={"aegis.dev/protected": "true"}))
    assert held(remedy, seen, standing) == ["TARGET_PROTECTED"]


@pytest.mark.parametrize("namespace", sorted(gates.PROTECTED_NAMESPACES))
@pytest.mark.refuses("TARGET_PROTECTED", step=14)
def test_protected_namespace_is_refused(namespace: str):
    """What the cluster and Aegis themselves stand on."""
    remedy = ScaleDeployment(Place(Kind.DEPLOYMENT, namespace, "web"), 4)
    assert held(remedy, Seen(deployment()), BOTH) == ["TARGET_PROTECTED"]


@pytest.mark.parametrize("standing", [NOBODY, APPROVED, GLASS, BOTH], ids=str)
@pytest.mark.refuses("TARGET_VETOED", step=14)
def test_vetoed_object_is_refused_whoever_asks(standing: Standing):
    """Somebody who knows the object said no."""
    seen = Seen(marked(annotations={"aegis.dev/do-not-remediate": "until Monday"}))
    assert held(SCALE, seen, standing) == ["TARGET_VETOED"]


def test_mark_that_was_taken_off_says_nothing():
    """`false` is how people switch a label off."""
    live = marked(
        labels={"aegis.dev/protected": "false"},
        annotations={"aegis.dev/do-not-remediate": "False"},
    )
    assert held(SCALE, Seen(live)) == []


def test_marks_of_a_deployment_protect_its_pods():
    """People mark what they wrote, and pods are not that."""
    veto = marked(annotations={"aegis.dev/do-not-remediate": ""})
    shield = marked(labels={"aegis.dev/protected": "yes"})
    assert held(RESTART, Seen(pod(), owner=veto)) == ["TARGET_VETOED"]
    assert held(RESTART, Seen(pod(), owner=shield)) == ["TARGET_PROTECTED"]


@pytest.mark.parametrize("remedy", [ROLLOUT, SCALE, ROLLBACK], ids=lambda remedy: remedy.verb)
@pytest.mark.parametrize(
    ("live", "state"),
    [
        (deployment(paused=True), "paused"),
        (marked(deletionTimestamp="now"), "deleting"),
    ],
    ids=["paused", "deleting"],
)
@pytest.mark.refuses("TARGET_UNSETTLED", step=14)
def test_stopped_deployment_is_refused(remedy: Remedy, live: Any, state: str):
    """The change would be accepted, and nothing would roll."""
    (gate,) = (g for g in gates.of(remedy, Seen(live), BOTH) if not g.passed)
    assert (gate.reason, gate.metadata) == ("TARGET_UNSETTLED", {"state": state})


def test_pod_of_a_deployment_that_leaves_is_refused():
    """Nothing would replace it."""
    seen = Seen(pod(), owner=marked(deletionTimestamp="now"))
    assert held(RESTART, seen) == ["TARGET_UNSETTLED"]


@pytest.mark.parametrize("remedy", [ROLLOUT, SCALE], ids=lambda remedy: remedy.verb)
@pytest.mark.parametrize(
    "live",
    [
        marked(generation=5),
        deployment(status={"updatedReplicas": 1}),
        deployment(status={"replicas": 4}),
    ],
    ids=["not observed", "old pods to replace", "old pods left"],
)
@pytest.mark.refuses("TARGET_UNSETTLED", step=14)
def test_deployment_in_the_middle_of_a_rollout_is_refused(remedy: Remedy, live: Any):
    """Two changes at once, and nobody knows which of them helped."""
    assert held(remedy, Seen(live)) == ["TARGET_UNSETTLED"]


def test_rollout_that_goes_wrong_can_be_rolled_back():
    """That is what a rollback is for."""
    assert held(ROLLBACK, Seen(deployment(status={"updatedReplicas": 1, "replicas": 4}))) == []


@pytest.mark.parametrize("remedy", [ROLLOUT, SCALE], ids=lambda remedy: remedy.verb)
def test_illness_and_a_rollout_that_gave_up_are_no_rollouts(remedy: Remedy):
    """Unavailable pods are what a remedy is for; a deadline that is over ends a rollout."""
    assert held(remedy, Seen(deployment(status={"availableReplicas": 0}))) == []
    assert held(remedy, Seen(stuck(updatedReplicas=1, replicas=4))) == []


@pytest.mark.parametrize(
    ("live", "owner"),
    [
        (marked(annotations={"argocd.argoproj.io/tracking-id": "shop:apps"}), "Argo CD"),
        (marked(labels={"argocd.argoproj.io/instance": "shop"}), "Argo CD"),
        (marked(managedFields=[{"manager": "argocd-controller"}]), "Argo CD"),
        (marked(labels={"kustomize.toolkit.fluxcd.io/name": "shop"}), "Flux"),
        (marked(labels={"helm.toolkit.fluxcd.io/name": "shop"}), "Flux"),
        (marked(managedFields=[{"manager": "kustomize-controller"}]), "Flux"),
    ],
)
@pytest.mark.parametrize("remedy", [SCALE, ROLLBACK], ids=lambda remedy: remedy.verb)
@pytest.mark.refuses("GITOPS_OWNED", step=14)
def test_object_of_a_gitops_controller_is_refused(remedy: Remedy, live: Any, owner: str):
    """It would be undone at once, and an approval does not change that; a broken glass may try."""
    for standing in (NOBODY, APPROVED):
        (gate,) = (g for g in gates.of(remedy, Seen(live), standing) if not g.passed)
        assert (gate.reason, gate.metadata) == ("GITOPS_OWNED", {"owner": owner})
    assert held(remedy, Seen(live), GLASS) == []


def test_restarts_do_not_mind_a_gitops_controller():
    """They change nothing that is kept in Git."""
    live = marked(labels={"kustomize.toolkit.fluxcd.io/name": "shop"})
    assert held(ROLLOUT, Seen(live)) == []
    assert held(RESTART, Seen(pod(), owner=live)) == []


@pytest.mark.parametrize(
    ("found", "owner"),
    [
        (autoscaler(), "HPA hpa-web"),
        (autoscaler(**{"scaledobject.keda.sh/name": "web"}), "ScaledObject web"),
    ],
)
@pytest.mark.refuses("HPA_OWNED", step=14)
def test_scale_under_an_autoscaler_is_refused(found: Any, owner: str):
    """It sets the number again; only a broken glass goes past it."""
    seen = Seen(deployment(), autoscalers=[autoscaler("other"), found])
    for standing in (NOBODY, APPROVED):
        (gate,) = (g for g in gates.of(SCALE, seen, standing) if not g.passed)
        assert (gate.reason, gate.metadata) == ("HPA_OWNED", {"owner": owner})
    assert held(SCALE, seen, GLASS) == []


def test_autoscaler_of_another_deployment_is_none_of_ours():
    """Or of another kind of the same name."""
    other = autoscaler()
    other["spec"]["scaleTargetRef"]["kind"] = "StatefulSet"
    assert held(SCALE, Seen(deployment(), autoscalers=[autoscaler("api"), other])) == []


@pytest.mark.parametrize(
    ("before", "after", "good"),
    [(4, 6, True), (4, 7, False), (4, 2, True), (4, 1, False), (1, 2, True), (1, 3, False)],
)
def test_scale_by_more_than_half_needs_a_person(before: int, after: int, good: bool):
    """At least one more or less is always allowed."""
    remedy, seen = ScaleDeployment(WEB, after), Seen(deployment(before))
    assert held(remedy, seen) == ([] if good else ["BOUNDS_EXCEEDED"])
    assert held(remedy, seen, APPROVED) == held(remedy, seen, GLASS) == []


@pytest.mark.parametrize("standing", [NOBODY, APPROVED, BOTH], ids=str)
@pytest.mark.refuses("BOUNDS_EXCEEDED", step=14)
def test_scale_to_nothing_is_refused_whoever_asks(standing: Standing):
    """Zero replicas are an outage, not a remedy."""
    remedy = ScaleDeployment(WEB, 0)
    assert held(remedy, Seen(deployment(1)), standing) == ["BOUNDS_EXCEEDED"]


@pytest.mark.refuses("SINGLE_REPLICA", step=14)
def test_restart_of_the_only_replica_needs_a_person():
    """Nothing would serve meanwhile."""
    one = Seen(pod(), owner=deployment(1))
    assert held(RESTART, one) == ["SINGLE_REPLICA"]
    assert held(ROLLOUT, Seen(deployment(1))) == ["SINGLE_REPLICA"]
    assert held(RESTART, one, APPROVED) == held(RESTART, one, GLASS) == []


def test_replicas_without_a_deployment_are_counted_by_their_controller():
    """As for a StatefulSet: pods of others, and those that leave, do not count."""
    foreign = pod("db-1", owner="rs-db")
    leaving = pod("web-3", metadata={"deletionTimestamp": "now"})
    assert held(RESTART, Seen(pod(), pods=[pod(), foreign, leaving])) == ["SINGLE_REPLICA"]
    assert held(RESTART, Seen(pod(), pods=[pod(), pod("web-2")])) == []


@pytest.mark.parametrize(
    ("live", "found", "good"),
    [
        (pod(), budget(1), True),
        (pod(), budget(0), False),
        (pod(), {**budget(1), "status": {}}, False),
        (pod(), budget(0, selector={"matchLabels": {"app": "api"}}), True),
        (pod(), budget(0, selector={}), False),
        (pod(), budget(0, selector=None), True),
        (UNREADY, budget(0), True),
        (UNREADY, budget(0, currentHealthy=1), False),
        (UNREADY, budget(0, currentHealthy=1, unhealthyPodEvictionPolicy="AlwaysAllow"), True),
        (pod(ready=False, phase="Pending"), budget(0, currentHealthy=1), True),
    ],
    ids=[
        "allows one",
        "allows none",
        "says nothing",
        "of others",
        "of everything",
        "of nothing",
        "holds without it",
        "is broken by it",
        "lets the ill go",
        "does not count it",
    ],
)
def test_disruption_budget_is_asked_before_the_eviction(live: Any, found: Any, good: bool):
    """As the API server would answer; and no approval makes it answer otherwise."""
    seen = Seen(live, budgets=[found], owner=deployment())
    for standing in (NOBODY, BOTH):
        assert held(RESTART, seen, standing) == ([] if good else ["PDB_EXHAUSTED"])


@pytest.mark.refuses("PDB_EXHAUSTED", step=14)
def test_overlapping_budgets_let_nothing_go():
    """The API server answers 500 to that."""
    seen = Seen(pod(), budgets=[budget(1), budget(1, name="all")], owner=deployment())
    (gate,) = (g for g in gates.of(RESTART, seen, NOBODY) if not g.passed)
    assert (gate.reason, gate.metadata) == ("PDB_EXHAUSTED", {"budget": "web, all"})


def test_pod_that_may_be_deleted_goes_past_budgets():
    """Where it is not ready, and the executor's setting says so."""
    seen = Seen(UNREADY, budgets=[budget(0, currentHealthy=1)], owner=deployment())
    assert held(RestartPod(RESTART.place, delete_unready=True), seen) == []
    well = Seen(pod(), budgets=[budget(0)], owner=deployment())
    assert held(RestartPod(RESTART.place, delete_unready=True), well) == ["PDB_EXHAUSTED"]


@pytest.mark.parametrize(
    ("rule", "taken"),
    [
        ({"key": "app", "operator": "In", "values": ["web", "api"]}, True),
        ({"key": "app", "operator": "NotIn", "values": ["web"]}, False),
        ({"key": "tier", "operator": "NotIn", "values": ["web"]}, True),
        ({"key": "app", "operator": "Exists"}, True),
        ({"key": "app", "operator": "DoesNotExist"}, False),
        ({"key": "app", "operator": "OfTheFuture"}, True),
    ],
    ids=str,
)
def test_budgets_expressions_are_read_as_kubernetes_reads_them(rule: Any, taken: bool):
    """What this program does not know counts against the remedy."""
    seen = Seen(
        pod(), budgets=[budget(0, selector={"matchExpressions": [rule]})], owner=deployment()
    )
    assert held(RESTART, seen) == (["PDB_EXHAUSTED"] if taken else [])


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"metadata": {"annotations": {gates.VETO: ""}}}, ["TARGET_VETOED"]),
        ({"metadata": {"labels": {gates.PROTECTED: "true"}}}, ["TARGET_PROTECTED"]),
        ({"paused": True}, ["TARGET_UNSETTLED"]),
        ({"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": "x"}}}, ["GITOPS_OWNED"]),
        ({"status": {"updatedReplicas": 1}}, []),
    ],
)
def test_taking_back_has_to_pass_the_gates_of_what_it_does(
    changes: dict[str, Any], refused: list[str]
):
    """As if a person had approved it; but that it rolls is our own doing."""
    undo = ScaleDeployment(WEB, 1)
    found = gates.of_undo(undo, Seen(deployment(**changes)))
    assert [gate.reason for gate in found if not gate.passed] == refused


def test_first_gate_that_does_not_pass_is_raised():
    """With its reason, its numbers, and the code its reason has everywhere."""
    gates.refuse([Gate("a", True)])
    with pytest.raises(FailedPrecondition) as caught:
        gates.refuse(gates.of(SCALE, Seen(deployment(paused=True)), NOBODY))
    assert (caught.value.reason, caught.value.metadata) == ("TARGET_UNSETTLED", {"state": "paused"})
    with pytest.raises(PermissionDenied) as bounds:
        gates.refuse(gates.of(ScaleDeployment(WEB, 9), Seen(deployment(4)), NOBODY))
    assert bounds.value.metadata == {"before": "4", "after": "9", "limit": "2"}
