"""scale_deployment: an absolute number, recognised by that number."""

from __future__ import annotations

from typing import Any

import pytest
from tests.clusters import deployment
from tests.factories import scale

from aegis.errors import AegisError
from aegis_executor.catalogue import of_spec
from aegis_executor.catalogue.base import Kind, Place, Seen, Sent, Trace
from aegis_executor.catalogue.scale_deployment import ScaleDeployment

PLACE = Place(Kind.DEPLOYMENT, "demo", "web")
SCALE = ScaleDeployment(PLACE, 5)
SENT = Sent("d-1", "20", 4)


def test_spec_is_read():
    """The number that is wanted."""
    assert of_spec(scale("demo", "web", 5)) == SCALE


def test_number_is_set_for_the_version_that_was_read():
    """With the numbers before and after as evidence."""
    change = SCALE.plan(Seen(deployment()), "a-1")
    assert change is not None
    assert (change.verb, change.body) == ("scale", {"spec": {"replicas": 5}})
    assert (change.place.uid, change.resource_version, change.generation) == ("d-1", "20", 4)
    numbers = {"replicas_before": "3", "replicas_after": "5"}
    assert change.observations == {"uid": "d-1", **numbers}


def test_number_that_is_absent_is_one():
    """The API's default is not written down."""
    live = deployment()
    del live["spec"]["replicas"]
    assert ScaleDeployment(PLACE, 1).plan(Seen(live), "a-1") is None


def test_scale_to_what_it_already_is_changes_nothing():
    """An absolute number makes the repeat a no-op."""
    assert ScaleDeployment(PLACE, 3).plan(Seen(deployment()), "a-1") is None


def test_deployment_that_was_replaced_is_refused():
    """A name is not an identity."""
    meant = ScaleDeployment(Place(Kind.DEPLOYMENT, "demo", "web", "d-0"), 5)
    with pytest.raises(AegisError) as caught:
        meant.plan(Seen(deployment()), "a-1")
    assert caught.value.reason == "TARGET_CHANGED"


@pytest.mark.parametrize(
    ("live", "trace"),
    [
        (deployment(5), Trace.APPLIED),
        (deployment(), Trace.OPEN),
        (deployment(metadata={"resourceVersion": "21"}), Trace.DEAD),
        (deployment(metadata={"resourceVersion": "30", "generation": 6}), Trace.HIDDEN),
        (deployment(metadata={"uid": "d-2"}), Trace.HIDDEN),
        (None, Trace.HIDDEN),
    ],
)
def test_scale_is_recognised_by_number_and_version(live: Any, trace: Trace):
    """A moved version kills the pinned write; a moved spec may hide it."""
    assert SCALE.recognise(SENT, live, "a-1") is trace


def test_scale_is_taken_back_to_the_number_before():
    """Of the very object that was changed."""
    undo = SCALE.undo({"uid": "d-1", "replicas_before": "3", "replicas_after": "5"})
    assert undo == ScaleDeployment(Place(Kind.DEPLOYMENT, "demo", "web", "d-1"), 3)


@pytest.mark.parametrize("seen", [{}, {"uid": "d-1", "replicas_before": "0"}])
def test_scale_is_never_taken_back_to_nothing(seen: dict[str, str]):
    """Where nothing was changed, or nothing ran before."""
    assert SCALE.undo(seen) is None


def test_scale_has_settled_when_all_are_available():
    """Not before the controller has seen the number."""
    assert SCALE.settled(Seen(deployment(5)))
    assert not SCALE.settled(Seen(deployment(5, status={"availableReplicas": 3})))
    assert not SCALE.settled(Seen(deployment(5, metadata={"generation": 5})))
