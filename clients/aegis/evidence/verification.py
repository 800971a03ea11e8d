"""Is this the evidence the server signed, whole, about this update, and what the log says it is?

Nothing is asked of anybody: a bundle, a trust bundle, and where there are the update's bytes and a
copy of the audit log. The steps are those of `Check`, in that order; a later one is only tried
where the earlier ones left something to look at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from aegis.audit.copies import logs_in, scan_records
from aegis.audit.findings import LogResult
from aegis.audit.findings import Verdict as LogVerdict
from aegis.audit.verifier import verify_copy
from aegis.evidence.archive import ArchiveError, is_canonical, unpack
from aegis.evidence.manifest import (
    EVIDENCE,
    MANIFEST,
    SIGNED,
    FileEntry,
    Manifest,
    ManifestError,
    SignatureError,
    open_signed,
)
from aegis.trust import TrustBundle, TrustedKey
from aegis.v1 import audit_pb2

# What is wrong with a log as a whole, or elsewhere in it, takes nothing from one proven record.
_WHOLE = (LogVerdict.GOOD, LogVerdict.STALE, LogVerdict.RULE)


class Check(StrEnum):
    """A step of the verification."""

    # 1. It is a bundle, and no byte of it is not one of its files'.
    ARCHIVE = "archive"
    # 2. A key that counts for evidence signed the manifest, and was usable then.
    SIGNATURE = "signature"
    # 3. manifest.json is what was signed.
    MANIFEST = "manifest"
    # 4. Every file is listed, every listed file is there, each has its size and digest.
    FILES = "files"
    # 5. evidence.json is about the update the manifest names, with that verdict.
    EVIDENCE = "evidence"
    # 6. The update that was given has the digest the evidence is about.
    UPDATE = "update"
    # 7. In the log, under a signed checkpoint, that verdict rests on this evidence.
    AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, in which file where it is one."""

    check: Check
    problem: str
    file: str = ""
    expected: str = ""
    actual: str = ""


@dataclass(slots=True)
class Result:
    """What was checked, and what was found wrong. `manifest` and `key` are None until proven."""

    checked: list[Check] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    manifest: Manifest | None = None
    key: TrustedKey | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """True when nothing is wrong."""
        return not self.findings

    def find(
        self, check: Check, problem: str, file: str = "", expected: str = "", actual: str = ""
    ) -> None:
        """Notes something wrong."""
        self.findings.append(Finding(check, problem, file, expected, actual))


def verify_bundle(
    data: bytes, *, trust: TrustBundle, update: bytes | None = None, audit: Path | None = None
) -> Result:
    """Verifies a bundle, and what else is given: the update's bytes, a copy of the audit log.

    Raises OSError for a copy that cannot be read.
    """
    result = Result([Check.ARCHIVE])
    try:
        result.files = unpack(data)
    except ArchiveError as error:
        result.find(Check.ARCHIVE, str(error))
        return result
    if not _signed(result, trust) or result.manifest is None:
        return result
    _files(result, result.manifest)
    if result.good and not is_canonical(data, result.files):
        result.find(Check.ARCHIVE, "there is more in it than its files, or its end is missing")
    if result.good:
        _evidence(result, result.manifest)
    if update is not None:
        result.checked.append(Check.UPDATE)
        _same(
            result,
            Check.UPDATE,
            "the update given is not the one this evidence is about",
            result.manifest.update_sha256.hex(),
            hashlib.sha256(update).hexdigest(),
        )
    if audit is not None:
        _audited(result, result.manifest, audit, trust)
    return result


def _signed(result: Result, trust: TrustBundle) -> bool:
    """Steps 2 and 3: without a proven manifest there is nothing to hold the rest against."""
    result.checked.append(Check.SIGNATURE)
    missing = [name for name in (MANIFEST, SIGNED) if name not in result.files]
    if missing:
        result.find(Check.SIGNATURE, "there is no such file", missing[0])
        return False
    try:
        payload, result.key = open_signed(result.files[SIGNED], trust)
    except (SignatureError, ManifestError) as error:
        result.find(Check.SIGNATURE, str(error), SIGNED)
        return False
    result.checked.append(Check.MANIFEST)
    result.manifest = Manifest.decode(payload)
    if result.files[MANIFEST] != payload:
        result.find(Check.MANIFEST, "it is not what was signed", MANIFEST)
    return True


def _files(result: Result, manifest: Manifest) -> None:
    result.checked.append(Check.FILES)
    there = result.files.keys() - {MANIFEST, SIGNED}
    for name in sorted(there - manifest.files.keys()):
        result.find(Check.FILES, "the manifest does not list it", name)
    for name, entry in sorted(manifest.files.items()):
        if name not in there:
            result.find(Check.FILES, "it is missing", name)
            continue
        actual = FileEntry.of(result.files[name])
        if actual != entry:
            text = "it is not what was signed"
            result.find(Check.FILES, text, name, entry.sha256.hex(), actual.sha256.hex())


def _evidence(result: Result, manifest: Manifest) -> None:
    result.checked.append(Check.EVIDENCE)
    data = result.files.get(EVIDENCE, b"")
    _same(
        result,
        Check.EVIDENCE,
        "its digest is not the one the manifest names",
        manifest.evidence_sha256.hex(),
        hashlib.sha256(data).hexdigest(),
    )
    told = (
        ("update", "update_id", manifest.update_id),
        ("update", "sha256", manifest.update_sha256.hex()),
        ("update", "participant", manifest.participant),
        ("round", "number", manifest.round),
        ("judgement", "verdict", manifest.verdict),
    )
    try:
        evidence = json.loads(data)
        for part, name, expected in told:
            actual: Any = evidence[part][name]
            text = f"its {part}.{name} is not the manifest's"
            _same(result, Check.EVIDENCE, text, str(expected), str(actual))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        result.find(Check.EVIDENCE, f"it cannot be read: {error!r}", EVIDENCE)


def _audited(result: Result, manifest: Manifest, copy: Path, trust: TrustBundle) -> None:
    result.checked.append(Check.AUDIT)
    try:
        verified = verify_copy(copy, trust=trust, now=datetime.now(UTC))
    except FileNotFoundError as error:
        result.find(Check.AUDIT, str(error))
        return
    if verified.verdict not in _WHOLE:
        worst = next(each for each in verified.findings if each.verdict is verified.verdict)
        result.find(Check.AUDIT, f"the copy of {worst.log_id} does not verify: {worst.problem}")
        return
    for folder, log in zip(logs_in(copy), verified.logs, strict=True):
        for record in _verdicts(folder, manifest.update_id):
            _record(result, manifest, record, log)
            return
    result.find(Check.AUDIT, f"the copy has no verdict on {manifest.update_id}")


def _verdicts(folder: Path, update_id: str) -> Iterator[audit_pb2.AuditRecord]:
    for raw in scan_records(folder):
        record = audit_pb2.AuditRecord.FromString(raw.record)
        if (
            record.kind == audit_pb2.AUDIT_KIND_REVIEW
            and record.action == "judge"
            and record.subject_id == update_id
        ):
            yield record


def _record(
    result: Result, manifest: Manifest, record: audit_pb2.AuditRecord, log: LogResult
) -> None:
    place = f"record {record.index} of {record.log_id}"
    proven = log.newest.size if log.newest is not None else 0
    if record.index >= proven:
        result.find(Check.AUDIT, f"no signed checkpoint holds {place} yet; copy the log again")
    details = record.details
    told = (
        ("evidence_sha256", manifest.evidence_sha256.hex(), details["evidence_sha256"]),
        ("sha256", manifest.update_sha256.hex(), details["sha256"]),
        ("run_id", manifest.run_id, details["run_id"]),
        ("round", str(manifest.round), details["round"]),
        ("attempt", str(manifest.attempt), details["attempt"]),
        ("participant", manifest.participant, details["participant"]),
        ("outcome", manifest.verdict, record.outcome),
    )
    for name, expected, actual in told:
        text = f"{place} has another {name}"
        _same(result, Check.AUDIT, text, expected, actual)


def _same(result: Result, check: Check, problem: str, expected: str, actual: str) -> None:
    if expected != actual:
        file = EVIDENCE if check is Check.EVIDENCE else ""
        result.find(check, problem, file, expected, actual)
