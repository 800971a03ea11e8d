"""What the verification of a copy finds: of each log, and what is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum

from aegis.audit.chain import GENESIS
from aegis.audit.checkpoints import Checkpoint


class Verdict(IntEnum):
    """What was found, and the exit status that says so."""

    GOOD = 0
    # A record is not what was written, or not where.
    ALTERED = 1
    # A signed checkpoint knows more records than there are.
    TRUNCATED = 2
    # A signed checkpoint knows other records of the same number: the past was written anew.
    FORKED = 3
    # A checkpoint is not signed by a key that counts, or a signature does not hold.
    SIGNATURE = 4
    # No checkpoint for too long.
    STALE = 5
    # The record is whole, and tells of something that must not happen.
    RULE = 6


# The gravest first: each makes those behind it pointless.
_PRECEDENCE = (
    Verdict.ALTERED,
    Verdict.FORKED,
    Verdict.TRUNCATED,
    Verdict.SIGNATURE,
    Verdict.RULE,
    Verdict.STALE,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: in which log, at which record if at one, and how."""

    verdict: Verdict
    log_id: str
    problem: str
    index: int | None = None
    expected: str = ""
    actual: str = ""


@dataclass(slots=True)
class LogResult:
    """What a pass over one log found."""

    log_id: str
    records: int = 0
    chain_hash: bytes = GENESIS
    root: bytes = b""
    counts: Counter[str] = field(default_factory=Counter)
    # Attachments that are gone, as an ERASURE record says.
    erased: int = 0
    checkpoints: int = 0
    newest: Checkpoint | None = None
    # Witnesses that cosigned the newest checkpoint they have seen, and its size.
    witnesses: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Result:
    """What the verification of a copy found; `verdict` is the gravest of the findings."""

    logs: list[LogResult] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """GOOD without findings."""
        found = {finding.verdict for finding in self.findings}
        return next((verdict for verdict in _PRECEDENCE if verdict in found), Verdict.GOOD)
