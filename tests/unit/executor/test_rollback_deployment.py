"""rollback_deployment: an earlier template comes back as it was, under the action's mark."""

from __future__ import annotations

from typing import Any

import pytest
from tests.clusters import deployment, patched, replica_set, template
from tests.factories import rollback

from aegis.errors import AegisError
from aegis_executor.catalogue import of_spec
from aegis_executor.catalogue.base import ACTION_ID, Kind, Place, Seen, Sent, Trace
from aegis_executor.catalogue.rollback_deployment import RollbackDeployment

PLACE = Place(Kind.DEPLOYMENT, "demo", "web")
HISTORY = [replica_set(9, "web:2"), replica_set(10, "web:3"), replica_set(2, "web:1")]
ROLLBACK = RollbackDeployment(PLACE)
SENT = Sent("d-1", "20", 4)


def planned(remedy: RollbackDeployment, live: Any = None, history: Any = HISTORY) -> Any:
    return remedy.plan(Seen(live or deployment(), replica_sets=history), "a-1")


def refusal(*arguments: Any) -> str:
    with pytest.raises(AegisError) as caught:
        planned(*arguments)
    return caught.value.reason


def test_spec_is_read():
    """The hash, or none."""
    assert of_spec(rollback("demo", "web")) == ROLLBACK
    assert of_spec(rollback("demo", "web", "hash2")) == RollbackDeployment(PLACE, "hash2")


def test_rollback_goes_to_the_revision_before_the_current():
    """Revisions are numbers: 10 comes after 9, and the hash label does not travel."""
    change = planned(ROLLBACK)
    assert patched(change)["/spec/template"] == template("web:2")
    assert change.observations["pod_template_hash_before"] == "hash10"
    assert change.observations["pod_template_hash_after"] == "hash9"


def test_rollback_finds_its_target_by_hash():
    """Numbers move when a revision is used again; hashes stay."""
    values = patched(planned(RollbackDeployment(PLACE, "hash2")))
    assert values["/spec/template"]["spec"]["containers"][0]["image"] == "web:1"


def test_rollback_is_pinned_and_marked():
    """uid and version make a stale patch a conflict; the action id makes it recognisable."""
    change = planned(ROLLBACK)
    assert (change.place.uid, change.resource_version) == ("d-1", "20")
    assert patched(change)["/metadata/annotations"] == {ACTION_ID: "a-1"}


def test_rollback_keeps_other_annotations():
    """Only our own annotation is written where there are others."""
    live = deployment(metadata={"annotations": {"team": "web"}})
    assert patched(planned(ROLLBACK, live))["/metadata/annotations/aegis.dev~1action-id"] == "a-1"


def test_rollback_to_what_it_already_is_changes_nothing():
    """The template is compared as the cluster has it."""
    assert planned(RollbackDeployment(PLACE, "hash10")) is None


def test_rollback_waits_for_the_deployments_controller():
    """A template that has no ReplicaSet yet is the current one: the newest is the one before."""
    behind = deployment(status={"observedGeneration": 3})
    history = [replica_set(1, "web:1"), replica_set(2, "web:2")]
    assert refusal(ROLLBACK, behind, history) == "TARGET_CHANGED"
    assert planned(RollbackDeployment(PLACE, "hash2"), behind, history) is not None


def test_rollback_ignores_replica_sets_of_others():
    """The same labels do not make a ReplicaSet ours."""
    foreign = [replica_set(9, "other:1", owner="d-2"), replica_set(10, "web:3")]
    assert refusal(ROLLBACK, deployment(), foreign) == "CLUSTER_REFUSED"


def test_rollback_to_an_unknown_hash_is_refused():
    """A revision that was cleaned away is gone."""
    assert refusal(RollbackDeployment(PLACE, "hash77")) == "TARGET_GONE"


def test_rollback_is_recognised_by_the_action_id():
    """Our mark is on it, or somebody else's is."""
    ours = deployment(metadata={"annotations": {ACTION_ID: "a-1"}, "generation": 5})
    theirs = deployment(metadata={"annotations": {ACTION_ID: "a-0"}})
    assert ROLLBACK.recognise(SENT, ours, "a-1") is Trace.APPLIED
    assert ROLLBACK.recognise(SENT, theirs, "a-1") is Trace.OPEN
    assert ROLLBACK.recognise(SENT, None, "a-1") is Trace.HIDDEN


def test_rollback_is_taken_back_to_the_template_before():
    """By its hash, of the very object that was changed."""
    seen = {"uid": "d-1", "pod_template_hash_before": "hash10"}
    there = Place(Kind.DEPLOYMENT, "demo", "web", "d-1")
    assert ROLLBACK.undo(seen) == RollbackDeployment(there, "hash10")
    assert ROLLBACK.undo({"changed": "no"}) is None


def test_rollback_has_settled_when_everything_agrees():
    """And not while pods of the other template are left."""
    assert ROLLBACK.settled(Seen(deployment()))
    assert not ROLLBACK.settled(Seen(deployment(status={"replicas": 4})))
