"""One execution that is being watched: what is fixed about it, and what this process has seen.

What a restart forgets only delays the verdict: looks begin again, and the window does not move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from aegis_executor.catalogue.base import Kind, Remedy, Seen
from aegis_executor.verification.baseline import Baseline
from aegis_executor.verification.judgement import Course, Look, Tally, Verdict
from aegis_executor.verification.probes.drift import Mark, mark_of
from aegis_executor.verification.sight import pinned_of
from aegis_executor.verification.store import Applied
from aegis_executor.verification.terms import Terms

_FOUND = "it did not help"


@dataclass(slots=True)
class Watch:
    """Of one execution, from the change to the verdict."""

    applied: Applied
    remedy: Remedy
    terms: Terms
    baseline: Baseline
    began_at: datetime
    tally: Tally = field(default_factory=Tally)
    last: Look | None = None
    restarts: Mapping[str, int] | None = None
    spec_sha256: str = ""
    # Since when it is being taken back, what was found before, and whether the cluster took it.
    undoing_since: datetime | None = None
    found: str = _FOUND
    undone: bool = False
    notes: dict[str, str] = field(default_factory=dict)
    # How far the clock jumped since.
    slipped: timedelta = timedelta(0)
    # Found, and perhaps not yet written down.
    verdict: Verdict | None = None

    @property
    def changed_at(self) -> datetime:
        """When the cluster was told; for what was so already, when that was found."""
        return (self.applied.sent_at or self.applied.ended_at) + self.slipped

    def slip(self, by: timedelta) -> None:
        """Moves what is counted from along with a clock that jumped.

        A window is a length of time: an hour of it must not be over because a clock was set.
        """
        self.slipped += by
        self.began_at += by
        if self.undoing_since is not None:
            self.undoing_since += by

    @property
    def course(self) -> Course:
        """From when until when it is judged."""
        return self.terms.course(self.changed_at, self.began_at)

    @property
    def undo_id(self) -> str:
        """What marks the change that takes it back."""
        return f"{self.applied.action_id}-undo"

    @property
    def undoing(self) -> bool:
        """True once it is being taken back, by this process or by one before it."""
        return self.undoing_since is not None or self.applied.undo_sent_at is not None

    @property
    def undo_began_at(self) -> datetime:
        """Since when this process is taking it back."""
        return self.undoing_since or self.began_at

    @property
    def wrote(self) -> Mark:
        """What the object must still look like if nobody else has changed it."""
        before = self.baseline.mark
        generation = before.generation
        if self.remedy.place.kind is Kind.DEPLOYMENT and self.applied.generation:
            # Every change of a spec counts one up, and ours was pinned to the one before.
            generation = self.applied.generation + 1
        return replace(
            before,
            generation=generation,
            action_id=self.applied.action_id,
            spec_sha256=self.spec_sha256,
        )

    def recognise(self, seen: Seen) -> Mark:
        """Returns the mark of what is there now.

        The first that fits the rest of what we wrote says what the spec is to be from then on.
        """
        now, wrote = mark_of(pinned_of(seen, self.remedy.place)), self.wrote
        fits = (now.uid, now.generation) == (wrote.uid, wrote.generation)
        if not self.spec_sha256 and fits:
            self.spec_sha256 = now.spec_sha256
        return now
