"""Cordon and uncordon: whether new pods may come to a node. Each takes the other back."""

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
    carries,
    change_of,
    found,
    is_true,
    marked_patch,
    place_of,
    trace_of,
)

_GATES: tuple[Check, ...] = (gates.protected, gates.vetoed)


@dataclass(frozen=True, slots=True)
class CordonNode:
    """Keep new pods away from this node."""

    place: Place

    verb: ClassVar[str] = "cordon_node"
    needs: ClassVar[frozenset[Need]] = frozenset()
    gates: ClassVar[tuple[Check, ...]] = _GATES

    @classmethod
    def of_spec(cls, spec: envelope_pb2.ActionSpec) -> CordonNode:
        """Returns what a validated spec asks for."""
        return cls(place_of(spec, Kind.NODE))

    def plan(self, seen: Seen, action_id: str) -> Change | None:
        """Returns the patch, or None when it is cordoned; raises as `Remedy.plan`."""
        return _plan(self.place, seen, action_id, cordoned=True)

    def recognise(self, sent: Sent, live: Object | None, action_id: str) -> Trace:
        """By our mark."""
        return _recognise(sent, live, action_id, cordoned=True)

    def undo(self, observations: Mapping[str, str]) -> UncordonNode | None:
        """Returns the uncordoning, if it was us who cordoned."""
        if observations.get("unschedulable_before") != "false":
            return None
        return UncordonNode(replace(self.place, uid=observations["uid"]))

    def settled(self, seen: Seen) -> bool:
        """True while it is cordoned; an ill node need not become well by that."""
        return seen.live is not None and _is_cordoned(seen.live)


@dataclass(frozen=True, slots=True)
class UncordonNode:
    """Let pods onto this node again."""

    place: Place

    verb: ClassVar[str] = "uncordon_node"
    needs: ClassVar[frozenset[Need]] = frozenset()
    gates: ClassVar[tuple[Check, ...]] = _GATES

    @classmethod
    def of_spec(cls, spec: envelope_pb2.ActionSpec) -> UncordonNode:
        """Returns what a validated spec asks for."""
        return cls(place_of(spec, Kind.NODE))

    def plan(self, seen: Seen, action_id: str) -> Change | None:
        """Returns the patch, or None when it is not cordoned; raises as `Remedy.plan`."""
        return _plan(self.place, seen, action_id, cordoned=False)

    def recognise(self, sent: Sent, live: Object | None, action_id: str) -> Trace:
        """By our mark."""
        return _recognise(sent, live, action_id, cordoned=False)

    def undo(self, observations: Mapping[str, str]) -> CordonNode | None:
        """Returns the cordoning, if it was us who uncordoned."""
        if observations.get("unschedulable_before") != "true":
            return None
        return CordonNode(replace(self.place, uid=observations["uid"]))

    def settled(self, seen: Seen) -> bool:
        """True while it takes pods and is ready for them."""
        live = seen.live
        return live is not None and not _is_cordoned(live) and is_true(live, "Ready")


def _plan(place: Place, seen: Seen, action_id: str, *, cordoned: bool) -> Change | None:
    node = found(place, seen.live)
    before = _is_cordoned(node)
    if before == cordoned:
        return None
    set_it = {"op": "add", "path": "/spec/unschedulable", "value": cordoned}
    observations = {
        "unschedulable_before": str(before).lower(),
        "unschedulable_after": str(cordoned).lower(),
    }
    body = marked_patch(node, action_id, set_it)
    return change_of("patch", place, node, body, observations)


def _recognise(sent: Sent, live: Object | None, action_id: str, *, cordoned: bool) -> Trace:
    trace = trace_of(sent, live, applied=carries(live, action_id))
    # A node has no generation that would tell, and somebody may have done the same since.
    if trace is Trace.DEAD and live is not None and _is_cordoned(live) == cordoned:
        return Trace.HIDDEN
    return trace


def _is_cordoned(node: Object) -> bool:
    return bool(node["spec"].get("unschedulable", False))
