"""What only a sandbox has: a way to break things on purpose and to read the ledger."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from aegis_sandbox.http import Request
from aegis_sandbox.objects import Objects
from aegis_sandbox.status import Object, Refused, missing
from aegis_sandbox.workloads import Workloads


@dataclass(frozen=True, slots=True)
class Fault:
    """What shall happen to the next write of somebody who is not the administrator.

    `before`: it waits, then takes effect. `after`: it takes effect, its answer waits. `instead`:
    it waits and is answered 504 without effect.
    """

    where: str
    seconds: float


class Control:
    """The paths under /sandbox/."""

    def __init__(self, objects: Objects, workloads: Workloads) -> None:
        self._objects = objects
        self._workloads = workloads
        self._fault: Fault | None = None

    def take_fault(self) -> Fault | None:
        """Returns the fault that was ordered, once."""
        fault, self._fault = self._fault, None
        return fault

    def answer(self, request: Request) -> Object:
        """Does what a control request says."""
        route = (request.method, request.path)
        if route == ("GET", "/sandbox/ledger"):
            return {"sandbox": True, "writes": [write.to_json() for write in self._objects.ledger]}
        if route == ("POST", "/sandbox/break"):
            return self._break(_fields(request, namespace=str, deployment=str))
        if route == ("POST", "/sandbox/fault"):
            told = _fields(request, where=str, seconds=(int, float))
            if told["where"] not in ("before", "after", "instead"):
                raise Refused(400, "where is before, after or instead")
            self._fault = Fault(told["where"], float(told["seconds"]))
            return {"sandbox": True}
        raise Refused(404, "the sandbox has /sandbox/ledger, /sandbox/break and /sandbox/fault")

    def _break(self, told: dict[str, Any]) -> Object:
        deployment = self._objects.get("deployments", told["namespace"], told["deployment"])
        if deployment is None:
            raise missing("deployments", told["deployment"])
        labels = deployment["spec"]["selector"]["matchLabels"]
        return {
            "sandbox": True,
            "pods": self._workloads.break_pods(told["namespace"], labels),
        }


def _fields(request: Request, **kinds: Any) -> dict[str, Any]:
    try:
        told = json.loads(request.body)
    except ValueError as error:
        raise Refused(400, "the body is not JSON") from error
    if not isinstance(told, dict) or told.keys() != kinds.keys():
        raise Refused(400, f"the body has exactly {', '.join(kinds)}")
    for name, kind in kinds.items():
        if not isinstance(told[name], kind):
            raise Refused(400, f"{name} has another type")
    return told
