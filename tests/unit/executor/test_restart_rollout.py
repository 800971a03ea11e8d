"""restart_rollout: the action's id in the pod template, so that a repeat is a no-op."""

from __future__ import annotations

from typing import Any

import pytest
from tests.clusters import deployment, patched, template
from tests.factories import restart_rollout

from aegis.errors import AegisError
from aegis_executor.catalogue import of_spec
from aegis_executor.catalogue.base import ACTION_ID, Kind, Place, Seen, Sent, Trace
from aegis_executor.catalogue.restart_rollout import RESTARTED_BY, RestartRollout

RESTART = RestartRollout(Place(Kind.DEPLOYMENT, "demo", "web"))
SENT = Sent("d-1", "20", 4)


def marked(action_id: str, **changes: Any) -> dict[str, Any]:
    live = deployment(**changes)
    live["spec"]["template"]["metadata"]["annotations"] = {RESTARTED_BY: action_id}
    return live


def test_spec_is_read():
    """There is nothing to say but which deployment."""
    assert of_spec(restart_rollout("demo", "web")) == RESTART


def test_template_gets_the_actions_mark():
    """Pinned to uid and version, with the mark on the object too."""
    change = RESTART.plan(Seen(deployment()), "a-1")
    values = patched(change)
    assert values["/spec/template/metadata/annotations"] == {RESTARTED_BY: "a-1"}
    assert (change.place.uid, change.resource_version) == ("d-1", "20")
    assert values["/metadata/annotations"] == {ACTION_ID: "a-1"}


def test_other_annotations_are_kept():
    """Only our own one is written where there are others."""
    values = patched(RESTART.plan(Seen(marked("a-0")), "a-1"))
    assert values["/spec/template/metadata/annotations/aegis.dev~1restarted-by"] == "a-1"


def test_template_without_metadata_gets_some():
    """It is legal to have none."""
    bare = {"spec": template()["spec"]}
    values = patched(RESTART.plan(Seen(deployment(template=bare)), "a-1"))
    assert values["/spec/template/metadata"] == {"annotations": {RESTARTED_BY: "a-1"}}


def test_repeat_changes_nothing():
    """A retry after a lost answer finds its own mark."""
    assert RESTART.plan(Seen(marked("a-1")), "a-1") is None


def test_deployment_that_is_gone_is_refused():
    """TARGET_GONE, as for every remedy."""
    with pytest.raises(AegisError) as caught:
        RESTART.plan(Seen(None), "a-1")
    assert caught.value.reason == "TARGET_GONE"


@pytest.mark.parametrize(
    ("live", "trace"),
    [
        (marked("a-1", metadata={"generation": 5, "resourceVersion": "21"}), Trace.APPLIED),
        (deployment(), Trace.OPEN),
        (deployment(metadata={"resourceVersion": "21"}), Trace.DEAD),
        (marked("a-2", metadata={"generation": 6}), Trace.HIDDEN),
        (None, Trace.HIDDEN),
    ],
)
def test_restart_is_recognised_by_its_mark(live: Any, trace: Trace):
    """Ours is there, or the pinned write can no longer land, or somebody wrote over it."""
    assert RESTART.recognise(SENT, live, "a-1") is trace


def test_nothing_takes_a_restart_back():
    """Pods that were replaced do not come back."""
    assert RESTART.undo({"uid": "d-1", "replicas": "3"}) is None


@pytest.mark.parametrize(
    ("live", "settled"),
    [
        (deployment(), True),
        (deployment(metadata={"generation": 5}), False),
        (deployment(status={"updatedReplicas": 1}), False),
        (deployment(status={"replicas": 4}), False),
        (deployment(status={"availableReplicas": 2}), False),
        (None, False),
    ],
    ids=["done", "not observed", "not updated", "one too many", "not available", "gone"],
)
def test_restart_has_settled_when_everything_agrees(live: Any, settled: bool):
    """Straight after the patch the old numbers stand: readiness alone says done too early."""
    assert RESTART.settled(Seen(live)) is settled
