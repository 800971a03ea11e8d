"""What Prometheus is told of runs, as their rounds are stored.

Labels are few and known: outcomes, directions, and runs. Participants are none, because a thousand
of them in every run would be a thousand series each: their figures are in `GetRunMetrics`. Of runs
the last 32 that stored a round are kept.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from aegis.v1 import training_pb2
from aegis_server.training.metrics.store import Measured, MeasuredRound

RUNS_MAX = 32
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)


class Counts:
    """The metrics of the training room, of what this process stored."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._runs: OrderedDict[str, None] = OrderedDict()
        self._gauges = tuple(
            Gauge(
                f"aegis_training_round_{name}",
                f"{words} after its newest round, by run.",
                ["run"],
                registry=registry,
                multiprocess_mode="livemostrecent",
            )
            for name, words in (
                ("accuracy", "Accuracy of a run's model on the test rows"),
                ("loss", "Loss of a run's model on the test rows"),
                ("epsilon", "What a run may have cost each participant"),
            )
        )
        self._rounds = Counter(
            "aegis_training_rounds_total", "Rounds that were stored.", registry=registry
        )
        self._participants = Counter(
            "aegis_training_participants_total",
            "What became of participants in rounds, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._bytes = Counter(
            "aegis_training_bytes_total",
            "Content to participants and from them, by direction.",
            ["direction"],
            registry=registry,
        )
        self._round_seconds = Histogram(
            "aegis_training_round_seconds",
            "From one stored round to the next.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._answer_seconds = Histogram(
            "aegis_training_answer_seconds",
            "From when a participant was asked to its whole answer.",
            buckets=_SECONDS,
            registry=registry,
        )

    def completed(self, of: MeasuredRound, participants: Iterable[Measured]) -> None:
        """Counts a round that was stored."""
        self._gauge(of)
        self._rounds.inc()
        if of.before is not None:
            seconds = (of.completed_at - of.before).total_seconds()
            self._round_seconds.observe(max(0.0, seconds))
        for each in participants:
            name = training_pb2.ParticipantRound.Outcome.Name(
                training_pb2.ParticipantRound.Outcome.ValueType(each.outcome)
            )
            self._participants.labels(name.removeprefix("OUTCOME_").lower()).inc()
            # A participant sends what we receive.
            self._bytes.labels("received").inc(each.bytes_sent)
            self._bytes.labels("sent").inc(each.bytes_received)
            if each.seconds > 0:
                self._answer_seconds.observe(each.seconds)

    def _gauge(self, of: MeasuredRound) -> None:
        self._runs[of.run_id] = None
        self._runs.move_to_end(of.run_id)
        for gauge, value in zip(self._gauges, (of.accuracy, of.loss, of.epsilon), strict=True):
            gauge.labels(of.run_id).set(value)
        if len(self._runs) > RUNS_MAX:
            oldest, _ = self._runs.popitem(last=False)
            # A worker's file keeps them until the worker ends: they cannot be taken out of it.
            if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
                for gauge in self._gauges:
                    gauge.remove(oldest)
