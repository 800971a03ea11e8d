"""What a draft of the rules would have answered to the requests of some days.

Recorded decisions are read from the newest on; equal requests are one, with how often it was asked.
Each is decided again by the draft, at the time it was asked last and with the roles its subject has
in the directory today. Where attributes were not kept, the rules in force are asked without them,
too. Where they do not give the recorded answer either, it hung on what is missing, and nothing can
be said of the draft: those requests are counted and left out.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from aegis.serving.database import Database
from aegis_policy import Engine, RequestError
from aegis_server.policy.decisionlog import store
from aegis_server.policy.decisionlog.lines import ALLOW, NO_ATTRIBUTES
from aegis_server.policy.decisionlog.store import Filter, Row

REQUESTS_DEFAULT = 10_000
FLIPS_MAX = 1000
# A million decisions are some minutes of a busy server: what is older then does not count.
_SCAN_MAX = 1_000_000
_PAGE = 2000
# So many are decided before the thread gives others a turn, also where PyCasbin decides.
_SLICE = 32


@dataclass(slots=True)
class Asked:
    """A request, its newest answer, and how often it was asked."""

    newest: Row
    times: int = 1

    @property
    def lacks_attributes(self) -> bool:
        """Says whether it had attributes that nobody kept."""
        row = self.newest
        return row.attributes is None and bytes(row.attributes_digest).hex() != NO_ATTRIBUTES


@dataclass(frozen=True, slots=True)
class Flipped:
    """A request that the draft decides otherwise."""

    asked: Asked
    allowed: bool
    rule_id: str


@dataclass(slots=True)
class Simulation:
    """What came out."""

    requests: int = 0
    decisions: int = 0
    without_attributes: int = 0
    flips: list[Flipped] = field(default_factory=list)


async def simulate(
    database: Database,
    draft: Engine,
    *,
    current: Engine,
    since: datetime,
    until: datetime,
    limit: int,
    held_roles: Callable[[str], tuple[str, ...]],
) -> Simulation:
    """Decides at most `limit` different requests again; flips come the most frequent first."""
    asked = await _asked(database, Filter(start=since, end=until), limit)
    found = Simulation(requests=len(asked), decisions=sum(each.times for each in asked))
    for begin in range(0, len(asked), _SLICE):
        some = asked[begin : begin + _SLICE]
        roles = [held_roles(each.newest.subject) for each in some]
        answers = await asyncio.to_thread(_decide, draft, some, roles)
        now = await asyncio.to_thread(_decide, current, some, roles)
        for each, (allowed, rule_id), (before, _) in zip(some, answers, now, strict=True):
            recorded = each.newest.effect == ALLOW
            if each.lacks_attributes and before != recorded:
                found.without_attributes += 1
            elif allowed != recorded:
                found.flips.append(Flipped(each, allowed, rule_id))
    found.flips.sort(key=_order)
    return found


def _order(flip: Flipped) -> tuple[int, str, str, str, str]:
    row = flip.asked.newest
    # The rule that is to blame: the draft's, or the one that it no longer has.
    return -flip.asked.times, flip.rule_id or row.rule_id, row.subject, row.resource, row.action


async def _asked(database: Database, chosen: Filter, limit: int) -> list[Asked]:
    found: dict[tuple[object, ...], Asked] = {}
    before: tuple[datetime, uuid.UUID] | None = None
    for _ in range(_SCAN_MAX // _PAGE):
        async with database.transaction() as connection:
            rows = await store.newest(connection, chosen, limit=_PAGE, before=before)
        for row in rows:
            digest = bytes(row.attributes_digest)
            key = (row.subject, row.domain, row.resource, row.action, digest)
            if (known := found.get(key)) is not None:
                known.times += 1
                if known.newest.attributes is None and row.attributes is not None:
                    # Of equal requests one may have been kept before another was.
                    known.newest = known.newest._replace(attributes=row.attributes)
            elif len(found) < limit:
                found[key] = Asked(row)
        if len(rows) < _PAGE or len(found) == limit:
            break
        before = rows[-1].at, rows[-1].decision_id
        await asyncio.sleep(0)
    return list(found.values())


def _decide(
    draft: Engine, some: Sequence[Asked], roles: Sequence[tuple[str, ...]]
) -> list[tuple[bool, str]]:
    answers = []
    for each, held in zip(some, roles, strict=True):
        row = each.newest
        try:
            answer = draft.decide(
                subject=row.subject,
                domain=row.domain,
                resource=row.resource,
                action=row.action,
                attributes=json.loads(row.attributes) if row.attributes else {},
                roles=held,
                now=row.at,
            )
        except RequestError:
            # The canon became stricter since: what cannot be asked is not allowed.
            answers.append((False, ""))
        else:
            answers.append((answer.allowed, answer.rule_id))
    return answers
