"""What is asked of the guards, and what one of them answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from aegis.errors import Aborted, AegisError, FailedPrecondition, ResourceExhausted
from aegis_executor.catalogue.base import Gate, Kind, Place

_ERRORS: Mapping[str, type[AegisError]] = {
    "EXECUTION_PAUSED": FailedPrecondition,
    "CLOCK_UNTRUSTED": FailedPrecondition,
    "WINDOW_CLOSED": FailedPrecondition,
    "STORM_ACTIVE": FailedPrecondition,
    "BREAKER_OPEN": FailedPrecondition,
    "ATTEMPTS_EXHAUSTED": FailedPrecondition,
    "TARGET_BUSY": Aborted,
    "BUDGET_EXHAUSTED": ResourceExhausted,
    "COOLING_DOWN": ResourceExhausted,
}


# deployment - pod-template-hash - five more, as Kubernetes names the pods of a deployment.
_POD = re.compile(r"(?P<owner>.+)-[a-z0-9]{5,10}-[a-z0-9]{5}")


@lru_cache(maxsize=16_384)
def target(namespace: str, kind: str, name: str) -> tuple[str, str, str]:
    """Returns what limits are counted by: a pod of a deployment counts as the deployment.

    Evicting a pod leaves one with another name and the same trouble, so by their own names no
    limit would ever be reached.
    """
    pod = _POD.fullmatch(name) if kind == Kind.POD.value else None
    return (namespace, Kind.DEPLOYMENT.value, pod["owner"]) if pod else (namespace, kind, name)


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants done; `verb` is the action's name, e.g. `scale_deployment`."""

    request_id: str
    verb: str
    place: Place
    incident_id: str
    issuer: str
    approved: bool
    break_glass: bool

    def __post_init__(self) -> None:
        # A guard that matched by an empty name would count for nothing, or for everything.
        if not (self.request_id and self.verb and self.place.name):
            raise ValueError("a guard needs to know the request, the action and the object")

    @property
    def target(self) -> tuple[str, str, str]:
        """What it is counted by."""
        return target(self.place.namespace, self.place.kind.value, self.place.name)


def error_of(gate: Gate, now: datetime) -> AegisError:
    """Returns the refusal a gate of the guards stands for."""
    cls = _ERRORS[gate.reason]
    # When a precondition will hold is for `why`; RetryInfo is for what merely has to wait.
    seconds = None
    if gate.retry_at is not None and cls is ResourceExhausted:
        seconds = max(0.0, (gate.retry_at - now).total_seconds())
    error = cls(gate.reason, gate.message, retry_seconds=seconds)
    error.metadata.update(gate.metadata)
    return error


def passes(name: str, message: str) -> Gate:
    """Returns a gate that let it through."""
    return Gate(name, True, message=message)


def glass(gates: Iterable[Gate], asked: Asked) -> list[Gate]:
    """Returns the gates as they are for who broke the glass: open, but still with their numbers."""
    if not asked.break_glass:
        return list(gates)
    return [
        gate
        if gate.passed
        else replace(gate, passed=True, message=f"{gate.message} (glass broken)")
        for gate in gates
    ]
