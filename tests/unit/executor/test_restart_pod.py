"""restart_pod: an eviction of the very pod, recognised by its uid."""

from __future__ import annotations

from typing import Any

import pytest
from tests.clusters import deployment, pod
from tests.factories import restart

from aegis.errors import AegisError
from aegis_executor.catalogue import of_spec
from aegis_executor.catalogue.base import Kind, Place, Seen, Sent, Trace
from aegis_executor.catalogue.restart_pod import RestartPod

PLACE = Place(Kind.POD, "demo", "web-1")
RESTART = RestartPod(PLACE, grace_seconds=5)
SENT = Sent("uid-of-web-1", "7", 0)


def refusal(remedy: RestartPod, live: Any) -> str:
    with pytest.raises(AegisError) as caught:
        remedy.plan(Seen(live), "a-1")
    return caught.value.reason


def test_spec_is_read():
    """Its grace, which may be unset, and the executor's own setting."""
    assert of_spec(restart("demo", "web-1", grace=5)) == RESTART
    wanted = RestartPod(PLACE, None, delete_unready=True)
    assert of_spec(restart("demo", "web-1"), delete_unready=True) == wanted


def test_eviction_is_pinned_to_the_uid():
    """What is sent can only ever reach the pod that was read."""
    change = RESTART.plan(Seen(pod(), owner=deployment()), "a-1")
    assert change is not None
    assert (change.verb, change.place.uid, change.body) == ("evict", "uid-of-web-1", 5)
    assert change.observations["owner"] == "ReplicaSet/web-hash10"
    assert change.observations["deployment"] == "web"


@pytest.mark.refuses("TARGET_GONE", step=14)
def test_pod_that_is_gone_is_refused():
    """Nothing there, or already on its way out, is TARGET_GONE."""
    assert refusal(RESTART, None) == "TARGET_GONE"
    assert refusal(RESTART, pod(metadata={"deletionTimestamp": "now"})) == "TARGET_GONE"


def test_pod_with_another_uid_is_refused():
    """A name is not an identity: the replacement is somebody else."""
    meant = RestartPod(Place(Kind.POD, "demo", "web-1", "uid-of-another"))
    assert refusal(meant, pod()) == "TARGET_CHANGED"


@pytest.mark.parametrize("kind", ["Job", "Node", None])
def test_pod_that_nothing_replaces_is_not_restarted(kind: str | None):
    """Evicting a bare pod would delete it for good; a Job would lose its work."""
    assert refusal(RESTART, pod(kind=kind)) == "CLUSTER_REFUSED"


@pytest.mark.parametrize(
    ("setting", "ready", "verb"),
    [(False, False, "evict"), (True, True, "evict"), (True, False, "delete")],
)
def test_only_an_unready_pod_is_deleted_and_only_where_the_setting_says_so(
    setting: bool, ready: bool, verb: str
):
    """A deletion asks no disruption budget."""
    change = RestartPod(PLACE, delete_unready=setting).plan(Seen(pod(ready=ready)), "a-1")
    assert change is not None
    assert change.verb == verb


@pytest.mark.parametrize(
    ("live", "trace"),
    [
        (None, Trace.APPLIED),
        (pod(metadata={"uid": "uid-of-another"}), Trace.APPLIED),
        (pod(metadata={"deletionTimestamp": "now"}), Trace.APPLIED),
        (pod(), Trace.OPEN),
    ],
)
def test_restart_is_recognised_by_the_pods_uid(live: Any, trace: Trace):
    """The very pod is gone or going, or it was not evicted yet."""
    assert RESTART.recognise(SENT, live, "a-1") is trace


def test_nothing_takes_a_restart_back():
    """A pod that is gone does not come back."""
    assert RESTART.undo({"uid": "uid-of-web-1"}) is None


def test_restart_has_settled_once_as_many_others_are_ready():
    """The old one does not count, and neither do those that leave."""
    meant = RestartPod(Place(Kind.POD, "demo", "web-1", "uid-of-web-1"))
    two = deployment(2)
    leaving = pod("web-4", metadata={"deletionTimestamp": "now"})
    assert not meant.settled(Seen(pod(), pods=[pod(), pod("web-2")], owner=two))
    assert not meant.settled(Seen(None, pods=[leaving, pod("web-2")], owner=two))
    assert not meant.settled(Seen(None, pods=[pod("web-3", ready=False), pod("web-2")], owner=two))
    assert meant.settled(Seen(None, pods=[pod("web-3"), pod("web-2")], owner=two))


def test_restart_without_a_deployment_has_settled_once_its_like_are_ready():
    """As for a StatefulSet, whose pods alone are seen."""
    assert not RESTART.settled(Seen(None))
    assert not RESTART.settled(Seen(None, pods=[pod("web-2"), pod("web-3", ready=False)]))
    assert RESTART.settled(Seen(None, pods=[pod("web-2"), pod("web-3")]))
