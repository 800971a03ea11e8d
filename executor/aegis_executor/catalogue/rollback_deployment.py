"""Rollback: the pod template of an earlier ReplicaSet is put back.

Revisions are renumbered whenever one is used again, so the target is named by its
pod-template-hash. ReplicaSets are read untyped and go back as they were, fields of the future too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from aegis.errors import Aborted, FailedPrecondition, NotFound
from aegis.v1 import envelope_pb2
from aegis_executor.catalogue import gates
from aegis_executor.catalogue.base import (
    Change,
    Check,
    Kind,
    Need,
    Object,
    Place,
    Seen,
    Sent,
    Trace,
)
from aegis_executor.catalogue.objects import (
    HASH_LABEL,
    carries,
    change_of,
    controller_of,
    found,
    hash_of,
    is_done,
    is_observed,
    marked_patch,
    place_of,
    revision_of,
    trace_of,
)


@dataclass(frozen=True, slots=True)
class RollbackDeployment:
    """Put an earlier pod template back; no hash means the one before the current."""

    place: Place
    pod_template_hash: str = ""

    verb: ClassVar[str] = "rollback_deployment"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.REPLICA_SETS})
    gates: ClassVar[tuple[Check, ...]] = (
        gates.protected,
        gates.vetoed,
        # Not `settled`: a rollout that goes wrong is what a rollback is for.
        gates.running,
        gates.gitops,
    )

    @classmethod
    def of_spec(cls, spec: envelope_pb2.ActionSpec) -> RollbackDeployment:
        """Returns what a validated spec asks for."""
        return cls(place_of(spec, Kind.DEPLOYMENT), spec.rollback_deployment.pod_template_hash)

    def plan(self, seen: Seen, action_id: str) -> Change | None:
        """Returns the earlier template, or None when it is that already.

        Raises as `Remedy.plan`.
        """
        deployment = found(self.place, seen.live)
        if not self.pod_template_hash and not is_observed(deployment):
            # The current template has no ReplicaSet yet, so the newest would pass for it.
            raise Aborted("TARGET_CHANGED", "it is changing: which revision was before?")
        uid = deployment["metadata"]["uid"]
        owned = [rs for rs in seen.replica_sets if controller_of(rs).get("uid") == uid]
        owned.sort(key=revision_of)
        target = self._target(owned)
        template = _without_hash(target["spec"]["template"])
        if template == deployment["spec"]["template"]:
            return None
        put_back = {"op": "replace", "path": "/spec/template", "value": template}
        observations = {
            "pod_template_hash_before": hash_of(owned[-1]),
            "pod_template_hash_after": hash_of(target),
        }
        body = marked_patch(deployment, action_id, put_back)
        return change_of("patch", self.place, deployment, body, observations)

    def recognise(self, sent: Sent, live: Object | None, action_id: str) -> Trace:
        """Our mark is on it, or somebody else's is."""
        return trace_of(sent, live, applied=carries(live, action_id))

    def undo(self, observations: Mapping[str, str]) -> RollbackDeployment | None:
        """Returns the way to the template before."""
        before = observations.get("pod_template_hash_before", "")
        if not before:
            return None
        return RollbackDeployment(replace(self.place, uid=observations["uid"]), before)

    def settled(self, seen: Seen) -> bool:
        """True once every pod has that template and is available."""
        return seen.live is not None and is_done(seen.live)

    def _target(self, owned: Sequence[Object]) -> Object:
        if not self.pod_template_hash:
            if len(owned) < 2:
                raise FailedPrecondition("CLUSTER_REFUSED", "there is no earlier revision")
            return owned[-2]
        for replica_set in owned:
            if hash_of(replica_set) == self.pod_template_hash:
                return replica_set
        raise NotFound("TARGET_GONE", "no ReplicaSet of this deployment has that hash")


def _without_hash(template: Object) -> dict[str, Any]:
    metadata = dict(template.get("metadata", {}))
    labels = metadata.get("labels", {})
    metadata["labels"] = {name: value for name, value in labels.items() if name != HASH_LABEL}
    return {**template, "metadata": metadata}
