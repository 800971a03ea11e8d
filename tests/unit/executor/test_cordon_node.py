"""cordon_node and uncordon_node: each takes the other back, both are known by their mark."""

from __future__ import annotations

from typing import Any

import pytest
from tests.clusters import node, patched
from tests.factories import cordon, uncordon

from aegis.errors import AegisError
from aegis_executor.catalogue import of_spec
from aegis_executor.catalogue.base import ACTION_ID, Kind, Place, Seen, Sent, Trace
from aegis_executor.catalogue.cordon_node import CordonNode, UncordonNode

PLACE = Place(Kind.NODE, "", "n-1")
KNOWN = Place(Kind.NODE, "", "n-1", "node-1")
SENT = Sent("node-1", "5", 0)
OURS = {"annotations": {ACTION_ID: "a-1"}}


def test_specs_are_read():
    """There is nothing to say but which node."""
    assert of_spec(cordon("n-1")) == CordonNode(PLACE)
    assert of_spec(uncordon("n-1")) == UncordonNode(PLACE)


@pytest.mark.parametrize(
    ("remedy", "live", "value"),
    [
        (CordonNode(PLACE), node(), True),
        (CordonNode(PLACE), node(cordoned=False), True),
        (UncordonNode(PLACE), node(cordoned=True), False),
    ],
)
def test_node_is_patched_for_the_version_that_was_read(remedy: Any, live: Any, value: bool):
    """Pinned and marked as every other patch."""
    change = remedy.plan(Seen(live), "a-1")
    values = patched(change)
    assert values["/spec/unschedulable"] is value
    assert (change.place.uid, change.resource_version) == ("node-1", "5")
    assert values["/metadata/annotations"] == {ACTION_ID: "a-1"}
    assert change.observations["unschedulable_before"] == str(not value).lower()


@pytest.mark.parametrize(
    ("remedy", "live"),
    [(CordonNode(PLACE), node(cordoned=True)), (UncordonNode(PLACE), node())],
)
def test_node_that_is_so_already_is_left_alone(remedy: Any, live: Any):
    """The repeat is a no-op."""
    assert remedy.plan(Seen(live), "a-1") is None


@pytest.mark.parametrize("remedy", [CordonNode(PLACE), UncordonNode(PLACE)])
def test_node_that_is_gone_is_refused(remedy: Any):
    """TARGET_GONE, as for every remedy."""
    with pytest.raises(AegisError) as caught:
        remedy.plan(Seen(None), "a-1")
    assert caught.value.reason == "TARGET_GONE"


@pytest.mark.parametrize(
    ("live", "trace"),
    [
        (node(cordoned=True, resourceVersion="6", **OURS), Trace.APPLIED),
        (node(), Trace.OPEN),
        (node(resourceVersion="6"), Trace.DEAD),
        (node(cordoned=True, resourceVersion="6"), Trace.HIDDEN),
        (node(uid="node-2"), Trace.HIDDEN),
        (None, Trace.HIDDEN),
    ],
)
def test_cordon_is_recognised_by_its_mark(live: Any, trace: Trace):
    """Without it, a node that is cordoned all the same may be somebody else's work."""
    assert CordonNode(PLACE).recognise(SENT, live, "a-1") is trace


def test_uncordon_is_recognised_by_its_mark():
    """A heartbeat moves the version of a node that was never uncordoned."""
    remedy = UncordonNode(PLACE)
    assert remedy.recognise(SENT, node(**OURS), "a-1") is Trace.APPLIED
    moved = node(cordoned=True, resourceVersion="6")
    assert remedy.recognise(SENT, moved, "a-1") is Trace.DEAD


def test_each_takes_the_other_back():
    """Only where it was us who changed it."""
    cordoned = {"uid": "node-1", "unschedulable_before": "false"}
    assert CordonNode(PLACE).undo(cordoned) == UncordonNode(KNOWN)
    uncordoned = {"uid": "node-1", "unschedulable_before": "true"}
    assert UncordonNode(PLACE).undo(uncordoned) == CordonNode(KNOWN)
    assert CordonNode(PLACE).undo({"changed": "no"}) is None
    assert UncordonNode(PLACE).undo({"changed": "no"}) is None


def test_cordon_has_settled_at_once_and_uncordon_with_a_ready_node():
    """An ill node need not become well by being cordoned."""
    assert CordonNode(PLACE).settled(Seen(node(cordoned=True, ready=False)))
    assert not CordonNode(PLACE).settled(Seen(node()))
    assert UncordonNode(PLACE).settled(Seen(node()))
    assert not UncordonNode(PLACE).settled(Seen(node(ready=False)))
    assert not UncordonNode(PLACE).settled(Seen(node(cordoned=True)))
