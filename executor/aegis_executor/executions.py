"""From an admitted request to an end that is written down.

12: what refuses before anything is claimed. 13: the claim, and what refuses in its transaction.
Then `changing.py` does it. Whatever is interrupted on the way leaves an INTENT without an end.
`sweep` ends those by looking at the cluster, at the start and for as long as the executor runs; it
never sends a change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial

from prometheus_client import CollectorRegistry, Counter

from aegis.errors import AegisError, Unavailable
from aegis.serving.deeds import Deeds
from aegis.v1 import envelope_pb2
from aegis_executor.admission import Admitted
from aegis_executor.catalogue import of_spec
from aegis_executor.catalogue.base import Remedy
from aegis_executor.changing import Changing
from aegis_executor.failpoints import Failpoints
from aegis_executor.journal import Ending, Execution, Journal
from aegis_executor.kubernetes import (
    ClusterRefused,
    ClusterSilent,
    ClusterUnreachable,
    ForbiddenRequest,
)
from aegis_executor.looking import Looking
from aegis_executor.ports import Guards, asked_of
from aegis_executor.reading import ODD, Cluster
from aegis_executor.store import Intent

log = logging.getLogger(__name__)

_SWEEP_SECONDS = 15.0
_SWEEP_AGAIN_SECONDS = 1.0
# What an object's own events tell people.
_EVENT = "AegisRemediation"


class Executions:
    """Carries out what was admitted."""

    def __init__(
        self,
        *,
        journal: Journal,
        cluster: Cluster,
        guards: Guards,
        changing: Changing,
        looking: Looking,
        failpoints: Failpoints,
        registry: CollectorRegistry,
    ) -> None:
        self._journal = journal
        self._cluster = cluster
        self._guards = guards
        self._changing = changing
        self._looking = looking
        self._failpoints = failpoints
        self._deeds = Deeds()
        self._going: dict[str, asyncio.Event] = {}
        self._left_open = asyncio.Event()
        self._ended = Counter(
            "aegis_executor_executions_total",
            "Executions that ended.",
            ["action", "state", "reason"],
            registry=registry,
        )

    async def carry_out(self, admitted: Admitted) -> Execution:
        """Does it once, to the end, even when the caller goes away.

        Raises what guards and `Journal.claim` raise; from there on the answer is an execution.
        """
        return await self._deeds.finish(self._carry_out(admitted))

    async def find(self, request_id: str) -> Execution:
        """Returns what became of a request; raises `NotFound` (RESOURCE_NOT_FOUND)."""
        return await self._journal.find(request_id)

    async def drain(self) -> None:
        """Waits for what is going on."""
        await self._deeds.drain()

    async def _carry_out(self, admitted: Admitted) -> Execution:
        request_id, verb = admitted.request_id, admitted.remedy.verb
        self._failpoints.reach("after-admission", verb)
        # A repeat that overtakes its first waits for it, and then finds it in the journal.
        while (going := self._going.get(request_id)) is not None:
            await going.wait()
        done = self._going[request_id] = asyncio.Event()
        try:
            execution, fresh = await self._claim(admitted)
            if not fresh:
                return execution
            self._failpoints.reach("after-claim", verb)
            ended = await self._bring_to_end(admitted)
            if ended is None:
                self._left_open.set()
            return ended or execution
        finally:
            del self._going[request_id]
            done.set()

    async def _claim(self, admitted: Admitted) -> tuple[Execution, bool]:
        # A pause must not hide from a repeat what became of the first.
        stored = await self._journal.stored(admitted)
        if stored is not None:
            return stored, False
        asked = asked_of(admitted)
        await self._guards.enter(asked)
        self._failpoints.reach("before-claim", admitted.remedy.verb)
        return await self._journal.claim(admitted, partial(self._guards.claim, asked=asked))

    async def _bring_to_end(self, admitted: Admitted) -> Execution | None:
        """Returns the ended execution; None when the end cannot be told, or not be written, yet."""
        try:
            ending = await self._remedy(admitted)
            if ending is None:
                return None
            self._failpoints.reach("before-ending", admitted.remedy.verb)
            execution = await self._end(
                admitted.request_id, admitted.action_id, admitted.remedy, ending
            )
        except AegisError as error:
            if not _leaves_open(error):
                raise
            # The INTENT stands, so `sweep` will find it: an error now would say "nothing was done".
            log.warning("%s is left to the sweep: %s", admitted.action_id, error.message)
            return None
        self._failpoints.reach("after-ending", admitted.remedy.verb)
        return execution

    async def _remedy(self, admitted: Admitted) -> Ending | None:
        """Returns how it ended; None when that cannot be told yet."""
        try:
            return await self._changing.change(admitted)
        except AegisError as error:
            if _leaves_open(error):
                raise
            return Ending("FAILED", error.reason, error.message, error.metadata)
        except ClusterUnreachable:
            return Ending("FAILED", "CLUSTER_UNAVAILABLE", "the cluster could not be reached")
        except ForbiddenRequest:
            # Our own gate: only what was not refused as a static limit gets that far.
            return Ending("FAILED", "CLUSTER_REFUSED", "this executor does not reach that far")
        except ClusterRefused as refused:
            return refusal(refused)
        except ClusterSilent:
            # Only a change that was sent can be in doubt, and only looking can tell.
            return await self._look(admitted.request_id, admitted.action_id, admitted.remedy)
        except ODD:
            log.exception("%s stopped at an object that is not as expected", admitted.action_id)
            if await self._journal.last_sent(admitted.request_id) is None:
                return Ending("FAILED", "INTERNAL", "the object is not as expected")
            return await self._look(admitted.request_id, admitted.action_id, admitted.remedy)

    async def _look(self, request_id: str, action_id: str, remedy: Remedy) -> Ending | None:
        sent = await self._journal.last_sent(request_id)
        return await self._looking.look(remedy, action_id, sent)

    async def sweep(self) -> None:
        """Ends what was interrupted, again and again; run it as a task."""
        while True:
            self._left_open.clear()
            left = True
            try:
                left = await self._sweep_once()
            except AegisError as error:
                log.warning("the journal cannot be swept: %s", error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_AGAIN_SECONDS if left else _SWEEP_SECONDS):
                    await self._left_open.wait()

    async def _sweep_once(self) -> bool:
        left = False
        for intent in await self._journal.unfinished():
            if intent.request_id in self._going:
                continue
            try:
                remedy = _remedy_of(intent)
            except AegisError:
                # A newer executor may have known it; the others are swept all the same.
                log.exception("%s is no remedy of this executor", intent.action_id)
                continue
            ending = await self._look(intent.request_id, intent.action_id, remedy)
            if ending is None:
                left = True
                continue
            log.warning("%s was interrupted; found %s", intent.action_id, ending.state)
            await self._end(intent.request_id, intent.action_id, remedy, ending)
        return left

    async def _end(
        self, request_id: str, action_id: str, remedy: Remedy, ending: Ending
    ) -> Execution:
        execution = await self._journal.end(request_id, ending)
        if execution.ending == ending:  # else somebody was first, and counted
            self._ended.labels(remedy.verb, ending.state, ending.reason).inc()
            if ending.state == "APPLIED" and ending.observations.get("changed") != "no":
                # Nobody has to wait for it: it may take seconds, and the answer is written down.
                self._deeds.begin(self._tell(action_id, remedy, ending))
        return execution

    async def _tell(self, action_id: str, remedy: Remedy, ending: Ending) -> None:
        """Leaves an Event at the object; the journal is the record, so that may fail unheard."""
        uid = ending.observations.get("uid", "")
        await self._cluster.record_event(remedy.place, uid, _EVENT, ending.message, action_id)


def _leaves_open(error: AegisError) -> bool:
    # Fenced: the executor that took over sweeps, and its word is the one that counts.
    return isinstance(error, Unavailable) or error.reason == "FENCED"


def _remedy_of(intent: Intent) -> Remedy:
    # These bytes were verified and validated before they were written down.
    request = envelope_pb2.ActionRequest.FromString(bytes(intent.request))
    return of_spec(envelope_pb2.ActionSpec.FromString(request.spec))


def refusal(refused: ClusterRefused) -> Ending:
    """Returns the end of what the API server did not take."""
    seen = {
        "kubernetes_code": str(refused.code),
        "kubernetes_reason": refused.reason,
        "kubernetes_fields": ",".join(refused.fields),
        "audit_id": refused.audit_id,
    }
    if refused.code == 404:
        return Ending("FAILED", "TARGET_GONE", "it is not there any more", seen)
    if refused.code == 409:
        return Ending("FAILED", "TARGET_CHANGED", "it was replaced meanwhile", seen)
    if refused.code == 429 and "DisruptionBudget" in refused.fields:
        return Ending("FAILED", "PDB_EXHAUSTED", "a disruption budget allows no pod to go", seen)
    message = f"the cluster refused: {refused.code} {refused.reason}"
    return Ending("FAILED", "CLUSTER_REFUSED", message, seen)
