"""Metrics as messages."""

from __future__ import annotations

from aegis.v1 import training_pb2
from aegis_server.training.metrics.combining import Combined, OfRound


def metrics_message(combined: Combined) -> training_pb2.GetRunMetricsResponse:
    """Returns the answer of GetRunMetrics."""
    return training_pb2.GetRunMetricsResponse(
        metrics=[
            training_pb2.ParticipantMetrics(
                participant=each.participant,
                round=each.round,
                values=each.values,
                object=each.source,
            )
            for each in combined.participants
        ],
        rounds=[_round(each) for each in combined.rounds],
        missing=combined.missing,
        unusable=combined.unusable,
        next_after_round=combined.last or 0,
    )


def _round(each: OfRound) -> training_pb2.RoundMetrics:
    return training_pb2.RoundMetrics(
        round=each.measured.round,
        accuracy=each.measured.accuracy,
        loss=each.measured.loss,
        epsilon=each.measured.epsilon,
        summaries={
            name: training_pb2.RoundMetrics.Summary(
                mean=found.mean, min=found.least, max=found.most, participants=found.count
            )
            for name, found in each.summaries.items()
        },
    )
