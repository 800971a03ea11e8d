"""Batches: what one COPY writes, and how each is chained to the one before."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from aegis_server.policy.decisionlog.lines import Line, chained, digest_of_lines

BATCH_MAX = 2000


@dataclass(frozen=True, slots=True)
class Gap:
    """Decisions that were given and not written: how many, from when to when."""

    decisions: int
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Batch:
    """What aegis.decision_batch says of one."""

    at: datetime
    log: uuid.UUID
    number: int
    replica: str
    decisions: int
    first_at: datetime
    tally: str
    unrecorded: int
    unrecorded_from: datetime | None
    unrecorded_until: datetime | None
    rows_digest: bytes
    prev_chain: bytes
    chain: bytes

    def chained_again(self) -> bytes:
        """Returns the chain hash as it follows from the rest."""
        return chained(
            self.prev_chain,
            str(self.log),
            self.number,
            self.replica,
            self.at.isoformat(),
            self.first_at.isoformat(),
            self.decisions,
            self.tally,
            self.unrecorded,
            self.unrecorded_from.isoformat() if self.unrecorded_from else "",
            self.unrecorded_until.isoformat() if self.unrecorded_until else "",
            self.rows_digest.hex(),
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where the next batch goes."""

    log: uuid.UUID
    number: int
    replica: str
    prev_chain: bytes


def seal(lines: Sequence[Line], place: Place, gap: Gap | None, now: datetime) -> Batch:
    """Returns the batch of some lines, at a place."""
    first = min((line.at for line in lines), default=now)
    last = max((line.at for line in lines), default=now)
    open_batch = Batch(
        # Not before any row, so that their partitions are never kept longer than it.
        at=max(now, last),
        log=place.log,
        number=place.number,
        replica=place.replica,
        decisions=len(lines),
        first_at=first,
        tally=json.dumps(tally_of(lines), separators=(",", ":"), sort_keys=True),
        unrecorded=gap.decisions if gap else 0,
        unrecorded_from=gap.start if gap else None,
        unrecorded_until=gap.end if gap else None,
        rows_digest=digest_of_lines([line.text for line in lines]),
        prev_chain=place.prev_chain,
        chain=b"",
    )
    values = {name: getattr(open_batch, name) for name in Batch.__slots__}
    return Batch(**values | {"chain": open_batch.chained_again()})


def tally_of(lines: Sequence[Line]) -> dict[str, dict[str, int]]:
    """Counts decisions by rule, and denials by subject."""
    allowed = Counter(line.rule_id for line in lines if line.allowed)
    denied = Counter(line.rule_id for line in lines if not line.allowed)
    subjects = Counter(line.subject for line in lines if not line.allowed)
    return {"allow": dict(allowed), "deny": dict(denied), "denied": dict(subjects)}
