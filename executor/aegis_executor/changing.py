"""From a claimed request to a change: read, try, write down, check once more, send.

These are steps 14 to 17 of the order every request goes through; those before are admission's and
the claim's. Time passes between them, so what was checked at the door is checked again at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from aegis.errors import Aborted
from aegis_executor.admission import Admission, Admitted
from aegis_executor.catalogue import gates
from aegis_executor.catalogue.base import Change
from aegis_executor.departing import Departure
from aegis_executor.failpoints import Failpoints
from aegis_executor.journal import Ending, Journal
from aegis_executor.kubernetes import ClusterRefused
from aegis_executor.looking import told
from aegis_executor.planning import (
    REPEAT_SECONDS,
    TRIES_MAX,
    Draft,
    Planned,
    Planner,
    may_repeat,
)
from aegis_executor.ports import Guards, Healing, asked_of
from aegis_executor.reading import Cluster


class Changing:
    """Makes one change, or says why not."""

    def __init__(
        self,
        *,
        journal: Journal,
        cluster: Cluster,
        planner: Planner,
        admission: Admission,
        guards: Guards,
        healing: Healing,
        failpoints: Failpoints,
        departure: Departure,
        clock: Callable[[], datetime],
    ) -> None:
        self._journal = journal
        self._cluster = cluster
        self._planner = planner
        self._admission = admission
        self._guards = guards
        self._healing = healing
        self._failpoints = failpoints
        self._departure = departure
        self._clock = clock

    async def change(self, admitted: Admitted) -> Ending:
        """Returns how it ended, when nothing stood in the way.

        Raises the refusal otherwise, and the errors of the cluster's port: `ClusterSilent` only
        once something was sent.
        """
        planned = await self._plan(admitted)
        if admitted.dry_run:
            return Ending("DRY_RUN", message=f"tried: {told(admitted.remedy)}")
        # What was so already is watched too, and needs something to be compared with.
        seen = planned.draft.seen
        await self._healing.capture(admitted.request_id, admitted.remedy, admitted.spec, seen)
        self._reach("after-baseline", admitted)
        return await self._send(admitted, planned.draft)

    async def _plan(self, admitted: Admitted) -> Planned:
        def check(draft: Draft) -> None:
            # 14: the object, as it is now.
            self._reach("after-read", admitted)
            wanted = admitted.spec.preconditions.generation
            if wanted and wanted != draft.generation:
                raise Aborted("TARGET_CHANGED", "somebody changed the object since it was planned")
            gates.refuse(draft.gates)

        planned = await self._planner.plan(
            admitted.remedy,
            action_id=admitted.action_id,
            standing=admitted.standing,
            check=check,
        )
        self._reach("after-dry-run", admitted)
        # 15: what would change is what was looked at.
        if admitted.spec.HasField("preconditions"):
            approved = admitted.spec.preconditions.diff_sha256
            if planned.diff_sha256 != approved:
                raise Aborted("PLAN_DRIFT", "it would change something else than was planned")
        return planned

    async def _send(self, admitted: Admitted, draft: Draft) -> Ending:
        first = draft
        for number in range(1, TRIES_MAX + 1):
            if draft.change is None:
                return _was_so()
            try:
                return await self._mutate(admitted, number, draft.change)
            except ClusterRefused as refused:
                if not may_repeat(draft.change, refused):
                    raise
            # A controller's status update is enough for this, so the intent is checked anew.
            await asyncio.sleep(REPEAT_SECONDS * number)
            draft = await self._planner.draft(
                admitted.remedy, action_id=admitted.action_id, standing=admitted.standing
            )
            if (draft.uid, draft.generation) != (first.uid, first.generation):
                raise Aborted("TARGET_CHANGED", "somebody else changed the object meanwhile")
            gates.refuse(draft.gates)
            if not _same(draft.change, first.change):
                raise Aborted("PLAN_DRIFT", "it would change something else than was tried")
        raise Aborted("TARGET_CHANGED", f"the object changed {TRIES_MAX} times meanwhile")

    async def _mutate(self, admitted: Admitted, number: int, change: Change) -> Ending:
        written_at = self._clock()
        await self._journal.sending(admitted.request_id, number, change)
        self._reach("after-attempt", admitted)
        # 16: what time may have changed.
        await self._guards.recheck(asked_of(admitted))
        self._admission.recheck(admitted)
        self._reach("before-mutate", admitted)
        self._departure.check(written_at, self._clock())
        audit_id = await self._cluster.apply(change)
        self._reach("after-mutate", admitted)
        seen = {**change.observations, "audit_id": audit_id, "changed": "yes"}
        return Ending("APPLIED", message=told(admitted.remedy), observations=seen)

    def _reach(self, point: str, admitted: Admitted) -> None:
        self._failpoints.reach(point, admitted.remedy.verb)


def _same(now: Change | None, tried: Change | None) -> bool:
    """True when the same would be sent as was tried: a ReplicaSet may be gone, a pod be ready."""
    if now is None or tried is None:
        return True
    return (now.verb, now.observations) == (tried.verb, tried.observations)


def _was_so() -> Ending:
    return Ending("APPLIED", message="it was so already", observations={"changed": "no"})
