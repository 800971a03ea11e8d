"""What an execution needs of the rooms around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aegis.serving.database import Connection
from aegis.v1 import envelope_pb2
from aegis_executor.admission import Admitted
from aegis_executor.catalogue.base import Gate, Remedy, Seen
from aegis_executor.guards.gates import Asked

__all__ = ["Asked", "Epoch", "Guards", "Healing", "asked_of"]


def asked_of(admitted: Admitted) -> Asked:
    """Returns what guards are asked about an admitted request."""
    return Asked(
        request_id=admitted.request_id,
        verb=admitted.remedy.verb,
        place=admitted.remedy.place,
        incident_id=admitted.spec.incident_id,
        issuer=admitted.issuer,
        approved=admitted.standing.approved,
        break_glass=admitted.standing.break_glass,
    )


class Guards(Protocol):
    """Budgets, pauses, breakers, windows, storms."""

    async def enter(self, asked: Asked) -> None:
        """Raises what refuses before anything is claimed (EXECUTION_PAUSED and the like)."""

    async def claim(self, connection: Connection, asked: Asked) -> None:
        """Raises what refuses the claim that this transaction has just made."""

    async def recheck(self, asked: Asked) -> None:
        """Raises, immediately before the change, EXECUTION_PAUSED or FENCED."""

    async def gates(self, asked: Asked) -> Sequence[Gate]:
        """Returns every guard with its numbers."""


class Epoch(Protocol):
    """Whose turn it is."""

    @property
    def number(self) -> int:
        """What intents carry."""

    async def check(self, connection: Connection) -> None:
        """Raises `Aborted` (FENCED) when another executor has taken over."""


class Healing(Protocol):
    """What watches afterwards whether it helped."""

    async def capture(
        self, request_id: str, remedy: Remedy, spec: envelope_pb2.ActionSpec, seen: Seen
    ) -> None:
        """Writes down what the world is like before the change."""
