"""From INTENT to an end: read, plan, write down, check once more, change, write down.

Whatever is interrupted on the way leaves an INTENT without an end. `sweep` ends those by looking
at the cluster, at the start and for as long as the executor runs; it never sends a change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry, Counter

from aegis.errors import Aborted, AegisError, Unavailable
from aegis.serving.deeds import Deeds
from aegis.v1 import envelope_pb2
from aegis_executor.admission import Admission, Admitted
from aegis_executor.journal import Ending, Execution, Journal
from aegis_executor.kubernetes import (
    ClusterRefused,
    ClusterSilent,
    ClusterUnreachable,
    Kubernetes,
)
from aegis_executor.remediations import (
    ACTIONS,
    Change,
    Object,
    Remediation,
    RestartPod,
    RollbackDeployment,
    Trace,
    of_spec,
    plan,
    recognise,
)
from aegis_executor.store import Intent

log = logging.getLogger(__name__)

_ATTEMPTS_MAX = 5
_SWEEP_SECONDS = 15.0
_SWEEP_AGAIN_SECONDS = 1.0
# After this long a cluster that cannot be read leaves the question to a person.
_GIVE_UP = timedelta(minutes=10)


class Executions:
    """Carries out what was admitted.

    `settle_seconds` is how long a write whose answer was lost may still take effect: longer than
    the API server's own limit of 60 s for a request.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        cluster: Kubernetes,
        admission: Admission,
        clock: Callable[[], datetime],
        registry: CollectorRegistry,
        settle_seconds: float = 65.0,
    ) -> None:
        self._journal = journal
        self._cluster = cluster
        self._admission = admission
        self._clock = clock
        self._settle = timedelta(seconds=settle_seconds)
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

        Raises what `Journal.claim` raises; from there on the answer is an execution.
        """
        return await self._deeds.finish(self._carry_out(admitted))

    async def find(self, request_id: str) -> Execution:
        """Returns what became of a request; raises `NotFound` (RESOURCE_NOT_FOUND)."""
        return await self._journal.find(request_id)

    async def drain(self) -> None:
        """Waits for what is going on."""
        await self._deeds.drain()

    async def _carry_out(self, admitted: Admitted) -> Execution:
        request_id = admitted.request_id
        # A repeat that overtakes its first waits for it, and then finds it in the journal.
        while (going := self._going.get(request_id)) is not None:
            await going.wait()
        done = self._going[request_id] = asyncio.Event()
        try:
            execution, fresh = await self._journal.claim(admitted)
            if not fresh:
                return execution
            ended = await self._bring_to_end(admitted)
            if ended is None:
                self._left_open.set()
            return ended or execution
        finally:
            del self._going[request_id]
            done.set()

    async def _bring_to_end(self, admitted: Admitted) -> Execution | None:
        """Returns the ended execution; None when the end cannot be told, or not be written, yet."""
        try:
            ending = await self._remedy(admitted)
            if ending is None:
                return None
            return await self._end(admitted.request_id, ACTIONS[type(admitted.wanted)], ending)
        except Unavailable as error:
            # The INTENT stands, so `sweep` will find it: an error now would say "nothing was done".
            log.warning("%s is left to the sweep: %s", admitted.action_id, error.message)
            return None

    async def _remedy(self, admitted: Admitted) -> Ending | None:
        """Returns how it ended; None when that cannot be told yet."""
        try:
            return await self._change(admitted)
        except Unavailable:
            raise
        except AegisError as error:
            return Ending("FAILED", error.reason, error.message, error.metadata)
        except ClusterUnreachable:
            return Ending("FAILED", "CLUSTER_UNAVAILABLE", "the cluster could not be reached")
        except ClusterRefused as refused:
            return _refused(refused)
        except ClusterSilent:
            # Only a change that was sent can be in doubt, and only looking can tell.
            return await self._look(admitted.request_id, admitted.wanted, admitted.action_id)

    async def _change(self, admitted: Admitted) -> Ending:
        wanted, first = admitted.wanted, None
        for number in range(1, _ATTEMPTS_MAX + 1):
            change = await self._plan(wanted, admitted.action_id)
            if change is None:
                return Ending(
                    "APPLIED", message="it was so already", observations={"changed": "no"}
                )
            if first is not None and (change.uid, change.generation) != first:
                raise Aborted("TARGET_CHANGED", "somebody else changed the object meanwhile")
            first = (change.uid, change.generation)
            await self._journal.sending(admitted.request_id, number, change)
            self._admission.recheck(admitted)
            try:
                audit_id = await self._cluster.apply(change.placed)
            except ClusterRefused as refused:
                if refused.code != 409 or isinstance(wanted, RestartPod):
                    raise
                # A controller's status update is enough for this; the intent is checked above.
                await asyncio.sleep(0.05 * number)
                continue
            seen = {**change.observations, "audit_id": audit_id, "changed": "yes"}
            return Ending("APPLIED", message=_told(wanted), observations=seen)
        raise Aborted("TARGET_CHANGED", f"the object changed {_ATTEMPTS_MAX} times meanwhile")

    async def _plan(self, wanted: Remediation, action_id: str) -> Change | None:
        try:
            live = await self._read(wanted)
            replica_sets = []
            if isinstance(wanted, RollbackDeployment) and live is not None:
                labels = live["spec"]["selector"].get("matchLabels", {})
                replica_sets = list(await self._cluster.replica_sets(wanted.namespace, labels))
        except ClusterSilent as error:
            raise ClusterUnreachable(str(error)) from error  # a read changes nothing
        return plan(wanted, live, replica_sets, action_id)

    async def _read(self, wanted: Remediation) -> Object | None:
        if isinstance(wanted, RestartPod):
            return await self._cluster.pod(wanted.namespace, wanted.name)
        return await self._cluster.deployment(wanted.namespace, wanted.name)

    async def _look(self, request_id: str, wanted: Remediation, action_id: str) -> Ending | None:
        """Tells from journal and cluster how an interrupted execution ended; None: too early."""
        last = await self._journal.last_sent(request_id)
        if last is None:
            return Ending("FAILED", "EXECUTOR_UNAVAILABLE", "interrupted before anything was sent")
        sent, sent_at = last
        age = self._clock() - sent_at
        try:
            trace = recognise(wanted, sent, await self._read(wanted), action_id)
        except (ClusterRefused, ClusterSilent, ClusterUnreachable):
            if age < _GIVE_UP:
                return None
            return Ending("UNKNOWN", "CLUSTER_UNAVAILABLE", "the cluster does not tell")
        seen = {"uid": sent.uid, "reconciled": "yes"}
        if trace is Trace.APPLIED:
            return Ending(
                "APPLIED", message=f"{_told(wanted)}; the answer was lost", observations=seen
            )
        if trace is Trace.HIDDEN:
            return Ending("UNKNOWN", "TARGET_CHANGED", "the object moved on since", seen)
        if trace is Trace.OPEN and age < self._settle:
            return None
        return Ending("FAILED", "CLUSTER_UNAVAILABLE", "the change never took effect", seen)

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
            ending = await self._look(intent.request_id, _wanted(intent), intent.action_id)
            if ending is None:
                left = True
                continue
            log.warning("%s was interrupted; found %s", intent.action_id, ending.state)
            await self._end(intent.request_id, intent.action, ending)
        return left

    async def _end(self, request_id: str, action: str, ending: Ending) -> Execution:
        execution = await self._journal.end(request_id, ending)
        if execution.ending == ending:  # else somebody was first, and counted
            self._ended.labels(action, ending.state, ending.reason).inc()
        return execution


def _wanted(intent: Intent) -> Remediation:
    # These bytes were verified and validated before they were written down.
    request = envelope_pb2.ActionRequest.FromString(bytes(intent.request))
    return of_spec(envelope_pb2.ActionSpec.FromString(request.spec))


def _refused(refused: ClusterRefused) -> Ending:
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
    message = f"the cluster refused: {refused.code} {refused.reason}"
    return Ending("FAILED", "CLUSTER_REFUSED", message, seen)


def _told(wanted: Remediation) -> str:
    return f"{ACTIONS[type(wanted)]} {wanted.namespace}/{wanted.name}"
