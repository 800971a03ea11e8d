"""Restart of one pod: it is evicted, and its controller makes a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from aegis.errors import FailedPrecondition
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
    change_of,
    controller_of,
    found,
    is_done,
    is_going,
    is_true,
    place_of,
    replicas_of,
)

# Who makes a new pod when one is evicted. A Job would lose work, a bare pod would be gone.
_REPLACING = frozenset({"ReplicaSet", "StatefulSet", "DaemonSet"})


@dataclass(frozen=True, slots=True)
class RestartPod:
    """Evict this pod; no grace means the pod's own.

    `delete_unready` is the executor's setting that a pod which is not ready anyway is deleted: an
    eviction of it can be refused for ever by a budget that the pod itself breaks.
    """

    place: Place
    grace_seconds: int | None = None
    delete_unready: bool = False

    verb: ClassVar[str] = "restart_pod"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.OWNER, Need.PODS, Need.BUDGETS})
    gates: ClassVar[tuple[Check, ...]] = (
        gates.protected,
        gates.vetoed,
        gates.running,
        gates.budgets,
        gates.only_replica,
    )

    @classmethod
    def of_spec(cls, spec: envelope_pb2.ActionSpec) -> RestartPod:
        """Returns what a validated spec asks for."""
        asked = spec.restart_pod
        grace = asked.grace_seconds if asked.HasField("grace_seconds") else None
        return cls(place_of(spec, Kind.POD), grace)

    def plan(self, seen: Seen, action_id: str) -> Change | None:
        """Returns the eviction; raises as `Remedy.plan`."""
        pod = found(self.place, seen.live)
        controller = controller_of(pod)
        if controller.get("kind") not in _REPLACING:
            raise FailedPrecondition("CLUSTER_REFUSED", "nothing would replace this pod")
        observations = {"owner": f"{controller['kind']}/{controller['name']}"}
        if seen.owner is not None:
            observations["deployment"] = seen.owner["metadata"]["name"]
            observations["replicas"] = str(replicas_of(seen.owner))
        verb: Literal["delete", "evict"]
        verb = "delete" if self.delete_unready and not is_true(pod, "Ready") else "evict"
        return change_of(verb, self.place, pod, self.grace_seconds, observations)

    def recognise(self, sent: Sent, live: Object | None, action_id: str) -> Trace:
        """The very pod is gone or going, or it was not evicted yet."""
        if live is None or live["metadata"]["uid"] != sent.uid or is_going(live):
            return Trace.APPLIED
        return Trace.OPEN

    def undo(self, observations: Mapping[str, str]) -> None:
        """A pod that is gone does not come back."""
        return

    def settled(self, seen: Seen) -> bool:
        """True once as many others as are wanted are ready.

        `seen.pods` are those of its controller, `seen.owner` its deployment where it has one: both
        have to be found by what was seen before, for the pod itself is gone.
        """
        others = [
            pod
            for pod in seen.pods
            if pod["metadata"]["uid"] != self.place.uid and not is_going(pod)
        ]
        ready = sum(is_true(pod, "Ready") for pod in others)
        if seen.owner is not None:
            return is_done(seen.owner) and ready >= replicas_of(seen.owner)
        return 0 < ready == len(others)
