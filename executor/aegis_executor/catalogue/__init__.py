"""The closed catalogue of what the executor can do; one file a remedy, one line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from aegis.errors import InvalidArgument
from aegis.v1 import envelope_pb2
from aegis_executor.catalogue.base import Kind, Remedy
from aegis_executor.catalogue.cordon_node import CordonNode, UncordonNode
from aegis_executor.catalogue.restart_pod import RestartPod
from aegis_executor.catalogue.restart_rollout import RestartRollout
from aegis_executor.catalogue.rollback_deployment import RollbackDeployment
from aegis_executor.catalogue.scale_deployment import ScaleDeployment

REMEDIES: Mapping[str, type[Remedy]] = {
    RestartPod.verb: RestartPod,
    RestartRollout.verb: RestartRollout,
    ScaleDeployment.verb: ScaleDeployment,
    RollbackDeployment.verb: RollbackDeployment,
    CordonNode.verb: CordonNode,
    UncordonNode.verb: UncordonNode,
}


def of_spec(spec: envelope_pb2.ActionSpec, *, delete_unready: bool = False) -> Remedy:
    """Returns the remedy a (validated) spec asks for.

    `delete_unready` is the executor's setting, see `RestartPod`. Raises `InvalidArgument`
    (PAYLOAD_INVALID) for a namespace that is missing, or where there is none.
    """
    verb = spec.WhichOneof("action")
    if verb is None or verb not in REMEDIES:
        raise InvalidArgument("PAYLOAD_INVALID", "the spec names no action")
    remedy = REMEDIES[verb].of_spec(spec)
    namespaced = remedy.place.kind is not Kind.NODE
    if namespaced != bool(remedy.place.namespace):
        need = "needs a namespace" if namespaced else "has no namespace"
        raise InvalidArgument("PAYLOAD_INVALID", f"the target of {verb} {need}")
    if isinstance(remedy, RestartPod):
        return replace(remedy, delete_unready=delete_unready)
    return remedy
