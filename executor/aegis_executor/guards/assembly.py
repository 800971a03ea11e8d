"""Puts the guards of one executor together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from aegis.serving.database import Database
from aegis_executor.guards.clock import synchronised
from aegis_executor.guards.dependencies import Dependency
from aegis_executor.guards.epoch import Epoch
from aegis_executor.guards.guards import Guards
from aegis_executor.guards.meters import Meters
from aegis_executor.guards.numbers import Numbers
from aegis_executor.guards.pauses import PauseFile
from aegis_executor.guards.sensor import Sensor, Workloads


async def guarding(
    database: Database,
    cluster: Workloads,
    *,
    namespaces: Collection[str],
    numbers: Numbers,
    epoch: Epoch,
    pause_file: Path | None,
    clock_check: bool,
    clock: Callable[[], datetime],
    registry: CollectorRegistry,
    dependencies: Collection[Dependency] = (),
) -> Guards:
    """Returns guards that have looked once; `Guards.run` is a part.

    `dependencies` are shown beside the cluster's own breaker. Raises `Unavailable`
    (DATABASE_UNAVAILABLE); a cluster that does not answer only leaves them blind.
    """
    kubernetes = Dependency("kubernetes", clock=clock)
    sensor = Sensor(cluster, namespaces, numbers=numbers.storm, clock=clock, dependency=kubernetes)
    guards = Guards(
        database,
        numbers=numbers,
        epoch=epoch,
        sensor=sensor,
        pause_file=PauseFile(pause_file),
        clock=clock,
        clock_trusted=synchronised if clock_check else lambda: True,
        meters=Meters(registry),
        dependencies=(kubernetes, *dependencies),
    )
    await guards.begin()
    return guards
