"""One pass over the records of a copy, into facts.

Only records that the verification has reached count: what is behind an altered one proves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path

from google.protobuf.message import DecodeError

from aegis.audit import checkpoints
from aegis.audit.checkpoints import CheckpointError
from aegis.audit.copies import CHECKPOINTS, logs_in, read_notes, scan_records
from aegis.audit.findings import LogResult
from aegis.audit.report.conduct import (
    ActionCounts,
    DecisionCounts,
    IdentityCounts,
    erasure,
    key_change,
    policy_change,
)
from aegis.audit.report.facts import (
    Count,
    Erasure,
    Facts,
    KeyChange,
    LogFacts,
    PeerFacts,
    Period,
    PolicyChange,
)
from aegis.audit.report.learning import ReviewCounts, RunCounts
from aegis.audit.report.reading import tally, time_of
from aegis.v1 import audit_pb2

_KINDS: dict[int, str] = {
    number: name.removeprefix("AUDIT_KIND_").lower() for name, number in audit_pb2.AuditKind.items()
}


def gather(
    records: Iterable[tuple[str, audit_pb2.AuditRecord]],
    period: Period,
    cut: Mapping[str, list[datetime]] | None = None,
) -> Facts:
    """Returns the facts of a period from records with their log, in the order of each log.

    `cut` tells for each log when its checkpoints were cut.
    """
    counts, cut = _Counts(period), cut or {}
    logs: dict[str, _Log] = {log_id: _Log() for log_id in cut}
    for log_id, record in records:
        log, at = logs.setdefault(log_id, _Log()), time_of(record)
        log.first = log.first or at
        log.last = at
        if at in period:
            log.kinds[_KINDS.get(record.kind, str(record.kind))] += 1
        if at < period.end:
            counts.take(record, inside=at in period)
    return counts.facts(
        tuple(_log_facts(log_id, log, cut.get(log_id, []), period) for log_id, log in logs.items())
    )


def gather_copy(directory: Path, verified: Sequence[LogResult], period: Period) -> Facts:
    """As `gather`, from a copy whose verification found `verified`, in the order of its folders."""
    logs = list(zip(logs_in(directory), verified, strict=True))
    records = (
        (log.log_id, record) for folder, log in logs for record in _records(folder, log.records)
    )
    return gather(records, period, {log.log_id: _times(folder) for folder, log in logs})


def _records(folder: Path, verified: int) -> Iterator[audit_pb2.AuditRecord]:
    for raw in islice(scan_records(folder), verified):
        try:
            yield audit_pb2.AuditRecord.FromString(raw.record)
        except DecodeError:
            return


def _times(folder: Path) -> list[datetime]:
    path = folder / CHECKPOINTS
    found = []
    for note in read_notes(path) if path.is_file() else []:
        try:
            found.append(checkpoints.parse(note).checkpoint.time)
        except CheckpointError:
            continue
    return sorted(found)


@dataclass(slots=True)
class _Log:
    kinds: Counter[str] = field(default_factory=Counter)
    first: datetime | None = None
    last: datetime | None = None


def _log_facts(log_id: str, log: _Log, cut: list[datetime], period: Period) -> LogFacts:
    gaps = [(later - sooner, later) for sooner, later in pairwise(cut) if later in period]
    gap: tuple[timedelta | None, datetime | None] = max(gaps, default=(None, None))
    return LogFacts(
        log_id=log_id,
        records=log.kinds.total(),
        kinds=tuple(Count(kind, count) for kind, count in tally(log.kinds)),
        first_record=log.first,
        last_record=log.last,
        checkpoints=sum(at in period for at in cut),
        longest_gap=gap[0],
        longest_gap_until=gap[1],
    )


class _Counts:
    """Hands every record to whoever counts its kind."""

    def __init__(self, period: Period) -> None:
        self._period = period
        self._decisions = DecisionCounts()
        self._actions = ActionCounts()
        self._identity = IdentityCounts()
        self._runs = RunCounts()
        self._reviews = ReviewCounts()
        self._policy_changes: list[PolicyChange] = []
        self._key_changes: list[KeyChange] = []
        self._bundles: dict[str, str] = {}
        self._erasures: list[Erasure] = []
        self._peers: Counter[str] = Counter()

    def take(self, record: audit_pb2.AuditRecord, *, inside: bool) -> None:
        """Takes the next record; of those before the period only runs matter."""
        if record.kind == audit_pb2.AUDIT_KIND_RUN:
            self._runs.take(record, inside=inside)
        if not inside:
            return
        self._decisions.take(record)
        match record.kind:
            case audit_pb2.AUDIT_KIND_ACTION | audit_pb2.AUDIT_KIND_EXECUTION:
                self._actions.take(record)
            case audit_pb2.AUDIT_KIND_REVIEW:
                self._reviews.take(record)
            case audit_pb2.AUDIT_KIND_IDENTITY:
                self._identity.take(record)
            case audit_pb2.AUDIT_KIND_POLICY_CHANGE:
                self._policy_changes.append(policy_change(record))
            case audit_pb2.AUDIT_KIND_KEY_CHANGE:
                self._take_key_change(record)
            case audit_pb2.AUDIT_KIND_ERASURE:
                self._erasures.append(erasure(record))
            case audit_pb2.AUDIT_KIND_CHECKPOINT_PEER:
                self._peers[record.outcome] += 1

    def _take_key_change(self, record: audit_pb2.AuditRecord) -> None:
        # A program says at every start which bundle it uses: only another one is a change.
        bundle = record.details.get("sha256", "")
        if not bundle or self._bundles.get(record.actor) != bundle:
            self._key_changes.append(key_change(record))
        self._bundles[record.actor] = bundle

    def facts(self, logs: tuple[LogFacts, ...]) -> Facts:
        """Returns everything that was counted."""
        runs = self._runs.runs()
        return Facts(
            period=self._period,
            logs=logs,
            peers=PeerFacts(self._peers["recorded"], self._peers["rolled-back"]),
            decisions=self._decisions.facts(),
            policy_changes=tuple(self._policy_changes),
            runs=runs,
            datasets=self._runs.datasets(),
            participants=self._runs.participants(),
            reviews=self._reviews.facts(runs),
            actions=self._actions.facts(),
            identity=self._identity.facts(),
            key_changes=tuple(self._key_changes),
            erasures=tuple(self._erasures),
        )
