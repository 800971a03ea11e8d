"""Restart of a whole deployment: its pod template gets a mark, so every pod is replaced.

The mark is the action's id, not the time: writing it a second time changes nothing, so a retry
after a lost answer is harmless.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    annotated,
    change_of,
    found,
    is_done,
    marked_patch,
    place_of,
    replicas_of,
    trace_of,
)

RESTARTED_BY = "aegis.dev/restarted-by"


@dataclass(frozen=True, slots=True)
class RestartRollout:
    """Replace every pod, by the deployment's own strategy."""

    place: Place

    verb: ClassVar[str] = "restart_rollout"
    needs: ClassVar[frozenset[Need]] = frozenset()
    gates: ClassVar[tuple[Check, ...]] = (
        gates.protected,
        gates.vetoed,
        gates.settled,
        gates.only_replica,
    )

    @classmethod
    def of_spec(cls, spec: envelope_pb2.ActionSpec) -> RestartRollout:
        """Returns what a validated spec asks for."""
        return cls(place_of(spec, Kind.DEPLOYMENT))

    def plan(self, seen: Seen, action_id: str) -> Change | None:
        """Returns the mark, or None when it is there; raises as `Remedy.plan`."""
        deployment = found(self.place, seen.live)
        if _marked_by(deployment) == action_id:
            return None
        metadata = deployment["spec"]["template"].get("metadata")
        if metadata is None:
            value = {"annotations": {RESTARTED_BY: action_id}}
            mark = {"op": "add", "path": "/spec/template/metadata", "value": value}
        else:
            mark = annotated("/spec/template/metadata", metadata, RESTARTED_BY, action_id)
        body = marked_patch(deployment, action_id, mark)
        observations = {"replicas": str(replicas_of(deployment))}
        return change_of("patch", self.place, deployment, body, observations)

    def recognise(self, sent: Sent, live: Object | None, action_id: str) -> Trace:
        """The template carries our mark, or it does not."""
        return trace_of(sent, live, applied=live is not None and _marked_by(live) == action_id)

    def undo(self, observations: Mapping[str, str]) -> None:
        """Pods that were replaced do not come back."""
        return

    def settled(self, seen: Seen) -> bool:
        """True once every pod is a new one and available."""
        return seen.live is not None and is_done(seen.live)


def _marked_by(deployment: Object) -> str:
    metadata = deployment["spec"]["template"].get("metadata") or {}
    return str((metadata.get("annotations") or {}).get(RESTARTED_BY, ""))
