"""Who may approve: whoever has the group's role, by the rules or by the directory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

from aegis.errors import FailedPrecondition
from aegis.trust import ACTION_APPROVAL, TrustBundle
from aegis_server.access import DOMAIN
from aegis_server.execution.approvals.counting import Demand, shortage
from aegis_server.policy.decisions import Decision, Decisions, Question

# Roles of everybody the directory knows, None for a disabled account.
Standing = Callable[[], Mapping[str, Sequence[str] | None]]

_RESOURCE, _ACTION = "/execution/actions", "approve"


class Approvers:
    """Knows who may speak for a group."""

    def __init__(
        self,
        decisions: Decisions,
        *,
        standing: Standing,
        trust: TrustBundle,
        clock: Callable[[], datetime],
    ) -> None:
        self._decisions = decisions
        self._standing = standing
        self._trust = trust
        self._clock = clock

    async def speaking(self, pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Returns those pairs of a person and a group where the one may speak for the other now.

        Whose account was disabled, who lost the role, and who may approve nothing any more, may
        not: neither do their words of before count.
        """
        standing = self._standing()
        held = [
            (who, group)
            for who, group in pairs
            if standing.get(who, ()) is not None and group in self._decisions.roles_of(who, DOMAIN)
        ]
        permitted = await self._permitted(sorted({who for who, _ in held}))
        return {(who, group) for who, group in held if who in permitted}

    async def people_of(self, group: str, *, but: str) -> set[str]:
        """Returns everybody who may approve for a group, except one."""
        standing = self._standing()
        engine = self._decisions.snapshot.engine
        named = {name for name in engine.subjects() if not name.startswith("role:")}
        candidates = [
            name
            for name in sorted(named | standing.keys())
            if name != but
            and standing.get(name, ()) is not None
            and group in engine.roles_of(name, DOMAIN, standing.get(name) or ())
        ]
        return await self._permitted(candidates)

    async def _permitted(self, names: Collection[str]) -> set[str]:
        """Returns those who may approve at all; a question without an answer is a no."""
        answers = await self._decisions.decide_all(
            [Question(name, DOMAIN, _RESOURCE, _ACTION) for name in names]
        )
        return {
            name
            for name, each in zip(names, answers, strict=True)
            if isinstance(each, Decision) and each.allowed
        }

    async def require(self, demands: Sequence[Demand], issuer: str) -> None:
        """Raises `FailedPrecondition` (APPROVALS_IMPOSSIBLE) when too few could ever approve."""
        now = self._clock()
        eligible: dict[Demand, set[str]] = {}
        for demand in demands:
            people = await self.people_of(demand.group, but=issuer)
            if demand.detached:
                people = {name for name in people if self._has_key(name, now)}
            eligible[demand] = people
        short = shortage(demands, eligible)
        if short is not None:
            count = len(eligible[short])
            key = " with a key of their own" if short.detached else ""
            raise FailedPrecondition(
                "APPROVALS_IMPOSSIBLE",
                f"{short.needed} of {short.group}{key} would have to approve, beside the others"
                f" who have to; {count} could (who is known through OpenID only: while their token"
                " lasts, and where they used it)",
                group=short.group,
                needed=short.needed,
                eligible=count,
            )

    def _has_key(self, subject: str, now: datetime) -> bool:
        return any(key.usable(now) for key in self._trust.of_owner(ACTION_APPROVAL, subject))
