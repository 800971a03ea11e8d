"""What to try next when a remedy did not help: restart, one replica more, roll back, a person.

Only a proposal: whoever follows it signs a request of its own, for the same incident.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from aegis.v1 import envelope_pb2

_NUMBER = re.compile(r"[0-9]{1,5}")
_REPLICAS_MAX = 10_000


def next_rung(
    spec: envelope_pb2.ActionSpec, observations: Mapping[str, str]
) -> envelope_pb2.ActionSpec | None:
    """Returns the next remedy for the same trouble, or None when a person has to look.

    `observations` are what the executor saw: `deployment`, the name of the one a pod belongs to,
    and `replicas`, how many that wants. What was not seen is not guessed.
    """
    verb = spec.WhichOneof("action")
    if verb == "restart_pod":
        return _one_more(spec, observations.get("deployment", ""), "", observations)
    if verb == "restart_rollout":
        return _one_more(spec, spec.target.name, spec.target.uid, observations)
    if verb == "scale_deployment":
        back = _like(spec, spec.target.name, spec.target.uid)
        back.rollback_deployment.SetInParent()
        return back
    return None


def _one_more(
    spec: envelope_pb2.ActionSpec, deployment: str, uid: str, observations: Mapping[str, str]
) -> envelope_pb2.ActionSpec | None:
    seen = observations.get("replicas", "")
    if not deployment or _NUMBER.fullmatch(seen) is None or not 0 < int(seen) < _REPLICAS_MAX:
        return None
    more = _like(spec, deployment, uid)
    more.scale_deployment.replicas = int(seen) + 1
    return more


def _like(spec: envelope_pb2.ActionSpec, name: str, uid: str) -> envelope_pb2.ActionSpec:
    """Returns a spec for the same incident, watched in the same way, that nobody planned yet."""
    following = envelope_pb2.ActionSpec(
        target=envelope_pb2.ActionSpec.Target(
            cluster=spec.target.cluster, namespace=spec.target.namespace, name=name, uid=uid
        ),
        incident_id=spec.incident_id,
    )
    if spec.HasField("verification"):
        following.verification.CopyFrom(spec.verification)
    return following
