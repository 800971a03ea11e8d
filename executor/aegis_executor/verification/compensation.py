"""Taking back what did not help.

It is one more change, and treated like the first: planned on the live object, written down before
it is sent, pinned to what was read, stopped by the kill switch and by what the object itself has
against it (a veto, a protection, a new owner), recognised after a crash by the annotation ACTION_ID
"-undo". What somebody else has changed meanwhile is left alone. It ends as COMPENSATED once the
object has settled again, and otherwise with a person.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeAlias

from aegis.errors import AegisError, Unavailable
from aegis_executor.catalogue import gates
from aegis_executor.catalogue.base import Change, Object, Place, Remedy, Sent, Trace
from aegis_executor.departing import Departure
from aegis_executor.kubernetes import (
    ClusterRefused,
    ClusterSilent,
    ClusterUnreachable,
    ForbiddenRequest,
)
from aegis_executor.reading import ODD, Cluster, see
from aegis_executor.verification.judgement import Outcome, Verdict
from aegis_executor.verification.ledger import Ledger
from aegis_executor.verification.probes.drift import drift, mark_of
from aegis_executor.verification.sight import look, pinned_of
from aegis_executor.verification.store import Applied
from aegis_executor.verification.watch import Watch

log = logging.getLogger(__name__)

# Raises when this may not be taken back by that, at the moment or at all.
Recheck: TypeAlias = Callable[[Applied, Remedy], Awaitable[None]]

_ATTEMPTS_MAX = 5
# The API server is busy, and did nothing: what takes back evicts nobody, so no budget says this.
_TOO_MANY = 429
# After this long a cluster that cannot be reached leaves the question to a person.
_GIVE_UP = timedelta(minutes=10)


class Compensation:
    """Undoes changes, one step at a call."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        cluster: Cluster,
        recheck: Recheck,
        clock: Callable[[], datetime],
        departure: Departure,
    ) -> None:
        self._ledger = ledger
        self._cluster = cluster
        self._recheck = recheck
        self._clock = clock
        self._departure = departure

    async def step(self, watch: Watch) -> Verdict | None:
        """Goes one step on; returns the verdict, or None while it is under way.

        Raises `Unavailable` when the journal cannot be written: then nothing was sent.
        """
        applied, found = watch.applied, watch.found
        try:
            verdict = await self._step(watch, found)
        except Unavailable:
            raise
        except AegisError as refusal:
            return _escalated(found, refusal.message, refusal.reason)
        except ClusterRefused as refused:
            if refused.code != _TOO_MANY:
                told = f"the cluster refused: {refused.code} {refused.reason}"
                return _escalated(found, told, "CLUSTER_REFUSED")
            verdict = None
        except ForbiddenRequest:
            return _escalated(found, "this executor no longer reaches it", "NAMESPACE_NOT_ALLOWED")
        except (ClusterSilent, ClusterUnreachable):
            verdict = None
        except ODD:
            log.exception("%s cannot be taken back", applied.action_id)
            return _escalated(found, "the object is not as expected", "INTERNAL")
        if verdict is None and self._clock() - watch.undo_began_at > _GIVE_UP + watch.terms.window:
            return _escalated(found, "the cluster does not tell", "CLUSTER_UNAVAILABLE")
        return verdict

    async def _step(self, watch: Watch, found: str) -> Verdict | None:
        observed, sent_at = watch.applied.observations, watch.applied.undo_sent_at
        undo = watch.remedy.undo(observed) if observed.get("changed") != "no" else None
        if undo is None:
            return Verdict("ESCALATED", f"{found}; there is nothing that takes it back")
        if sent_at is None:
            return await self._send(watch, undo, 1)
        return await self._follow(watch, undo, sent_at)

    async def _follow(self, watch: Watch, undo: Remedy, sent_at: datetime) -> Verdict | None:
        seen = await look(self._cluster, undo, watch.baseline.anchor)
        if not watch.undone:
            match _trace(watch, undo, pinned_of(seen, undo.place)):
                case Trace.HIDDEN:
                    told = "somebody else changed the object meanwhile"
                    return _escalated(watch.found, told, "TARGET_CHANGED")
                case Trace.OPEN if not self._departure.over(sent_at, self._clock()):
                    return None
                case Trace.OPEN | Trace.DEAD:
                    return await self._send(watch, undo, (watch.applied.undo_number or 0) + 1)
                case Trace.APPLIED:
                    watch.undone = True
        if undo.settled(seen):
            return Verdict("COMPENSATED", f"{watch.found}; it was taken back")
        if self._clock() > sent_at + watch.terms.window:
            return _escalated(watch.found, "it was taken back and has not settled", "")
        return None

    async def _send(self, watch: Watch, undo: Remedy, first: int) -> Verdict | None:
        for number in range(first, _ATTEMPTS_MAX + 1):
            change = await self._plan(watch, undo)
            if change is None:
                return Verdict("COMPENSATED", f"{watch.found}; it was taken back already")
            written_at = self._clock()
            await self._ledger.sending(watch.applied, number, change)
            await self._recheck(watch.applied, undo)
            self._departure.check(written_at, self._clock())
            try:
                watch.notes["undo_audit_id"] = await self._cluster.apply(change)
            except ClusterRefused as refused:
                if refused.code != 409:
                    raise
                # A controller's status update is enough for this; drift is looked for again.
                await asyncio.sleep(0.05 * number)
                continue
            watch.undone = True
            await self._tell(change, watch)
            return None
        told = f"the object changed {_ATTEMPTS_MAX} times meanwhile"
        return _escalated(watch.found, told, "TARGET_CHANGED")

    async def _plan(self, watch: Watch, undo: Remedy) -> Change | None:
        # Not `look`: the gates need what the remedy needs.
        seen = await see(self._cluster, undo)
        change = undo.plan(seen, watch.undo_id)
        if change is None:
            # What is so already was not so by chance: nobody has to be overruled for it.
            return None
        found = drift(
            mark_of(pinned_of(seen, undo.place)),
            watch.wrote,
            before_action_id=watch.baseline.mark.action_id,
        )
        if found.outcome is Outcome.DRIFTED:
            raise _Drifted(found.message)
        gates.refuse(gates.of_undo(undo, seen))
        return change

    async def _tell(self, change: Change, watch: Watch) -> None:
        """Leaves an Event at the object; the journal is the record, so this one may fail."""
        place: Place = change.place
        message = f"{watch.applied.action_id} did not help and was taken back"
        try:
            await self._cluster.record_event(
                place, place.uid, "AegisUndone", message, watch.undo_id
            )
        except (ClusterRefused, ClusterSilent, ClusterUnreachable, ForbiddenRequest) as error:
            log.warning("no Event at %s: %s", place, error)


class _Drifted(AegisError):
    def __init__(self, message: str) -> None:
        super().__init__("TARGET_CHANGED", message)


def _trace(watch: Watch, undo: Remedy, live: Object | None) -> Trace:
    applied = watch.applied
    sent = Sent(
        applied.undo_uid or "", applied.undo_resource_version or "", applied.undo_generation or 0
    )
    return undo.recognise(sent, live, watch.undo_id)


def _escalated(found: str, why: str, reason: str) -> Verdict:
    return Verdict("ESCALATED", f"{found}; not undone: {why}", reason)
