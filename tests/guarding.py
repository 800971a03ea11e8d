"""A history for guards, without a database."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from aegis_executor.catalogue.base import Gate, Kind, Place
from aegis_executor.guards.gates import Asked
from aegis_executor.guards.guards import before_claiming, while_claiming
from aegis_executor.guards.history import Deed, History
from aegis_executor.guards.numbers import Numbers
from aegis_executor.guards.storm import Storm

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
CALM = Storm("CALM", NOW)
_IDS = itertools.count(1)


def ago(**time: float) -> datetime:
    return NOW - timedelta(**time)


def asked(name: str = "web", **changes: Any) -> Asked:
    namespace = changes.pop("namespace", "demo")
    kind = changes.pop("kind", Kind.DEPLOYMENT)
    told: dict[str, Any] = {
        "request_id": str(uuid.UUID(int=next(_IDS))),
        "verb": "scale_deployment",
        "incident_id": "",
        "issuer": "role:automation",
        "approved": False,
        "break_glass": False,
    }
    return Asked(place=Place(kind, namespace, name), **{**told, **changes})


def deed(at: datetime, state: str = "VERIFIED", name: str = "web", **changes: Any) -> Deed:
    """An execution that began then, and ended a minute later unless it is under way."""
    told: dict[str, Any] = {
        "request_id": str(uuid.UUID(int=next(_IDS))),
        "verb": "scale_deployment",
        "kind": "deployments",
        "namespace": "demo",
        "incident_id": "",
        "ended_at": None if state in ("INTENT", "APPLIED") else at + timedelta(minutes=1),
    }
    return Deed(name=name, at=at, state=state, **{**told, **changes})


def history(*deeds: Deed, now: datetime = NOW, **changes: Any) -> History:
    told: dict[str, Any] = {"pauses": (), "storm": CALM}
    return History(now=now, deeds=deeds, **{**told, **changes})


def gates(ask: Asked, past: History, numbers: Numbers | None = None) -> list[Gate]:
    """Every gate in the order of a claim."""
    numbers = numbers or Numbers()
    return [*before_claiming(ask, past, numbers), *while_claiming(ask, past, numbers)]


def refusals(ask: Asked, past: History, numbers: Numbers | None = None) -> list[str]:
    """Names of the gates that do not pass."""
    return [gate.name for gate in gates(ask, past, numbers) if not gate.passed]


def named(found: Sequence[Gate], name: str) -> Gate:
    return next(gate for gate in found if gate.name == name)
