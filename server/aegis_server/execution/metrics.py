"""What is counted of actions while they happen."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class ActionMetrics:
    """The counters of the execution room."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            "aegis_actions_refused_total",
            "Calls about actions that were refused, by reason.",
            ["reason"],
            registry=registry,
        )
        self.moved = Counter(
            "aegis_actions_total",
            "Actions that came into a state, by action and state.",
            ["action", "state"],
            registry=registry,
        )
        self.glass = Counter(
            "aegis_glass_broken_total",
            "Actions that went past approvals and guards, each to be answered for by two others.",
            registry=registry,
        )
