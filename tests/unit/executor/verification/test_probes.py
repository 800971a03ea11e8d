"""Each probe by itself: what is good, what is not yet, what is harm, and when nobody can tell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.unit.executor.verification.objects import WEB, Scale, deployment, pod

from aegis_executor.catalogue.base import ACTION_ID, Seen
from aegis_executor.verification.judgement import Outcome
from aegis_executor.verification.probes.alert import alert
from aegis_executor.verification.probes.drift import Mark, drift, mark_of
from aegis_executor.verification.probes.health import health, restarts, restarts_of
from aegis_executor.verification.probes.metric import metric
from aegis_executor.verification.prometheus import Rule, Unanswered
from aegis_executor.verification.terms import AlertAsked, MetricAsked

CHANGED = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATER = CHANGED + timedelta(seconds=60)
STUCK = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
LABELS = {"alertname": "HighErrors", "namespace": "demo"}


def healthy(live: dict[str, Any], *pods: dict[str, Any]) -> Outcome:
    return health(Scale(WEB, 3), Seen(live, pods=pods), live).outcome


@pytest.mark.parametrize(
    ("live", "outcome"),
    [
        (deployment(), Outcome.GOOD),
        (deployment(available=2), Outcome.WAITING),
        (deployment(generation=6, observed=5), Outcome.WAITING),
        (deployment(updated=1), Outcome.WAITING),
        (deployment(available=2, conditions=[STUCK]), Outcome.FAILED),
    ],
    ids=["settled", "not available", "not seen by the controller", "rolling", "cannot finish"],
)
def test_object_health(live: dict[str, Any], outcome: Outcome):
    """Healthy but still under remediation is not healthy."""
    assert healthy(live, pod("a"), pod("b"), pod("c")) is outcome


def test_pod_that_is_not_ready_is_not_healthy():
    """Whatever the deployment's numbers still say."""
    found = health(Scale(WEB, 3), Seen(deployment(), pods=[pod("a", ready=False)]), deployment())
    assert (found.outcome, found.message) == (Outcome.WAITING, "1 of 1 pods not ready: a")


def test_pods_that_go_or_are_over_are_not_asked():
    """What is on its way out, or has ended, is not what serves."""
    going = pod("a", ready=False, deletionTimestamp="2026-05-01T12:00:00Z")
    over = pod("b", ready=False)
    over["status"]["phase"] = "Failed"
    assert healthy(deployment(), going, over, pod("c")) is Outcome.GOOD
    assert restarts_of([going, over, pod("c", restarts=2)]) == {"u-c": 2}


@pytest.mark.parametrize(
    ("now", "before", "outcome"),
    [
        ({"a": 4}, {"a": 4}, Outcome.GOOD),
        ({"a": 5}, {"a": 4}, Outcome.FAILED),
        ({"new": 1}, {"a": 4}, Outcome.FAILED),
        ({"new": 0}, {"a": 4}, Outcome.GOOD),
        ({"a": 7}, None, Outcome.GOOD),
    ],
    ids=["as many", "one more", "a new pod that crashed", "a new pod", "nobody counted"],
)
def test_restarts_must_not_rise(now: Any, before: Any, outcome: Outcome):
    """Old ones are forgiven; another one is harm."""
    assert restarts(now, before).outcome is outcome


def rule(**told: Any) -> Rule:
    given = {"name": "HighErrors", "labels": {}, "healthy": True, "evaluated_at": LATER}
    return Rule(**{**given, "active": (), **told})


def firing(**labels: str) -> Rule:
    return rule(active=({**LABELS, **labels},))


def asked(answer: Any, *, now: datetime = LATER, look_back: int = 0, **labels: str):
    wanted = AlertAsked({**LABELS, **labels}, timedelta(seconds=look_back))
    return alert(wanted, answer, changed_at=CHANGED, now=now)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ([rule()], Outcome.GOOD),
        ([firing(pod="web-1")], Outcome.WAITING),
        ([firing(namespace="shop")], Outcome.GOOD),
        ([rule(evaluated_at=CHANGED)], Outcome.UNASKED),
        ([rule(healthy=False)], Outcome.UNASKED),
        ([], Outcome.UNASKED),
        ([rule(labels={"namespace": "shop"})], Outcome.UNASKED),
        (Unanswered("down"), Outcome.UNASKED),
    ],
    ids=[
        "gone",
        "active",
        "another's alert",
        "not evaluated since",
        "rule is broken",
        "no such rule",
        "rule for something else",
        "nobody answers",
    ],
)
def test_alert_must_be_gone(answer: Any, outcome: Outcome):
    """Gone means evaluated since the change by a rule that works, and not active."""
    assert asked(answer).outcome is outcome


def test_alert_inside_its_look_back_may_be_about_the_past():
    """It is not yet gone, either way; until when it may be about the past is told."""
    inside = asked([firing()], look_back=600)
    after = asked([firing()], look_back=600, now=CHANGED + timedelta(seconds=600))
    assert inside.message == "still active, and may until 12:10:00"
    assert after.message == "still active"
    assert inside.outcome is after.outcome is Outcome.WAITING


@pytest.mark.parametrize(
    ("now", "before", "higher", "tolerance", "outcome"),
    [
        (0.2, 0.2, False, 0.0, Outcome.GOOD),
        (0.21, 0.2, False, 0.0, Outcome.FAILED),
        (0.22, 0.2, False, 0.1, Outcome.GOOD),
        (0.23, 0.2, False, 0.1, Outcome.FAILED),
        (0.1, 0.2, False, 0.0, Outcome.GOOD),
        (0.9, 0.99, True, 0.1, Outcome.GOOD),
        (0.8, 0.99, True, 0.1, Outcome.FAILED),
        (-11.0, -10.0, True, 0.1, Outcome.GOOD),
        (0.0, 0.0, False, 0.5, Outcome.GOOD),
        (Unanswered("down"), 0.2, False, 0.0, Outcome.UNASKED),
        (0.2, Unanswered("down"), False, 0.0, Outcome.UNASKED),
    ],
)
def test_metric_must_not_be_worse(
    now: Any, before: Any, higher: bool, tolerance: float, outcome: Outcome
):
    """In its direction, by at most its tolerance of what it was; unasked where one is missing."""
    assert metric(MetricAsked("q", higher, tolerance), now, before).outcome is outcome


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (deployment(), ""),
        (None, "it is gone"),
        (deployment(uid="u-new"), "it was replaced"),
        (deployment(generation=6), "generation 6, not 5"),
        (deployment(annotations={ACTION_ID: "a-9"}), "action a-9 was here"),
        (deployment(annotations={ACTION_ID: "a-1"}), ""),
        (deployment(annotations={ACTION_ID: "a-0"}), ""),
        (deployment(replicas=4), "its spec is another"),
    ],
    ids=["same", "gone", "replaced", "changed", "another action", "ours", "one before", "spec"],
)
def test_drift_is_what_somebody_else_did(now: Any, told: str):
    """By uid, generation, mark and spec; each says what it was."""
    wrote = Mark("u-web", 5, "a-1", mark_of(deployment()).spec_sha256)
    found = drift(mark_of(now), wrote, before_action_id="a-0")
    assert found.outcome is (Outcome.DRIFTED if told else Outcome.GOOD)
    assert told in found.message
    assert found.reason == ("TARGET_CHANGED" if told else "")


def test_node_drifts_by_its_cordon_only():
    """Controllers write into a node's spec all day long."""
    node = {"kind": "Node", "metadata": {"uid": "n"}, "spec": {"unschedulable": True}}
    tainted = {**node, "spec": {"unschedulable": True, "taints": [{"key": "x"}]}}
    assert mark_of(node) == mark_of(tainted)
    assert mark_of(node) != mark_of({**node, "spec": {}})


def test_object_nobody_recognised_does_not_drift():
    """Without a baseline there is nothing it could differ from."""
    assert drift(mark_of(None), Mark(action_id="a-1")).outcome is Outcome.GOOD
