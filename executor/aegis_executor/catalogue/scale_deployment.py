"""Scaling: an absolute number, so that doing it twice is doing it once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

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
    found,
    is_done,
    place_of,
    replicas_of,
    trace_of,
)


@dataclass(frozen=True, slots=True)
class ScaleDeployment:
    """Run exactly this many replicas."""

    place: Place
    replicas: int

    verb: ClassVar[str] = "scale_deployment"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.AUTOSCALERS})
    gates: ClassVar[tuple[Check, ...]] = (
        gates.protected,
        gates.vetoed,
        gates.settled,
        gates.gitops,
        gates.autoscaled,
        gates.step,
    )

    @classmethod
    def of_spec(cls, spec: envelope_pb2.ActionSpec) -> ScaleDeployment:
        """Returns what a validated spec asks for."""
        return cls(place_of(spec, Kind.DEPLOYMENT), spec.scale_deployment.replicas)

    def plan(self, seen: Seen, action_id: str) -> Change | None:
        """Returns the new number, or None when it is that already; raises as `Remedy.plan`."""
        deployment = found(self.place, seen.live)
        before = replicas_of(deployment)
        if before == self.replicas:
            return None
        body = {"spec": {"replicas": self.replicas}}
        observations = {"replicas_before": str(before), "replicas_after": str(self.replicas)}
        return change_of("scale", self.place, deployment, body, observations)

    def recognise(self, sent: Sent, live: Object | None, action_id: str) -> Trace:
        """By the number: the scale subresource takes no mark."""
        applied = live is not None and replicas_of(live) == self.replicas
        return trace_of(sent, live, applied=applied)

    def undo(self, observations: Mapping[str, str]) -> ScaleDeployment | None:
        """Returns the number before; from none at all there is no way back to none."""
        before = int(observations.get("replicas_before", "0"))
        if before == 0:
            return None
        return ScaleDeployment(replace(self.place, uid=observations["uid"]), before)

    def settled(self, seen: Seen) -> bool:
        """True once all of them are available."""
        return seen.live is not None and is_done(seen.live)
