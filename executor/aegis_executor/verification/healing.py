"""Watches every change the cluster took until it is known whether it helped."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeAlias

from prometheus_client import CollectorRegistry, Counter, Histogram

from aegis.errors import AegisError
from aegis.v1 import envelope_pb2
from aegis_executor.catalogue.base import Remedy, Seen
from aegis_executor.departing import Departure
from aegis_executor.kubernetes import (
    ClusterRefused,
    ClusterSilent,
    ClusterUnreachable,
    ForbiddenRequest,
)
from aegis_executor.reading import ODD, Cluster
from aegis_executor.verification.baseline import Baseline, baseline_of
from aegis_executor.verification.compensation import Compensation, Recheck
from aegis_executor.verification.judgement import Finding, Look, Outcome, Verdict
from aegis_executor.verification.ledger import Ledger
from aegis_executor.verification.probes import health as healthy
from aegis_executor.verification.probes.alert import alert
from aegis_executor.verification.probes.drift import drift
from aegis_executor.verification.probes.metric import metric
from aegis_executor.verification.prometheus import Metrics, Rule, Unanswered
from aegis_executor.verification.sight import anchor_of, look, workload_of
from aegis_executor.verification.store import Applied
from aegis_executor.verification.terms import Defaults, terms_of
from aegis_executor.verification.watch import Watch

log = logging.getLogger(__name__)

RemedyOf: TypeAlias = Callable[[envelope_pb2.ActionSpec], Remedy]

# The last one: the settings may have become narrower since it was changed.
_CLUSTER_ERRORS = (ClusterRefused, ClusterSilent, ClusterUnreachable, ForbiddenRequest)
_AT_ONCE = 8
# Transactions commit later than the times they write down.
_OVERLAP = timedelta(minutes=5)
# A round takes less, and a clock that is only kept moves less in one.
_JUMP_SECONDS = 5.0
_TIME_TO_HEAL = (5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Healing:
    """Verification as a part of the executor.

    `remedy_of` finds a spec's remedy, `recheck` raises when a change may not be taken back (kill
    switch, epoch, limits), `departure` knows how long a write without an answer may still take
    effect, `elapsed` counts seconds whatever the clock is set to.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        cluster: Cluster,
        metrics: Metrics,
        defaults: Defaults,
        remedy_of: RemedyOf,
        recheck: Recheck,
        clock: Callable[[], datetime],
        registry: CollectorRegistry,
        departure: Departure,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._cluster = cluster
        self._metrics = metrics
        self._defaults = defaults
        self._remedy_of = remedy_of
        self._clock = clock
        self._compensation = Compensation(
            ledger=ledger,
            cluster=cluster,
            recheck=recheck,
            clock=clock,
            departure=departure,
        )
        self._elapsed = elapsed
        self._ahead: float | None = None
        self._watched: dict[str, Watch] = {}
        self._since: datetime | None = None
        self._verdicts = Counter(
            "aegis_executor_verdicts_total",
            "Changes that were judged.",
            ["action", "state"],
            registry=registry,
        )
        self._findings = Counter(
            "aegis_executor_probes_total",
            "What probes found.",
            ["probe", "outcome"],
            registry=registry,
        )
        self._time_to_heal = Histogram(
            "aegis_executor_time_to_heal_seconds",
            "From the claim of a request to VERIFIED.",
            ["action"],
            buckets=_TIME_TO_HEAL,
            registry=registry,
        )

    async def capture(
        self, request_id: str, remedy: Remedy, spec: envelope_pb2.ActionSpec, seen: Seen
    ) -> None:
        """Writes down how it is before the change.

        Prometheus is asked, for at most 5 s; who cannot be asked is remembered as that. Raises
        `Aborted` (FENCED) or `Unavailable` (DATABASE_UNAVAILABLE); then nothing may be changed.
        """
        queries = dict.fromkeys(metric.query for metric in spec.verification.metrics)
        answers = await asyncio.gather(*(self._metrics.value(query) for query in queries))
        counted = True
        try:
            seen = await look(self._cluster, remedy, anchor_of(seen, remedy.place))
        except _CLUSTER_ERRORS as error:
            log.warning("%s: no pods before the change: %s", remedy.place, error)
            counted = False
        before = baseline_of(
            remedy.place, seen, dict(zip(queries, answers, strict=True)), counted=counted
        )
        await self._ledger.keep(request_id, before)

    async def run(self) -> None:
        """Watches until cancelled; run it as a part, in one executor only."""
        while True:
            try:
                await self.round()
            except AegisError as error:
                log.warning("verification waits: %s", error.message)
            await asyncio.sleep(self._defaults.every_seconds)

    async def round(self) -> None:
        """Looks once at everything that waits for its verdict.

        Raises `Unavailable` (DATABASE_UNAVAILABLE) or `Aborted` (FENCED).
        """
        now = self._clock()
        self._follow_clock(now)
        rows = await self._ledger.unjudged(self._since, list(self._watched))
        watched = {row.request_id: watch for row in rows if (watch := self._watch(row))}
        self._watched, self._since = watched, now - _OVERLAP
        places = asyncio.Semaphore(_AT_ONCE)

        async def step(watch: Watch) -> None:
            async with places:
                await self._step(watch)

        async with asyncio.TaskGroup() as group:
            for watch in watched.values():
                group.create_task(step(watch))

    def _follow_clock(self, now: datetime) -> None:
        """Moves every watch along when the clock was set, which real time does not do."""
        ahead, before = now.timestamp() - self._elapsed(), self._ahead
        self._ahead = ahead
        if before is None or abs(ahead - before) < _JUMP_SECONDS:
            return
        log.warning("the clock jumped by %.0f s", ahead - before)
        for watch in self._watched.values():
            watch.slip(timedelta(seconds=ahead - before))
        # What ended just before is older now than it was.
        self._since = None

    def _watch(self, applied: Applied) -> Watch | None:
        """Returns who watches it; None when this executor cannot read what was asked."""
        known = self._watched.get(applied.request_id)
        if known is not None:
            known.applied = applied
            return known
        try:
            return self._begun(applied)
        except (AegisError, *ODD):
            # A newer executor may have known it; the others are watched all the same.
            log.exception("%s cannot be watched", applied.action_id)
            return None

    def _begun(self, applied: Applied) -> Watch:
        # These bytes were verified and validated before they were written down.
        request = envelope_pb2.ActionRequest.FromString(bytes(applied.request))
        spec = envelope_pb2.ActionSpec.FromString(request.spec)
        kept = applied.baseline
        before = Baseline.of_json(kept) if kept is not None else Baseline()
        return Watch(
            applied=applied,
            remedy=self._remedy_of(spec),
            terms=terms_of(spec.verification, self._defaults),
            baseline=before,
            began_at=self._clock(),
            restarts=before.restarts,
        )

    async def _step(self, watch: Watch) -> None:
        try:
            if watch.verdict is None:
                watch.verdict = await self._verdict(watch)
            if watch.verdict is not None:
                await self._judge(watch, watch.verdict)
        except AegisError as error:
            # The watch goes on; only the journal or the fence can say this.
            log.warning("%s waits: %s", watch.applied.action_id, error.message)
        except ODD:
            # One odd answer must not end the watch of all others, and the executor with it.
            log.exception("%s waits", watch.applied.action_id)

    async def _verdict(self, watch: Watch) -> Verdict | None:
        if watch.undoing:
            return await self._compensation.step(watch)
        seen = await self._look(watch)
        watch.last, watch.tally = seen, watch.tally.after(seen, watch.course)
        verdict = watch.tally.verdict
        if verdict is None or verdict.state != "INEFFECTIVE":
            return verdict
        match watch.terms.on_failure:
            case "NONE":
                return verdict
            case "ESCALATE":
                return Verdict("ESCALATED", verdict.message, verdict.reason)
            case "COMPENSATE":
                watch.undoing_since, watch.found = self._clock(), verdict.message
                return await self._compensation.step(watch)

    async def _look(self, watch: Watch) -> Look:
        objects, others = await asyncio.gather(self._ask_cluster(watch), self._ask_metrics(watch))
        found = Look(self._clock(), (*objects, *others))
        for each in found.findings:
            self._findings.labels(each.probe.partition(" ")[0], each.outcome.name).inc()
        return found

    async def _ask_cluster(self, watch: Watch) -> list[Finding]:
        remedy, before = watch.remedy, watch.baseline
        try:
            seen = await look(self._cluster, remedy, before.anchor)
            now = healthy.restarts_of(seen.pods)
            drifted = drift(
                watch.recognise(seen), watch.wrote, before_action_id=before.mark.action_id
            )
            findings = [
                drifted,
                healthy.health(remedy, seen, workload_of(seen, remedy.place)),
                healthy.restarts(now, watch.restarts),
            ]
        except _CLUSTER_ERRORS as error:
            told = f"the cluster does not tell: {type(error).__name__}"
            return [Finding(healthy.PROBE, Outcome.UNASKED, told, reason="CLUSTER_UNAVAILABLE")]
        except ODD:
            # One odd object must not keep all others from being judged, nor pass for healthy.
            log.exception("%s cannot be judged", remedy.place)
            return [Finding(healthy.PROBE, Outcome.UNASKED, "the object is not as expected")]
        watch.restarts = {**(watch.restarts or {}), **now}
        return findings

    async def _ask_metrics(self, watch: Watch) -> list[Finding]:
        terms = watch.terms
        rules = [self._rules(asked.labels) for asked in terms.alerts]
        values = [self._metrics.value(asked.query) for asked in terms.metrics]
        active, now = await asyncio.gather(asyncio.gather(*rules), asyncio.gather(*values))
        at = self._clock()
        try:
            return self._judged(watch, active, now, at)
        except ODD:
            log.exception("%s: odd metrics", watch.applied.action_id)
            return [Finding("metric", Outcome.UNASKED, "the answers are not as expected")]

    def _judged(
        self,
        watch: Watch,
        active: Sequence[Sequence[Rule] | Unanswered],
        now: Sequence[float | Unanswered],
        at: datetime,
    ) -> list[Finding]:
        terms = watch.terms
        return [
            *(
                alert(asked, answer, changed_at=watch.changed_at, now=at)
                for asked, answer in zip(terms.alerts, active, strict=True)
            ),
            *(
                metric(asked, value, watch.baseline.metric(asked.query))
                for asked, value in zip(terms.metrics, now, strict=True)
            ),
        ]

    async def _rules(self, labels: Mapping[str, str]) -> Sequence[Rule] | Unanswered:
        if not labels.get("alertname"):
            return Unanswered("the probe names no alertname")
        return await self._metrics.rules(labels["alertname"])

    async def _judge(self, watch: Watch, verdict: Verdict) -> None:
        applied = watch.applied
        seen = {each.probe: each.message for each in watch.last.findings} if watch.last else {}
        told = {**seen, **watch.notes, "looks": str(watch.tally.looks)}
        at = await self._ledger.judge(applied, verdict, told)
        self._watched.pop(applied.request_id, None)
        if at is None:
            return  # somebody was first, and counted
        self._verdicts.labels(applied.action, verdict.state).inc()
        level = logging.INFO if verdict.state == "VERIFIED" else logging.WARNING
        log.log(level, "%s is %s: %s", applied.action_id, verdict.state, verdict.message)
        if verdict.state == "VERIFIED":
            took = (at - applied.intent_at).total_seconds()
            self._time_to_heal.labels(applied.action).observe(took)
