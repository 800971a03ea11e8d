"""What may be in a model: what our own rows say of the updates a coordinator names.

A coordinator is told the verdicts and makes the model. That it has kept to them is not believed:
one that was taken over would name what was rejected, or what nobody ever sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from aegis.serving.database import Connection
from aegis_server.review import store
from aegis_server.review.case import Verdict
from aegis_server.review.holding.store import OverrideRow, overrides_of
from aegis_server.review.store import RoundKey, RoundRow, UpdateRow

# Between the verdicts and the stored round a coordinator fetches, aggregates and looks for
# triggers. What a person rejects meanwhile it cannot know of.
_MEANWHILE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Named:
    """Whose update is said to be in a model, and which."""

    participant: str
    update_id: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """What is not believed: `state` in a word, `why` as the end of a sentence."""

    named: Named
    state: str
    why: str


async def doubt(
    connection: Connection,
    run_id: str,
    number: int,
    named: Sequence[Named],
    *,
    fallback: bool,
    now: datetime,
) -> Doubt | None:
    """Returns the first update that cannot be in the model of a round; None when all may be.

    Each has to be of this run, round and participant, and all of one try. They have to be ACCEPTED,
    by a person or not; where the model is said to be a `fallback`, members of that one instead, and
    not rejected by anybody.
    """
    ids = [each.update_id for each in named]
    rows = {row.update_id: row for row in await store.several(connection, ids)}
    overrides = await overrides_of(connection, ids)
    round_row: RoundRow | None = None
    for each in named:
        row = rows.get(each.update_id)
        if row is None:
            return Doubt(each, "MISSING", "was never submitted")
        if (row.run_id, row.round, row.participant) != (run_id, number, each.participant):
            whose = f"{row.participant} in round {row.round} of {row.run_id}"
            return Doubt(each, "ANOTHERS", f"is one of {whose}")
        if round_row is None:
            round_row = await store.round_of(connection, RoundKey(run_id, number, row.attempt))
        if round_row is None or row.attempt != round_row.attempt:
            return Doubt(each, "ANOTHER_TRY", f"is of try {row.attempt}, and others are not")
        since = _Since(row, overrides.get(row.update_id, ()), now - _MEANWHILE)
        if fallback:
            if not (round_row.fallback and row.participant in round_row.fallback_participants):
                return Doubt(each, row.verdict.upper(), "is no member of a fallback")
            if since.ruled_out:
                return Doubt(each, row.verdict.upper(), f"is {row.verdict.upper()}")
        elif not since.accepted:
            return Doubt(each, row.verdict.upper(), f"is {row.verdict.upper()}")
    return None


@dataclass(frozen=True, slots=True)
class _Since:
    """How an update has stood from a time on."""

    row: UpdateRow
    overrides: Sequence[OverrideRow]
    start: datetime

    @property
    def accepted(self) -> bool:
        """Whether it was ACCEPTED at any moment."""
        return self.row.verdict == Verdict.ACCEPTED or any(
            each.from_verdict == Verdict.ACCEPTED for each in self._decided if self._late(each)
        )

    @property
    def ruled_out(self) -> bool:
        """Whether an examiner or a person has rejected it all the time; a deadline is neither."""
        if self.row.verdict != Verdict.REJECTED:
            return False
        return not self._decided or not (
            self._late(self._decided[-1]) or not self._decided[-1].by_whom
        )

    @property
    def _decided(self) -> list[OverrideRow]:
        return [each for each in self.overrides if each.effective]

    def _late(self, override: OverrideRow) -> bool:
        return override.decided_at > self.start
