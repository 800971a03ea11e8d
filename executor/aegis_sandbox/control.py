"""What only a sandbox has: a way to break things on purpose and to read the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aegis_sandbox.access import EXECUTOR, Access
from aegis_sandbox.http import Request
from aegis_sandbox.objects import Objects
from aegis_sandbox.status import CODES, Object, Refused, missing
from aegis_sandbox.workloads import Workloads

_READS = frozenset({"get", "list", "watch"})
_WHERE = ("before", "after", "instead", "reset", "lost", "cut")


@dataclass(frozen=True, slots=True)
class Fault:
    """What shall happen to a request of somebody who is not the administrator.

    `before`: it waits, then takes effect. `after`: it takes effect, its answer waits. `instead`:
    it waits and is answered `code` without effect. `reset`: the connection breaks without effect.
    `lost`: it takes effect, then the connection breaks. `cut`: it takes effect, and half of the
    answer arrives. Without verb and resource it is for the next write that would last, whichever:
    dry runs and events are let through unless they are named.
    """

    where: str
    seconds: float = 0.0
    code: int = 504
    retry_after_seconds: int = 0
    verb: str = ""
    resource: str = ""

    def fits(self, verb: str, resource: str, *, dry: bool) -> bool:
        """True for a request this fault is meant for."""
        if not self.verb and not self.resource:
            return verb not in _READS and resource != "events" and not dry
        return self.verb in ("", verb) and self.resource in ("", resource)

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of an answer `instead`."""
        wait = self.retry_after_seconds
        return {"Retry-After": str(wait)} if wait else {}


@dataclass(slots=True)
class Control:
    """The paths under /sandbox/."""

    objects: Objects
    workloads: Workloads
    access: Access
    faults: list[Fault] = field(default_factory=list)

    def take_fault(self, verb: str, resource: str, *, dry: bool = False) -> Fault | None:
        """Returns the first fault that was ordered for such a request, once."""
        for fault in self.faults:
            if fault.fits(verb, resource, dry=dry):
                self.faults.remove(fault)
                return fault
        return None

    def answer(self, request: Request) -> Object:
        """Does what a control request says."""
        route = (request.method, request.path)
        if route == ("GET", "/sandbox/ledger"):
            return {"sandbox": True, "writes": [write.to_json() for write in self.objects.ledger]}
        if route == ("POST", "/sandbox/break"):
            return self._break(_fields(_told(request), namespace=str, deployment=str))
        if route == ("POST", "/sandbox/grant"):
            # What a RoleBinding does, which is not modelled: one more namespace for the executor.
            self.access.grant(EXECUTOR, _fields(_told(request), namespace=str)["namespace"])
            return {"sandbox": True}
        if route == ("GET", "/sandbox/fault"):
            return {"sandbox": True, "waiting": bool(self.faults)}
        if route == ("POST", "/sandbox/fault"):
            self.faults = [_fault(_told(request))]
            return {"sandbox": True}
        if route == ("POST", "/sandbox/faults"):
            ordered = _fields(_told(request), faults=list)["faults"]
            self.faults = [_fault(each) for each in ordered]
            return {"sandbox": True}
        raise Refused(404, "the sandbox has /sandbox/ledger, /break, /grant, /fault and /faults")

    def _break(self, told: dict[str, Any]) -> Object:
        deployment = self.objects.get("deployments", told["namespace"], told["deployment"])
        if deployment is None:
            raise missing("deployments", told["deployment"])
        labels = deployment["spec"]["selector"]["matchLabels"]
        return {
            "sandbox": True,
            "pods": self.workloads.break_pods(told["namespace"], labels),
        }


def _told(request: Request) -> Any:
    try:
        return json.loads(request.body)
    except ValueError as error:
        raise Refused(400, "the body is not JSON") from error


def _fields(told: Any, **kinds: Any) -> dict[str, Any]:
    if not isinstance(told, dict) or told.keys() != kinds.keys():
        raise Refused(400, f"the body has exactly {', '.join(kinds)}")
    for name, kind in kinds.items():
        if not isinstance(told[name], kind):
            raise Refused(400, f"{name} has another type")
    return told


def _fault(told: Any) -> Fault:
    try:
        fault = Fault(**told)
        fine = (
            fault.where in _WHERE
            and 0 <= float(fault.seconds) <= 3600
            and fault.code in CODES
            and int(fault.retry_after_seconds) >= 0
        )
    except (TypeError, ValueError) as error:
        raise Refused(400, "a fault has where and, if need be, seconds, code, …") from error
    if not fine:
        raise Refused(400, f"where is one of {', '.join(_WHERE)}; code one that is modelled")
    return fault
