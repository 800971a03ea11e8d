"""Doors for tests of what is behind them: TLS and names have tests of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from aegis.serving.doors import Admit, Doors, Peer
from aegis.serving.metrics import CallMetrics
from aegis.spiffe import Caller


class DoorsFor(Doors):
    """Takes everybody for one caller, so that a room can be called without certificates."""

    def __init__(self, caller: Caller, admit: Admit) -> None:
        async def authenticate(method: str, peer: Peer) -> Caller:
            return caller

        super().__init__(
            admit=admit, metrics=CallMetrics(CollectorRegistry()), authenticate=authenticate
        )


class DoorsByName(Doors):
    """Takes everybody for whom they say they are in `authorization`, or for `caller`."""

    def __init__(self, caller: Caller, admit: Admit) -> None:
        async def authenticate(method: str, peer: Peer) -> Caller:
            return Caller(peer.authorization, "", "token") if peer.authorization else caller

        super().__init__(
            admit=admit, metrics=CallMetrics(CollectorRegistry()), authenticate=authenticate
        )
