"""What was noted and is not stored yet, and what happens to a decision that finds no room.

A decision that lets somebody do something is refused then, and in strict mode every one. Others are
given and counted, and the log itself says later how many are missing, and from when to when.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from aegis.errors import ResourceExhausted
from aegis_server.policy.decisionlog.batches import BATCH_MAX, Gap
from aegis_server.policy.decisionlog.entry import Entry, privileged


class Buffer:
    """Bounded: `capacity` decisions between `note` and storage, wherever they are."""

    def __init__(
        self,
        *,
        capacity: int,
        strict: bool,
        unwritable_seconds: float,
        registry: CollectorRegistry,
    ) -> None:
        self._capacity = capacity
        self._strict = strict
        self._unwritable_seconds = unwritable_seconds
        self._entries: deque[Entry] = deque()
        self._gap: Gap | None = None
        self._noted = self._stored = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        # Since when the writer has been trying to store one and the same batch.
        self.trying_since: float | None = None
        self.some, self.plenty = asyncio.Event(), asyncio.Event()
        self._unrecorded = Counter(
            "aegis_policy_decisions_unrecorded_total",
            "Decisions that were given without a record, because the decision log was full.",
            registry=registry,
        )
        self._refused = Counter(
            "aegis_policy_decisions_refused_total",
            "Decisions that were not given, because the decision log could not take them.",
            registry=registry,
        )
        # Set as they are taken out and stored: a function would not be seen by a parent of workers.
        self._told = Gauge(
            "aegis_policy_decision_log_waiting",
            "Decisions that were given and are not stored yet.",
            registry=registry,
            multiprocess_mode="livesum",
        )

    @property
    def waiting(self) -> int:
        """How many decisions were noted and are not stored."""
        return self._noted - self._stored

    def note(self, entry: Entry) -> None:
        """Takes a decision that is about to be given.

        Raises `ResourceExhausted` (DECISION_LOG_FULL): then it must not be given.
        """
        full = self._noted - self._stored >= self._capacity
        if (full or self.trying_since is not None) and not self._keeps(entry, full=full):
            return
        self._noted += 1
        self._entries.append(entry)
        if len(self._entries) == 1:
            self.some.set()
        elif len(self._entries) == BATCH_MAX:
            self.plenty.set()

    def note_all(self, entries: Sequence[Entry]) -> asyncio.Future[None]:
        """Takes all of them or none; what it returns is done once they are stored."""
        if self.waiting + len(entries) > self._capacity or self._unwritable():
            raise full_error()
        for entry in entries:
            self.note(entry)
        self.plenty.set()
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((self._noted, stored))
        return stored

    def oldest(self, limit: int) -> list[Entry]:
        """Takes out the first of what was noted; an empty list says that there is no more."""
        entries = self._entries
        self._told.set(self.waiting)
        return [entries.popleft() for _ in range(min(limit, len(entries)))]

    def take_gap(self) -> Gap | None:
        """Returns what was given and lost since the last time."""
        gap, self._gap = self._gap, None
        return gap

    def tell_stored(self, count: int) -> None:
        """Makes room: the oldest so many are stored."""
        self._stored += count
        self._told.set(self.waiting)
        while self._waiters and self._waiters[0][0] <= self._stored:
            _, stored = self._waiters.popleft()
            if not stored.done():
                stored.set_result(None)

    def _keeps(self, entry: Entry, *, full: bool) -> bool:
        """Says whether there is room; raises for a decision that must not be given without."""
        if not full and not self._unwritable():
            return True
        self._told.set(self.waiting)
        if self._strict or privileged(entry):
            self._refused.inc()
            raise full_error()
        if full:
            self._unrecorded.inc()
            gap = self._gap or Gap(0, entry.at, entry.at)
            self._gap = Gap(gap.decisions + 1, min(gap.start, entry.at), max(gap.end, entry.at))
        return not full

    def _unwritable(self) -> bool:
        since = self.trying_since
        return since is not None and time.monotonic() - since > self._unwritable_seconds


def full_error() -> ResourceExhausted:
    """The refusal."""
    return ResourceExhausted(
        "DECISION_LOG_FULL",
        "the decision log takes no more for the moment, and without a record there is no answer",
        retry_seconds=1.0,
    )
