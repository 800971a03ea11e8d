"""Calls of StandingService, and what its answers are called by people."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from aegis.cli.session import SECONDS, channel, name_of, run
from aegis.v1 import standing_pb2, standing_pb2_grpc

Quarantine = standing_pb2.Quarantine

_STYLES = {Quarantine.STATE_PROPOSED: "yellow", Quarantine.STATE_IN_FORCE: "red"}


def ask(method: str, request: Any) -> Any:
    """Calls one method; a refusal ends the command."""

    async def calling() -> Any:
        async with channel() as opened:
            stub = standing_pb2_grpc.StandingServiceStub(opened)
            return await getattr(stub, method)(request, timeout=SECONDS)

    return run(calling())


def pages(method: str, request: Any, field: str, limit: int) -> list[Any]:
    """Returns the first `limit` of a list."""
    found: list[Any] = []
    while len(found) < limit:
        request.page_size = limit - len(found)
        page = ask(method, request)
        found += getattr(page, field)
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    return found


def state_of(quarantine: Quarantine) -> Text:
    """Returns where a quarantine stands, or nothing for one that is not there."""
    if not quarantine.quarantine_id:
        return Text("")
    words = name_of(Quarantine.State, quarantine.state, "STATE_").replace("_", " ")
    return Text(words, _STYLES.get(quarantine.state, ""))
