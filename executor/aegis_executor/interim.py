"""Stands in for healing where this executor is run without it."""

from __future__ import annotations

from aegis.serving.database import Connection
from aegis.v1 import envelope_pb2
from aegis_executor.catalogue.base import Remedy, Seen


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
