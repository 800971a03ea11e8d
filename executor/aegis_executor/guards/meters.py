"""What the guards tell Prometheus, and the log when a breaker opens or closes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from aegis_executor.guards.breakers import Breaker
from aegis_executor.guards.storm import Storm

log = logging.getLogger(__name__)

_STORM = ("CALM", "STORM", "RECOVERING", "BLIND")


class Meters:
    """Counters and gauges; names of single targets are no labels, there are too many of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refusals = Counter(
            "aegis_executor_guard_refusals_total",
            "Actions a guard refused, by guard.",
            ["guard"],
            registry=registry,
        )
        self._breakers = Gauge(
            "aegis_executor_breakers",
            "Breakers that are not closed.",
            ["kind", "state"],
            registry=registry,
        )
        self._storm = Gauge(
            "aegis_executor_storm",
            "1 for the state storm mode is in.",
            ["state"],
            registry=registry,
        )
        self._pauses = Gauge(
            "aegis_executor_pauses", "Pauses in force, the local file included.", registry=registry
        )
        self._open: dict[str, str] = {}

    def refused(self, gate: str) -> None:
        """Counts a refusal, by the gate's name without whom it is about."""
        self._refusals.labels(gate.split(" ")[0]).inc()

    def show(self, breakers: Sequence[Breaker], storm: Storm | None, pauses: int) -> None:
        """Shows how things stand."""
        self._breakers.clear()
        for breaker in breakers:
            self._breakers.labels(breaker.name.split(" ")[0], breaker.state).inc()
        state = storm.state if storm is not None else "BLIND"
        for name in _STORM:
            self._storm.labels(name).set(name == state)
        self._pauses.set(pauses)
        self._tell({breaker.name: f"{breaker.state}: {breaker.cause}" for breaker in breakers})

    def _tell(self, now_open: dict[str, str]) -> None:
        for name, how in now_open.items():
            if self._open.get(name) != how:
                log.warning("breaker %s is %s", name, how)
        for name in self._open.keys() - now_open.keys():
            log.warning("breaker %s is CLOSED", name)
        self._open = now_open
