"""The gRPC server metrics everybody's dashboards already know."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class CallMetrics:
    """Counts and times every call, by service, method and code."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["grpc_type", "grpc_service", "grpc_method"]
        self.started = Counter(
            "grpc_server_started_total", "Calls that began.", labels, registry=registry
        )
        self.handled = Counter(
            "grpc_server_handled_total",
            "Calls that ended.",
            [*labels, "grpc_code"],
            registry=registry,
        )
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "Seconds from the first byte to the status.",
            labels,
            registry=registry,
            buckets=_BUCKETS,
        )

    def of(self, call_type: str, method: str) -> MethodMetrics:
        """Returns the metrics of one method, `/package.Service/Method`."""
        return MethodMetrics(self, (call_type, *method.lstrip("/").rsplit("/", 1)))


class MethodMetrics:
    """The metrics of one method: finding them by their labels costs more than counting."""

    def __init__(self, metrics: CallMetrics, labels: tuple[str, ...]) -> None:
        self.started = metrics.started.labels(*labels)
        self._seconds = metrics.seconds.labels(*labels)
        self._handled = metrics.handled
        self._labels = labels
        self._codes: dict[str, Counter] = {}

    def ended(self, code: str, seconds: float) -> None:
        """Counts a call that came to this code, after so long."""
        handled = self._codes.get(code)
        if handled is None:
            handled = self._codes[code] = self._handled.labels(*self._labels, code)
        handled.inc()
        self._seconds.observe(seconds)
