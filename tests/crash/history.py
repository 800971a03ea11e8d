"""What happened, told by four who cannot copy from each other.

The cluster's write ledger says what was changed. The executor's journal says what it meant to do
and how it ended. Its audit log says the same to strangers. The client knows what it asked and what
it was told. `checking.py` holds these four against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["double", "lost", "unexplained"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must never happen, and did."""

    kind: Kind
    request_id: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Effect:
    """A write that changed the cluster, from the ledger."""

    at: datetime
    audit_id: str
    verb: str
    resource: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asked for; `not_after` is the end of the decision it came with.

    `takes_back` says that the request ordered its change undone should it not help.
    """

    request_id: str
    action: str
    namespace: str
    name: str
    not_after: datetime
    takes_back: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """What a client got: an execution's state, or a refusal's reason, or nothing (lost).

    `began` is when it had asked; unset means that nothing else was under way.
    """

    request_id: str
    at: datetime
    state: str = ""
    reason: str = ""
    began: datetime | None = None

    @property
    def lost(self) -> bool:
        """Whether it learned nothing."""
        return not self.state and not self.reason


@dataclass(frozen=True, slots=True)
class Intent:
    """A row of `intent`."""

    request_id: str
    action_id: str
    action: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of `attempt`, or of `undo_attempt`: what is about to be sent."""

    request_id: str
    number: int
    uid: str
    at: datetime
    undo: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """A row of `ending`."""

    request_id: str
    state: str
    at: datetime
    reason: str = ""
    observations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A row of `verdict`."""

    request_id: str
    state: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the executor's audit log, as far as it is about an execution."""

    action_id: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Paused:
    """A pause from when it was acknowledged; empty namespace or action means every one.

    Without `ended_at` it still holds.
    """

    acknowledged_at: datetime
    ended_at: datetime | None
    namespace: str = ""
    action: str = ""

    def covers(self, asked: Asked, at: datetime, grace: timedelta) -> bool:
        """Whether nothing of this request may take effect at this moment."""
        inside = at > self.acknowledged_at + grace and not (self.ended_at and at >= self.ended_at)
        return (
            inside and self.namespace in ("", asked.namespace) and self.action in ("", asked.action)
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """At most so many effects in any window of this length, counted per scope."""

    scope: Literal["target", "namespace", "global"]
    most: int
    window: timedelta


@dataclass(frozen=True, slots=True)
class History:
    """Everything that is known about a set of requests.

    `broken` is where the audit log does not verify; empty when it does.
    """

    effects: tuple[Effect, ...] = ()
    asked: tuple[Asked, ...] = ()
    told: tuple[Told, ...] = ()
    intents: tuple[Intent, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    endings: tuple[Ending, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    records: tuple[Record, ...] = ()
    paused: tuple[Paused, ...] = ()
    budgets: tuple[Budget, ...] = ()
    broken: str = ""

    def attempt_behind(self, effect: Effect) -> Attempt | None:
        """Returns the attempt an effect belongs to: the last one on this very object before it."""
        before = (
            attempt
            for attempt in self.attempts
            if attempt.uid == effect.uid and attempt.at <= effect.at
        )
        return max(before, key=lambda attempt: attempt.at, default=None)
