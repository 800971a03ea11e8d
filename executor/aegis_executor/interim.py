"""Stands in for guards and healing where this executor is run without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aegis.serving.database import Connection
from aegis.v1 import envelope_pb2
from aegis_executor.catalogue.base import Gate, Place, Remedy, Seen


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants done."""

    request_id: str
    verb: str
    place: Place
    incident_id: str
    issuer: str
    approved: bool
    break_glass: bool


class NoGuards:
    """Lets everything through."""

    async def enter(self, asked: Asked) -> None:
        """Passes."""

    async def claim(self, connection: Connection, asked: Asked) -> None:
        """Passes."""

    async def recheck(self, asked: Asked) -> None:
        """Passes."""

    async def gates(self, asked: Asked) -> Sequence[Gate]:
        """There are none."""
        return ()


class NoEpoch:
    """Nobody takes over."""

    number = 0

    async def check(self, connection: Connection) -> None:
        """Passes."""


class NoHealing:
    """Compares with nothing."""

    async def capture(
        self,
        connection: Connection | None,
        request_id: str,
        remedy: Remedy,
        spec: envelope_pb2.ActionSpec,
        seen: Seen,
    ) -> None:
        """Passes."""
