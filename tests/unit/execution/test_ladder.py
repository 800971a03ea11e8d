"""The ladder: what is proposed next, and when a person has to look."""

from __future__ import annotations

import pytest
from tests.factories import restart, rollback, scale

from aegis.v1.envelope_pb2 import ActionSpec
from aegis_server.execution.ladder import next_rung


def rollout(uid: str = "u-1") -> ActionSpec:
    return ActionSpec(
        target=ActionSpec.Target(cluster="sandbox", namespace="shop", name="web", uid=uid),
        restart_rollout=ActionSpec.RestartRollout(),
        incident_id="inc-1",
    )


def test_restart_that_did_not_help_is_followed_by_one_replica_more():
    """Of the same deployment, for the same incident, watched in the same way."""
    spec = rollout()
    spec.verification.successes = 3
    spec.preconditions.generation = 7
    following = next_rung(spec, {"replicas": "2"})
    assert following is not None
    assert following.scale_deployment.replicas == 3
    assert following.target == spec.target
    assert (following.incident_id, following.verification) == ("inc-1", spec.verification)
    assert not following.HasField("preconditions")


def test_pod_is_followed_by_its_deployment():
    """Which the executor saw; the pod's uid is not the deployment's."""
    following = next_rung(
        restart("shop", "web-1", uid="pod-uid"), {"deployment": "web", "replicas": "1"}
    )
    assert following is not None
    assert (following.target.name, following.target.uid) == ("web", "")
    assert following.scale_deployment.replicas == 2


@pytest.mark.parametrize(
    ("spec", "observations"),
    [
        (restart("shop", "web-1"), {"replicas": "1"}),
        (restart("shop", "web-1"), {"deployment": "web"}),
        (rollout(), {}),
        (rollout(), {"replicas": "many"}),
        (rollout(), {"replicas": "-1"}),
        (rollout(), {"replicas": "0"}),
        (rollout(), {"replicas": "10000"}),
    ],
)
def test_what_was_not_seen_is_not_guessed(spec: ActionSpec, observations: dict[str, str]):
    """A person looks."""
    assert next_rung(spec, observations) is None


def test_scale_is_followed_by_a_rollback_and_that_by_a_person():
    """To the template before the current one."""
    following = next_rung(scale("shop", "web", 3), {})
    assert following is not None
    assert following.rollback_deployment == ActionSpec.RollbackDeployment()
    assert next_rung(following, {}) is None
    assert next_rung(rollback("shop", "web"), {}) is None


def test_nodes_have_no_ladder():
    """Whoever takes one out of service looks at it."""
    target = ActionSpec.Target(cluster="sandbox", name="n1")
    assert next_rung(ActionSpec(target=target, cordon_node=ActionSpec.CordonNode()), {}) is None
