"""Standings: reckoned anew whenever a round is judged, or a person decides otherwise.

In the transaction that does so, so that what is shown and what is proposed never lags behind the
verdicts. The audit records it returns are for the caller to write, last of all: whoever holds the
end of the log must not wait for anybody.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from aegis.errors import NotFound
from aegis.serving.auditlog import Entry
from aegis.serving.database import Connection, Database
from aegis.v1 import audit_pb2
from aegis_server.review.case import Past, Ruling, Verdict
from aegis_server.review.memory import store as memory
from aegis_server.review.standing import store
from aegis_server.review.standing.collusion import ROUNDS, Sighting, groups
from aegis_server.review.standing.counting import Counts
from aegis_server.review.standing.drift import drift
from aegis_server.review.standing.proposals import Known, Proposal, proposal
from aegis_server.review.standing.reputation import Decider, Evidence, course, reputation
from aegis_server.review.standing.store import HistoryRow, QuarantineRow, StandingRow
from aegis_server.review.store import RoundKey

STANDINGS = "/review/standings"
QUARANTINES = "/review/quarantines"
_ENTRIES = 200


@dataclass(frozen=True, slots=True)
class Standing:
    """What is thought of a participant, and the quarantine that is proposed or in force."""

    row: StandingRow
    quarantine: QuarantineRow | None


@dataclass(frozen=True, slots=True)
class Judged:
    """One judged update, and its participant's reputation after it."""

    row: HistoryRow
    reputation: float


class Standings:
    """The review's memory of participants; `server` is who proposes quarantines."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], datetime],
        counts: Counts,
        server: str = "server:aegis",
    ) -> None:
        self._database = database
        self._clock = clock
        self._counts = counts
        self._server = server

    async def past_of(
        self, connection: Connection, run_id: str, participants: Collection[str], *, before: int
    ) -> Mapping[str, tuple[Past, ...]]:
        """As `memory.past_of`."""
        return await memory.past_of(connection, run_id, participants, before=before)

    async def remember(
        self, connection: Connection, key: RoundKey, *, dataset: str, ruling: Ruling, now: datetime
    ) -> list[Entry]:
        """Remembers a round, whose verdicts are written, and reckons its participants anew."""
        names = await memory.remember(connection, key, dataset=dataset, ruling=ruling, now=now)
        self._counts.judged(ruling)
        return await self.reckon(connection, names, now=now)

    async def reckon(
        self, connection: Connection, participants: Collection[str], *, now: datetime
    ) -> list[Entry]:
        """Reckons participants of whom a verdict has changed; proposes quarantines.

        Sites of a simulation are nobody: they have no standing, and no part in that of who has
        enrolled under such a name.
        """
        participants = await store.enrolled(connection, participants)
        await store.lock(connection, participants, now)
        histories = await store.histories(connection, participants)
        company = await _company(connection, histories)
        counts = await store.counts(connection, participants)
        decided = await store.last_decisions(connection, participants)
        open_ones = await store.open_quarantines(connection, participants)
        drifts = await asyncio.to_thread(_drifts, histories)
        entries = []
        for name in sorted(participants):
            history = histories[name]
            standing = _standing(history, counts[name], drifts[name], company[name])
            await store.write(connection, standing)
            if name in open_ones:
                continue
            since = decided.get(name)
            known = [_known(each) for each in history if since is None or each.created_at > since]
            found = proposal(known, company[name])
            if found is not None:
                entries.append(await self._propose(connection, name, found, now))
        await self._counts.refresh(connection)
        return entries

    async def get(self, participant: str) -> tuple[Standing, list[Judged]]:
        """Returns a standing and its last 200 updates, newest first; raises `NotFound`."""
        async with self._database.transaction() as connection:
            row = await store.find(connection, participant)
            if row is None:
                raise NotFound(
                    "RESOURCE_NOT_FOUND",
                    f"no update of {participant} was judged, as one who has enrolled",
                    resource=f"{STANDINGS}/{participant}",
                )
            # Twice as many, so that the first one's reputation stands on something.
            limit = _ENTRIES + store.HISTORY
            histories = await store.histories(connection, [participant], limit=limit)
            open_ones = await store.open_quarantines(connection, [participant])
        history = histories[participant]
        values = course(_evidence(each) for each in history)
        judged = [Judged(each, value) for each, value in zip(history, values, strict=True)]
        return Standing(row, open_ones.get(participant)), judged[::-1][:_ENTRIES]

    async def page(self, *, after: tuple[float, str] | None, limit: int) -> list[Standing]:
        """Returns the least trusted behind a reputation and name."""
        async with self._database.transaction() as connection:
            rows = await store.page(connection, after=after, limit=limit)
            names = [row.participant for row in rows]
            open_ones = await store.open_quarantines(connection, names)
        return [Standing(row, open_ones.get(row.participant)) for row in rows]

    async def _propose(
        self, connection: Connection, participant: str, found: Proposal, now: datetime
    ) -> Entry:
        quarantine_id = f"qua-{uuid.uuid4().hex[:20]}"
        await store.insert_quarantine(
            connection,
            quarantine_id=quarantine_id,
            participant=participant,
            cause=found.cause,
            reason=found.reason,
            update_ids=found.update_ids,
            now=now,
        )
        return Entry(
            kind=audit_pb2.AUDIT_KIND_REVIEW,
            actor=self._server,
            action="propose_quarantine",
            resource=f"{QUARANTINES}/{quarantine_id}",
            outcome="proposed",
            reason=found.cause,
            subject_id=quarantine_id,
            details={
                "participant": participant,
                "why": found.reason,
                "update_ids": ",".join(found.update_ids),
            },
        )


async def _company(
    connection: Connection, histories: Mapping[str, Sequence[HistoryRow]]
) -> dict[str, frozenset[str]]:
    """Returns with whom each keeps company."""
    others = {name for history in histories.values() for row in history for name in row.alike}
    # Those of other rounds: a group reaches as far as its members were seen together.
    beyond = await store.histories(connection, others - set(histories), limit=ROUNDS)
    sightings = {
        name: [
            Sighting(RoundKey(row.run_id, row.round, row.attempt), frozenset(row.alike))
            for row in history[-ROUNDS:]
        ]
        for name, history in {**beyond, **histories}.items()
    }
    company = dict.fromkeys(histories, frozenset[str]())
    for group in groups(sightings):
        for name in group & set(histories):
            company[name] = group - {name}
    return company


def _drifts(histories: Mapping[str, Sequence[HistoryRow]]) -> dict[str, float]:
    return {
        name: drift([row.features for row in history if row.features is not None])
        for name, history in histories.items()
    }


def _standing(
    history: Sequence[HistoryRow],
    counts: Mapping[str, int],
    drifted: float,
    company: frozenset[str],
) -> StandingRow:
    last = history[-1]
    return StandingRow(
        participant=last.participant,
        reputation=reputation(_evidence(each) for each in history),
        judged=sum(counts.values()),
        accepted=counts.get("accepted", 0),
        rejected=counts.get("rejected", 0),
        held=counts.get("held", 0),
        drift=drifted,
        colludes_with=sorted(company),
        last_at=last.created_at,
    )


def _evidence(row: HistoryRow) -> Evidence:
    return Evidence(Verdict(row.verdict), row.score, Decider(row.decider))


def _known(row: HistoryRow) -> Known:
    return Known(row.update_id, _evidence(row), frozenset(row.alike))
