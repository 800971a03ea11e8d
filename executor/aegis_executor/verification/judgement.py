"""The verdict, as a fold over looks: no clock, no cluster, no memory but the tally.

A look is what every probe found at one moment. Its worst finding decides what it is worth:

    DRIFTED   somebody else changed the object: nothing after that is about our change
    FAILED    harm, e.g. containers that restart again; so many of these and it did not help
    WAITING   not healthy yet
    UNASKED   a probe had nobody to ask; never a success
    GOOD      every probe is content

So many good looks in a row are VERIFIED; the limit of failed ones wins over any number of good ones
that comes later. At the end of the window what was seen last decides: not healthy is INEFFECTIVE;
unasked, or good for too short a time, is INCONCLUSIVE.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from typing import Literal, TypeAlias

State: TypeAlias = Literal["VERIFIED", "INEFFECTIVE", "INCONCLUSIVE", "COMPENSATED", "ESCALATED"]


class Outcome(enum.IntEnum):
    """What one probe found; the higher, the more it weighs."""

    GOOD = 0
    UNASKED = 1
    WAITING = 2
    FAILED = 3
    DRIFTED = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe found, as a sentence with its numbers.

    `reason` is the ErrorReason name that goes with it, where there is one.
    """

    probe: str
    outcome: Outcome
    message: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What every probe found at one moment."""

    at: datetime
    findings: Sequence[Finding]

    @property
    def outcome(self) -> Outcome:
        """The worst that was found; a look at nothing is no success."""
        return max((each.outcome for each in self.findings), default=Outcome.UNASKED)

    @property
    def worst(self) -> tuple[Finding, ...]:
        """The findings that made it what it is."""
        return tuple(each for each in self.findings if each.outcome is self.outcome)


@dataclass(frozen=True, slots=True)
class Course:
    """From when until when looks are judged, and how many of which kind decide."""

    starts_at: datetime
    ends_at: datetime
    successes: int
    failures: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known in the end."""

    state: State
    message: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """What the looks so far amount to; once there is a verdict, nothing changes it."""

    good_in_a_row: int = 0
    failed: int = 0
    looks: int = 0
    verdict: Verdict | None = None

    def after(self, look: Look, course: Course) -> Tally:
        """Returns the tally with one more look; what is seen before the start is not judged."""
        if self.verdict is not None or look.at < course.starts_at:
            return self
        good, failed = look.outcome is Outcome.GOOD, look.outcome is Outcome.FAILED
        counted = Tally(
            good_in_a_row=self.good_in_a_row + 1 if good else 0,
            failed=self.failed + failed,
            looks=self.looks + 1,
        )
        return replace(counted, verdict=_verdict(counted, look, course))


def judge(looks: Iterable[Look], course: Course) -> Verdict | None:
    """Returns the verdict on looks in the order of their times; None while there is none."""
    return reduce(lambda tally, look: tally.after(look, course), looks, Tally()).verdict


def _verdict(tally: Tally, look: Look, course: Course) -> Verdict | None:
    told = "; ".join(f"{each.probe}: {each.message}" for each in look.worst)
    reason = next((each.reason for each in look.worst if each.reason), "")
    if look.outcome is Outcome.DRIFTED:
        return Verdict("INCONCLUSIVE", told, reason)
    if tally.failed >= course.failures:
        return Verdict("INEFFECTIVE", f"{tally.failed} looks showed harm; {told}", reason)
    if tally.good_in_a_row >= course.successes:
        return Verdict("VERIFIED", f"{tally.good_in_a_row} good looks in a row")
    if look.at < course.ends_at:
        return None
    match look.outcome:
        case Outcome.GOOD:
            short = f"{tally.good_in_a_row} of {course.successes} good looks in a row"
            return Verdict("INCONCLUSIVE", f"the window ended after {short}")
        case Outcome.UNASKED:
            return Verdict("INCONCLUSIVE", f"it could not be told; {told}", reason)
        case _:
            return Verdict("INEFFECTIVE", f"not healed within the window; {told}", reason)
