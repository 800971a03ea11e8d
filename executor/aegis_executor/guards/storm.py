"""Storm mode: when most of what is watched looks ill, the watcher is suspected before the watched.

Then nothing acts by itself. It ends after a quiet time and a ramp, so that what was held back does
not come all at once; it cannot stay for ever, and it cannot be missed by not looking.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from aegis_executor.catalogue.base import Gate
from aegis_executor.guards.gates import passes
from aegis_executor.guards.numbers import StormNumbers
from aegis_executor.guards.onsets import Onsets

State: TypeAlias = Literal["CALM", "STORM", "RECOVERING", "BLIND"]


class Health(enum.Enum):
    """How one workload looks."""

    HEALTHY = "healthy"
    ILL = "ill"
    # It looks healthy, but something is being done to it: that is no recovery yet.
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of the workloads, by namespace and name; the time is when.

    `onsets` is what is known by now of how fast they fall ill.
    """

    at: datetime
    workloads: Mapping[tuple[str, str], Health]
    onsets: Onsets = field(default_factory=Onsets)

    def alarming(self, numbers: StormNumbers, *, unsure_counts: bool) -> str:
        """Returns why this is too much, with the numbers; empty when it is not."""
        counted = (Health.ILL, Health.UNSURE) if unsure_counts else (Health.ILL,)
        ill = [key for key, health in self.workloads.items() if health in counted]
        if len(ill) >= numbers.anomalous_min:
            if len(ill) > numbers.share * len(self.workloads):
                return f"{len(ill)} of {len(self.workloads)} workloads are anomalous"
            for namespace in sorted({namespace for namespace, _ in ill}):
                there = [key for key in self.workloads if key[0] == namespace]
                if len(there) >= numbers.anomalous_min and set(there) <= set(ill):
                    return f"all {len(there)} workloads of {namespace} are anomalous"
        return self.onsets.alarming(self.at, numbers)

    @property
    def anomalous(self) -> int:
        """How many are ill."""
        return sum(health is Health.ILL for health in self.workloads.values())


@dataclass(frozen=True, slots=True)
class Storm:
    """Where storm mode stands; `quiet_since` is since when nothing was too much."""

    state: State
    since: datetime
    cause: str = ""
    watched: int = 0
    anomalous: int = 0
    pace: int = 0
    quiet_since: datetime | None = None

    def seen(self, sight: Sight, numbers: StormNumbers) -> Storm:
        """Returns where it stands after a look."""
        watched, anomalous = len(sight.workloads), sight.anomalous
        calm = self.state == "CALM"
        alarm = sight.alarming(numbers, unsure_counts=not calm)
        if alarm:
            since = self.since if self.state == "STORM" else sight.at
            return Storm("STORM", since, alarm, watched, anomalous)
        now = replace(self, watched=watched, anomalous=anomalous)
        return now if calm else _quiet(now, sight.at, numbers)


def _quiet(storm: Storm, now: datetime, numbers: StormNumbers) -> Storm:
    quiet_since = storm.quiet_since or now
    ramping = storm.state == "RECOVERING"
    seconds = numbers.ramp_seconds if ramping else numbers.quiet_seconds
    if now - quiet_since < timedelta(seconds=seconds):
        return replace(storm, quiet_since=quiet_since)
    paces = [pace for pace in numbers.ramp if pace > storm.pace or not ramping]
    if not paces:
        return Storm("CALM", now, watched=storm.watched, anomalous=storm.anomalous)
    return replace(
        storm,
        state="RECOVERING",
        since=storm.since if ramping else now,
        cause=f"after a storm, {paces[0]} at once",
        pace=paces[0],
        quiet_since=now,
    )


def storm_gate(storm: Storm | None, under_way: int) -> Gate:
    """Lets through when it is calm, and so many at once while it recovers."""
    if storm is None:
        message = "nobody knows how the workloads are, which counts as a storm"
        return Gate("storm", False, "STORM_ACTIVE", message, metadata={"state": "BLIND"})
    if storm.state == "CALM":
        return passes("storm", f"{storm.anomalous} of {storm.watched} workloads are anomalous")
    if storm.state == "RECOVERING" and under_way < storm.pace:
        return passes("storm", f"{under_way} under way of {storm.pace} while it recovers")
    message = f"{storm.cause}; {under_way} under way"
    return Gate("storm", False, "STORM_ACTIVE", message, metadata={"state": storm.state})
