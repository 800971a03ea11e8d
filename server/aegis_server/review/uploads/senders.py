"""Who may send an update for whom."""

from __future__ import annotations

from typing import NamedTuple

from aegis.serving.doors import Call, Grant
from aegis_server.access import DOMAIN, Access, Needs
from aegis_server.participants.registry import KIND
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.question import Question

ANYBODYS = Needs("/review/updates", "submit")
OWN = Needs("/review/updates/own", "submit")


class Sender(NamedTuple):
    """A caller that may send; of its `own` updates it learns the verdict and no figure."""

    grant: Grant
    own: bool


class Senders:
    """Asks the policy: for anybody's updates, or a participant for its own."""

    def __init__(self, access: Access, decisions: Decisions) -> None:
        self._access = access
        self._decisions = decisions

    async def permit(self, call: Call, participant: str) -> Sender:
        """Returns why the caller may send for a participant; raises `PermissionDenied`."""
        subject = call.caller.subject
        own = subject == f"{KIND}{participant}"
        if own:
            anybodys = await self._decisions.decide(Question(subject, DOMAIN, *ANYBODYS))
            own = not anybodys.allowed
        needs = OWN if own else ANYBODYS
        return Sender(await self._access.require(call.caller, needs, method=call.method), own)
