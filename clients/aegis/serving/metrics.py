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
