"""What every remedy is made of: where it acts, what was read, what is written, what is left of it.

Objects are plain JSON: typed models silently drop fields they do not know.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from aegis.v1 import envelope_pb2

Object: TypeAlias = Mapping[str, Any]

ACTION_ID = "aegis.dev/action-id"


class Kind(enum.Enum):
    """What an action's target is; the value is its name in Kubernetes and in policies."""

    POD = "pods"
    DEPLOYMENT = "deployments"
    NODE = "nodes"


@dataclass(frozen=True, slots=True)
class Place:
    """One object; no namespace for nodes, no uid where the request named none."""

    kind: Kind
    namespace: str
    name: str
    uid: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.namespace, self.kind.value, self.name) if part)


class Need(enum.Enum):
    """What a remedy has to see beside its object."""

    REPLICA_SETS = "replica_sets"
    PODS = "pods"
    BUDGETS = "budgets"
    AUTOSCALERS = "autoscalers"
    # The deployment a pod belongs to, by way of its ReplicaSet.
    OWNER = "owner"


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read from the cluster before planning; what was not needed is empty."""

    live: Object | None
    replica_sets: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    budgets: Sequence[Object] = ()
    autoscalers: Sequence[Object] = ()
    owner: Object | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One write, pinned to the very object and version that was read."""

    verb: Literal["evict", "delete", "scale", "patch"]
    place: Place
    resource_version: str
    generation: int
    body: Any
    observations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sent:
    """What is remembered of a change that was sent: enough to recognise it, and to take it back."""

    uid: str
    resource_version: str
    generation: int
    # As the change was planned.
    observations: Mapping[str, str] = field(default_factory=dict)


class Trace(enum.Enum):
    """What the live object tells about a change whose answer was lost."""

    APPLIED = "applied"
    # Not there, and its precondition no longer holds: it cannot take effect any more.
    DEAD = "dead"
    # Not there, but it might still be on its way.
    OPEN = "open"
    # The object moved on in a way that could hide it.
    HIDDEN = "hidden"


@dataclass(frozen=True, slots=True)
class Standing:
    """What was granted beyond the mere decision."""

    approved: bool = False
    break_glass: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """One check with the numbers it compared; `reason` is an ErrorReason name unless it passed."""

    name: str
    passed: bool
    reason: str = ""
    message: str = ""
    retry_at: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


class Remedy(Protocol):
    """One entry of the closed catalogue, as pure functions on what the cluster said."""

    verb: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    # What the object itself may have against it, in the order it is asked.
    gates: ClassVar[tuple[Check, ...]]

    @property
    def place(self) -> Place:
        """What it acts on."""

    @classmethod
    def of_spec(cls, spec: envelope_pb2.ActionSpec) -> Remedy:
        """Returns what a validated spec asks for."""

    def plan(self, seen: Seen, action_id: str) -> Change | None:
        """Returns the change that does it, or None when there is nothing left to change.

        Raises `NotFound` (TARGET_GONE), `Aborted` (TARGET_CHANGED) or `FailedPrecondition`
        (TARGET_UNSETTLED, CLUSTER_REFUSED).
        """

    def recognise(self, sent: Sent, live: Object | None, action_id: str) -> Trace:
        """Tells from the live object whether the change that was sent took effect."""

    def undo(self, observations: Mapping[str, str]) -> Remedy | None:
        """Returns what takes it back, from what was observed when it was done; None if nothing."""

    def settled(self, seen: Seen) -> bool:
        """True once the cluster has finished with the change and the object is healthy."""


Check: TypeAlias = Callable[[Remedy, Seen, Standing], Gate]
