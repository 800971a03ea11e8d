"""Nobody changes the rules so that nobody could change them back.

Two things are asked of rules that are to come: that whoever brings them may still write the policy,
and that some subject may that the rules or the directory know by name: the first may be there by
grace of a token from elsewhere, whose issuer can be gone tomorrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TypeAlias

from aegis_policy import Engine, PolicyError, RequestError, Violation

RESOURCE = "/policy"
DOMAIN = "aegis"

# Roles by subject, as the directory has them; None for one that is disabled.
Standing: TypeAlias = Callable[[], Mapping[str, tuple[str, ...] | None]]


class Lockout:
    """Looks whether rules leave somebody who can repair them."""

    def __init__(
        self,
        *,
        held_roles: Callable[[str], tuple[str, ...]],
        standing: Standing,
        clock: Callable[[], datetime],
    ) -> None:
        self._held_roles = held_roles
        self._standing = standing
        self._clock = clock

    def refuse(self, engine: Engine, actor: str) -> None:
        """Raises `PolicyError` for rules that would lock out their own author, or all.

        Another writer may still remove this one.
        """
        now = self._clock()
        allowed, rule_id = _may_write(engine, actor, self._held_roles(actor), now)
        if not allowed:
            by = f" by rule {rule_id}" if rule_id else ""
            text = f"under these rules {actor} could not write {RESOURCE} any more{by}"
            raise PolicyError([Violation(0, 0, text)])
        if not any(
            _may_write(engine, subject, roles, now)[0]
            for subject, roles in self._candidates(engine, actor)
        ):
            text = f"nobody whom rules or directory name could write {RESOURCE} any more"
            raise PolicyError([Violation(0, 0, text)])

    def _candidates(self, engine: Engine, actor: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yields subjects known by name, the author first: mostly nobody else needs a look."""
        standing = dict(self._standing())
        # A role cannot ask, and a disabled account does not get as far as asking.
        for subject in engine.subjects():
            if not subject.startswith("role:"):
                standing.setdefault(subject, ())
        if actor in standing:
            yield actor, standing.pop(actor) or ()
        for subject, roles in standing.items():
            if roles is not None:
                yield subject, roles


def _may_write(
    engine: Engine, subject: str, roles: tuple[str, ...], now: datetime
) -> tuple[bool, str]:
    try:
        decision = engine.decide(
            subject=subject, domain=DOMAIN, resource=RESOURCE, action="write", roles=roles, now=now
        )
    except RequestError:
        return False, ""  # in a model of its own, names can be anything
    return decision.allowed, decision.rule_id
