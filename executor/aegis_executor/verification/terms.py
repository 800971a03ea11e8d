"""What was signed about how to tell, filled up with the executor's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from aegis.v1 import envelope_pb2
from aegis_executor.verification.judgement import Course

OnFailure: TypeAlias = Literal["NONE", "COMPENSATE", "ESCALATE"]
_Said = envelope_pb2.ActionSpec.Verification


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where the spec says nothing; all but the two counts in seconds.

    `failures` is for every spec: so many looks that showed harm and it is INEFFECTIVE at once.
    """

    stabilise_seconds: float = 30.0
    window_seconds: float = 300.0
    every_seconds: float = 5.0
    successes: int = 2
    failures: int = 20


@dataclass(frozen=True, slots=True)
class AlertAsked:
    """An alert that must be gone, and how far its expression looks back."""

    labels: Mapping[str, str]
    look_back: timedelta


@dataclass(frozen=True, slots=True)
class MetricAsked:
    """A number that must not be worse than before, by more than a share of what it was."""

    query: str
    higher_is_better: bool
    tolerance: float


@dataclass(frozen=True, slots=True)
class Terms:
    """How one execution is judged."""

    stabilise: timedelta
    window: timedelta
    every: timedelta
    successes: int
    failures: int
    on_failure: OnFailure
    alerts: tuple[AlertAsked, ...]
    metrics: tuple[MetricAsked, ...]

    def course(self, changed_at: datetime, began_at: datetime) -> Course:
        """Returns from when until when it is judged.

        The window is made longer where it must be: an alert may fire about what was before the
        change until its look-back is over; and an executor that was away looks as often as it
        takes, however late it is.
        """
        looks = self.every * self.successes
        starts = changed_at + self.stabilise
        look_back = max((alert.look_back for alert in self.alerts), default=timedelta(0))
        ends = max(
            changed_at + self.window,
            changed_at + look_back + looks,
            max(starts, began_at) + looks,
        )
        return Course(starts, ends, self.successes, self.failures)


def terms_of(said: envelope_pb2.ActionSpec.Verification, defaults: Defaults) -> Terms:
    """Returns the terms of a (validated) spec."""

    stabilise = timedelta(seconds=defaults.stabilise_seconds)
    if said.HasField("stabilise"):
        stabilise = said.stabilise.ToTimedelta()
    window = timedelta(seconds=defaults.window_seconds)
    if said.HasField("window"):
        window = said.window.ToTimedelta()
    follows: dict[int, OnFailure] = {
        _Said.ON_FAILURE_NONE: "NONE",
        _Said.ON_FAILURE_COMPENSATE: "COMPENSATE",
    }
    return Terms(
        stabilise=stabilise,
        window=window,
        every=timedelta(seconds=defaults.every_seconds),
        successes=said.successes or defaults.successes,
        failures=defaults.failures,
        on_failure=follows.get(said.on_failure, "ESCALATE"),
        alerts=tuple(
            AlertAsked(dict(alert.labels), alert.look_back.ToTimedelta()) for alert in said.alerts
        ),
        metrics=tuple(
            MetricAsked(
                metric.query,
                metric.better == _Said.MetricProbe.BETTER_HIGHER,
                metric.tolerance,
            )
            for metric in said.metrics
        ),
    )
