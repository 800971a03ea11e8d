"""Verification of a copy: is it whole, is it what was signed, and does what it tells hold together?

Everything is recomputed from the files; nothing is asked of anybody. What each finding means, and
the exit status of `aegis audit verify` for it, is `findings.Verdict`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from google.protobuf.message import DecodeError

from aegis.audit import checkpoints
from aegis.audit.chain import GENESIS
from aegis.audit.checkpoints import CheckpointError
from aegis.audit.copies import (
    CHECKPOINTS,
    Attachment,
    RawRecord,
    logs_in,
    notes_in,
    read_attachments,
    read_notes,
    scan_records,
)
from aegis.audit.findings import Finding, LogResult, Result, Verdict
from aegis.audit.merkle import Frontier
from aegis.audit.semantics import Story
from aegis.audit.signers import cosigned_by, open_checkpoint
from aegis.trust import TrustBundle
from aegis.v1 import audit_pb2

# An idle log cuts a checkpoint an hour; twice that without one is an alarm.
STALE_AFTER = timedelta(hours=2)
# Of a record whose length leads beyond the file, to tell an altered length from a cut file.
_LENGTHS_TRIED = 8192

_KINDS: dict[int, str] = {
    number: name.removeprefix("AUDIT_KIND_") for name, number in audit_pb2.AuditKind.items()
}
_PEER = audit_pb2.AUDIT_KIND_CHECKPOINT_PEER


def verify_copy(
    directory: Path,
    *,
    trust: TrustBundle,
    now: datetime,
    external: Iterable[Path] = (),
    only: Container[str] = (),
    stale_after: timedelta = STALE_AFTER,
) -> Result:
    """Verifies every log in `directory` against `trust`, and against notes from `external` folders.

    A log that only signed notes tell of was taken out of the copy, unless the copy is meant to be
    of `only` certain others. Raises FileNotFoundError when there is no log.
    """
    folders = logs_in(directory)
    if not folders:
        raise FileNotFoundError(f"{directory} holds no copy of an audit log")
    result, story = Result(), Story(trust)
    notes = [note for each in external for note in notes_in(each)]
    passes = [_Pass(folder, trust, result, story) for folder in folders]
    for each in passes:
        each.read()
        notes += each.peer_notes
    for each in passes:
        each.compare(notes)
        each.judge_attachments()
        each.judge_age(now, stale_after)
    result.findings += _missing(notes, {each.log.log_id for each in passes}, trust, only)
    if result.verdict in (Verdict.GOOD, Verdict.STALE):
        complete = {each.log.log_id for each in passes}
        result.findings += [
            Finding(Verdict.RULE, rule.log_id, rule.problem, rule.index)
            for rule in story.broken_rules(complete)
        ]
    return result


def _missing(
    notes: Iterable[str], there: set[str], trust: TrustBundle, only: Container[str]
) -> Iterator[Finding]:
    """Yields the logs that somebody signed records of and that are not there."""
    sizes: dict[str, int] = {}
    for note in notes:
        try:
            signed = open_checkpoint(note, trust)
        except CheckpointError:
            continue
        sizes[signed.log_id] = max(signed.size, sizes.get(signed.log_id, 0))
    for log_id, size in sorted(sizes.items()):
        if log_id not in there and (not only or log_id in only):
            text = "nothing of it is in the copy"
            yield Finding(Verdict.TRUNCATED, log_id, text, None, str(size), "0")


class _Pass:
    """One pass over the files of one log."""

    def __init__(self, folder: Path, trust: TrustBundle, result: Result, story: Story) -> None:
        self._folder = folder
        self._trust = trust
        self._result = result
        self._story = story
        self.log = LogResult(folder.name)
        self.peer_notes: list[str] = []
        self._beside = _Beside(folder)
        self._states: dict[int, tuple[bytes, bytes]] = {}
        path = folder / CHECKPOINTS
        self._own_notes = read_notes(path) if path.is_file() else []
        self._wanted = set(_sizes(self._own_notes))
        result.logs.append(self.log)

    def read(self) -> None:
        """Recomputes every hash; stops at the first record that is not what it was."""
        log, frontier = self.log, Frontier()
        append, sha256, wanted, states = frontier.append, hashlib.sha256, self._wanted, self._states
        parse = audit_pb2.AuditRecord.FromString
        beside = self._beside
        index, chained = 0, GENESIS
        counts: Counter[int] = Counter()
        for raw in scan_records(self._folder):
            leaf = sha256(b"\x00" + raw.record).digest()
            following = sha256(b"\x02" + chained + leaf).digest()
            if raw.hashes != leaf + chained + following:
                self._altered(index, raw, leaf, chained, following)
                break
            try:
                record = parse(raw.record)
            except DecodeError:
                self._find(Verdict.ALTERED, "its bytes are no audit record", index)
                break
            if record.index != index:
                text, expected = "it carries another index", str(index)
                self._find(Verdict.ALTERED, text, index, expected, str(record.index))
                break
            if index == 0:
                log.log_id = record.log_id
            counts[record.kind] += 1
            append(leaf)
            chained = following
            index += 1
            if index in wanted:
                states[index] = frontier.root(), chained
            if record.kind in self._story.KINDS or record.attachments:
                self._tell(record, beside)
        log.records, log.chain_hash, log.root = index, chained, frontier.root()
        states[index] = log.root, chained
        for kind, count in counts.items():
            log.counts[_KINDS[kind] if kind in _KINDS else str(kind)] += count

    def _tell(self, record: audit_pb2.AuditRecord, beside: _Beside) -> None:
        """Looks at a record that is part of a story, and at what is beside it."""
        index = record.index
        contents: dict[str, bytes] = {}
        try:
            found = beside.of(index)
        except ValueError as error:
            self._find(Verdict.ALTERED, str(error), index)
            return
        attachments = {each.name: each for each in found}
        if len(attachments) < len(found):
            # Another reader of the copy might take the other one.
            self._find(Verdict.ALTERED, "it has an attachment twice", index)
        for digest in record.attachments:
            kept = attachments.pop(digest.name, None)
            if kept is None:
                self._story.gone(self.log.log_id, index)
                self.log.erased += 1
                continue
            actual = hashlib.sha256(kept.salt + kept.content).digest()
            if actual != digest.sha256:
                text = f"its attachment {digest.name!r} was altered"
                self._find(Verdict.ALTERED, text, index, digest.sha256.hex(), actual.hex())
            contents[digest.name] = kept.content
        for name in attachments:
            self._find(Verdict.ALTERED, f"it has no attachment {name!r}", index)
        if record.kind == _PEER:
            self.peer_notes += [piece.content.decode(errors="replace") for piece in record.evidence]
        self._story.tell(self.log.log_id, record, contents)

    def judge_attachments(self) -> None:
        """Looks at what is left of them; of records that were cut off, some must be."""
        try:
            left = self._beside.rest()
        except ValueError as error:
            self._find(Verdict.ALTERED, str(error))
            return
        if left and not any(found.log_id == self.log.log_id for found in self._result.findings):
            self._find(Verdict.ALTERED, "there are attachments of records that are not there")

    def compare(self, notes: Iterable[str]) -> None:
        """Holds the records against every signed checkpoint, our own and those from elsewhere."""
        for note in self._own_notes:
            self._hold(note, own=True)
        for note in notes:
            self._hold(note, own=False)

    def _hold(self, note: str, *, own: bool) -> None:
        log = self.log
        try:
            claimed = checkpoints.parse(note).checkpoint
            if claimed.log_id != log.log_id:
                if own:
                    self._find(
                        Verdict.SIGNATURE, f"a checkpoint of {claimed.log_id} is among its own"
                    )
                return
            checkpoint = open_checkpoint(note, self._trust)
            for name in cosigned_by(note, self._trust):
                log.witnesses[name] = max(log.witnesses.get(name, 0), checkpoint.size)
        except CheckpointError as error:
            self._find(Verdict.SIGNATURE, f"a checkpoint does not count: {error}")
            return
        log.checkpoints += own
        if log.newest is None or checkpoint.time > log.newest.time:
            log.newest = checkpoint
        if checkpoint.size > log.records:
            text = "records are missing at the end"
            self._find(Verdict.TRUNCATED, text, None, str(checkpoint.size), str(log.records))
            return
        if (state := self._state(checkpoint.size)) != (checkpoint.root, checkpoint.chain):
            text = f"a signed checkpoint tells of other {checkpoint.size} records"
            self._find(Verdict.FORKED, text, None, checkpoint.root.hex(), state[0].hex())

    def _state(self, size: int) -> tuple[bytes, bytes]:
        """Returns root and chain hash at a size; another pass for one nobody had announced."""
        if size not in self._states:
            frontier, chained = Frontier(), GENESIS
            for raw in _first(scan_records(self._folder), size):
                frontier.append(raw.hashes[:32])
                chained = raw.hashes[64:]
            self._states[size] = frontier.root(), chained
        return self._states[size]

    def judge_age(self, now: datetime, stale_after: timedelta) -> None:
        """Says so when there was no checkpoint for too long."""
        newest = self.log.newest
        if newest is None:
            # Also of an empty log: everything may have been taken out of it.
            self._find(Verdict.STALE, "there is no checkpoint that counts")
        elif now - newest.time > stale_after:
            text = "the newest checkpoint is too old"
            self._find(
                Verdict.STALE, text, None, (now - stale_after).isoformat(), newest.time.isoformat()
            )

    def _altered(
        self, index: int, raw: RawRecord, leaf: bytes, chained: bytes, following: bytes
    ) -> None:
        if not raw.complete and not _was_whole(raw):
            self._find(Verdict.TRUNCATED, "the file ends in the middle of a record", index)
            return
        stored = raw.hashes[:32], raw.hashes[32:64], raw.hashes[64:]
        for problem, expected, actual in (
            ("the record's bytes were altered", stored[0], leaf),
            ("it does not follow the record before it", chained, stored[1]),
            ("its chain hash was altered", following, stored[2]),
        ):
            if expected != actual:
                self._find(Verdict.ALTERED, problem, index, expected.hex(), actual.hex())
                return

    def _find(
        self,
        verdict: Verdict,
        problem: str,
        index: int | None = None,
        expected: str = "",
        actual: str = "",
    ) -> None:
        log_id = self.log.log_id
        self._result.findings.append(Finding(verdict, log_id, problem, index, expected, actual))


class _Beside:
    """The attachments of a copy, read along with its records."""

    def __init__(self, folder: Path) -> None:
        self._rest = read_attachments(folder)
        self._next: Attachment | None = None
        self._begun = False

    def of(self, index: int) -> list[Attachment]:
        """Returns those of one record; ValueError when the file is damaged or out of order."""
        found = []
        while (each := self._peek()) is not None and each.position <= index:
            if each.position < index:
                raise ValueError(f"an attachment names record {each.position}, which has none")
            found.append(each)
            self._begun = False
        return found

    def rest(self) -> int:
        """Returns how many are left."""
        return (self._peek() is not None) + sum(1 for _ in self._rest)

    def _peek(self) -> Attachment | None:
        if not self._begun:
            self._next, self._begun = next(self._rest, None), True
        return self._next


def _was_whole(raw: RawRecord) -> bool:
    """Says whether only the length was altered: the rest of the file still ends in its hashes."""
    tail = raw.record + raw.hashes
    ends = (len(tail), *range(96, min(len(tail), _LENGTHS_TRIED)))
    return any(
        hashlib.sha256(b"\x00" + tail[: end - 96]).digest() == tail[end - 96 : end - 64]
        for end in ends
        if end >= 96
    )


def _sizes(notes: Iterable[str]) -> Iterator[int]:
    for note in notes:
        try:
            yield checkpoints.parse(note).checkpoint.size
        except CheckpointError:
            continue


def _first(records: Iterator[RawRecord], count: int) -> Iterator[RawRecord]:
    for _ in range(count):
        yield next(records)
