"""The difference: every place, one canonical digest, and nothing secret shown."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.clusters import deployment, pod

from aegis_executor.catalogue.base import Change, Kind, Place, Seen
from aegis_executor.catalogue.restart_pod import RestartPod
from aegis_executor.catalogue.scale_deployment import ScaleDeployment
from aegis_executor.differences import Difference, differences, digest, shown, unmarked

WEB = Place(Kind.DEPLOYMENT, "demo", "web", "d-1")
PATCH = Change("patch", WEB, "20", 4, [])
KEY = bytes(32)


def between(before: Any, after: Any) -> list[Difference]:
    """What differs between two specs."""
    return differences({"spec": before}, PATCH, {"spec": after})


def container(**changes: Any) -> dict[str, Any]:
    return {"template": {"spec": {"containers": [{"name": "web", **changes}]}}}


def test_only_the_spec_counts():
    """Status and metadata move by themselves."""
    live, tried = deployment(), deployment(metadata={"generation": 5}, status={"replicas": 9})
    assert differences(live, PATCH, tried) == []


def test_every_place_is_named():
    """Down to single values, in the order of their paths."""
    found = between(
        {"a": 1, "list": [{"x": 1}, 2], "gone": "old", "odd/key.a": 1},
        {"a": 2, "list": [{"x": 1}, 3, None], "new": {"deep": True}, "odd/key.a": 2},
    )
    assert found == [
        Difference("spec.a", "1", "2"),
        Difference("spec.gone", '"old"', ""),
        Difference("spec.list[1]", "2", "3"),
        Difference("spec.list[2]", "", "null"),
        Difference("spec.new.deep", "", "true"),
        Difference('spec["odd/key.a"]', "1", "2"),
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"a": {}}),
        ({"a": {"b": 1}}, {"a": {}}),
        ({"a": {"b": 1}}, {}),
        ({"a": [1]}, {"a": []}),
        ({"a": None}, {}),
        ({"a": 1}, {"a": "1"}),
        ({"a": True}, {"a": 1}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": {"b": 1}}, {"a": [1]}),
    ],
    ids=str,
)
def test_what_is_not_the_same_has_another_digest(one: Any, other: Any):
    """Empty is not absent, null is not absent, a number is not a text."""
    nothing = digest(between(one, one))
    assert len({nothing, digest(between(one, other)), digest(between(other, one))}) == 3


def test_ways_to_two_ends_have_two_digests():
    """To take everything out is not to leave it empty."""
    before = {"volume": {"emptyDir": {"sizeLimit": "1Gi"}}}
    emptied, gone = {"volume": {"emptyDir": {}}}, {"volume": {}}
    assert digest(between(before, emptied)) != digest(between(before, gone))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(before=st.dictionaries(st.text(max_size=3), JSON), after=JSON)
def test_digest_tells_any_two_ends_apart(before: Any, after: Any):
    """From one start, two different ends never look the same."""
    after = {"x": after}
    told = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    assert (between(before, after) == []) is told


def test_digest_does_not_depend_on_the_order_of_keys():
    """JSON objects have none."""
    assert digest(between({"a": 1, "b": 1}, {"a": 2, "b": 2})) == digest(
        between({"b": 1, "a": 1}, {"b": 2, "a": 2})
    )


def test_scale_is_compared_with_the_scale_that_was_tried():
    """The API server answers with a Scale, not with a deployment."""
    live = deployment()
    change = ScaleDeployment(WEB, 5).plan(Seen(live), "a-1")
    found = differences(live, change, {"kind": "Scale", "spec": {"replicas": 5}})
    assert found == [Difference("spec.replicas", "3", "5")]


def test_restart_of_a_pod_differs_in_its_being_there():
    """And in how it goes: a deletion asks no budget."""
    live = pod(ready=False)
    place = Place(Kind.POD, "demo", "web-1")
    evicted = differences(live, RestartPod(place).plan(Seen(live), "a-1"), None)
    deleted = differences(live, RestartPod(place, delete_unready=True).plan(Seen(live), "a"), None)
    assert [one.path for one in evicted] == ["pod"]
    assert digest(evicted) != digest(deleted)


def test_nothing_to_change_is_no_difference():
    """Its digest is that of nothing."""
    assert differences(deployment(), None, None) == []


def test_own_mark_stands_for_itself():
    """The plan knows no action yet: both have the same digest, and another mark has not."""
    path = 'spec.template.metadata.annotations["aegis.dev/restarted-by"]'
    planned = unmarked([Difference(path, '"a-0"', '"planned"')], "planned")
    done = unmarked([Difference(path, '"a-0"', '"a-7"')], "a-7")
    foreign = unmarked([Difference(path, '"a-0"', '"a-8"')], "a-7")
    assert digest(planned) == digest(done) != digest(foreign)


@pytest.mark.parametrize(
    "changes",
    [
        {"env": [{"name": "DB", "value": "hunter2"}]},
        {"command": ["run", "--password=hunter2"]},
        {"args": ["hunter2"]},
        {"livenessProbe": {"exec": {"command": ["hunter2"]}}},
        {"readinessProbe": {"httpGet": {"httpHeaders": [{"name": "X", "value": "hunter2"}]}}},
        {"apiToken": "hunter2"},
        {"nested": {"dbPassword": {"value": "hunter2"}}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_may_be_secret_is_not_shown(changes: Any):
    """A change of it is, and two different ones have two digests."""
    before, after = container(), container(**changes)
    found = between(before, after)
    told = shown(found, KEY)
    assert told
    assert "hunter2" not in repr(told)
    other = json.loads(json.dumps(after).replace("hunter2", "hunter3"))
    assert digest(found) != digest(between(before, other))


def test_equal_secrets_look_equal_and_cannot_be_guessed():
    """The key is thrown away, so a digest of a guess proves nothing."""
    env = [{"name": "A", "value": "x"}, {"name": "B", "value": "x"}, {"name": "C", "value": "y"}]
    values = [one.after for one in shown(between({}, container(env=env)), KEY)]
    hidden = [value for value in values if "hidden" in value]
    assert hidden[0] == hidden[1] != hidden[2]
    again = shown(between({}, container(env=env)), b"another key")
    assert hidden[0] not in [one.after for one in again]


def test_harmless_values_are_shown():
    """An image, a name, a switch: what an approver has to see."""
    before, after = container(image="web:1"), container(image="web:2")
    (image,) = shown(between(before, after), KEY)
    assert (image.before, image.after) == ('"web:1"', '"web:2"')
    (switch,) = shown(between({}, {"automountServiceAccountToken": True}), KEY)
    assert switch.after == "true"


def test_endless_values_are_cut():
    """Only where they are shown."""
    (one,) = shown(between({}, {"text": "x" * 10_000}), KEY)
    assert len(one.after) < 600


def test_inputs_are_left_as_they_were():
    """Plain functions on plain values."""
    before, after = container(image="a"), container(image="b")
    kept = copy.deepcopy((before, after))
    shown(between(before, after), KEY)
    assert (before, after) == kept
