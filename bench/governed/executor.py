"""The executor as `python -m aegis_executor` runs it, with a clock at both ends of its steps.

    BENCH_SPANS=spans.json python executor.py

Writes (step, began, ended) of the monotonic clock, which all processes of a machine share, once it
is told to stop. With BENCH_SCRIPTED=yes the cluster is a script in its memory that answers at once,
so that what is left is the way there.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aegis_executor import __main__ as program
from aegis_executor.admission import Admission
from aegis_executor.catalogue.base import Change, Object
from aegis_executor.guards import Guards
from aegis_executor.journal import Journal
from aegis_executor.kubernetes import Kubernetes
from aegis_executor.planning import Planner
from aegis_executor.service import ExecutorService
from aegis_executor.verification.healing import Healing
from aegis_executor.verification.ledger import Ledger

STEPS = (
    ("all", ExecutorService, "ExecuteAction"),
    ("admit", Admission, "admit"),
    ("stored", Journal, "stored"),
    ("enter", Guards, "enter"),
    ("claim", Journal, "claim"),
    ("plan", Planner, "plan"),
    ("capture", Healing, "capture"),
    ("keep", Ledger, "keep"),
    ("sending", Journal, "sending"),
    ("recheck", Guards, "recheck"),
    ("end", Journal, "end"),
)
STEPS_OF_THE_CLUSTER = (("write", "apply"),)
Span = tuple[str, float, float]


def timed(step: str, method: Any, spans: list[Span]) -> Any:
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def waits(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return await method(*given, **named)
            finally:
                spans.append((step, began, time.perf_counter()))

        return waits

    @functools.wraps(method)
    def works(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*given, **named)
        finally:
            spans.append((step, began, time.perf_counter()))

    return works


class Scripted:
    """A cluster in memory that answers at once: every deployment is there and is well.

    It keeps how many replicas were asked for; what is asked for is there at the same moment.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        self._replicas: dict[str, int] = {}
        self._versions: dict[str, int] = {}

    async def deployments(self, namespace: str) -> Sequence[Object]:
        return [self._found(namespace, f"watched-{number}") for number in range(5)]

    async def deployment(self, namespace: str, name: str) -> Object | None:
        return self._found(namespace, name)

    def _found(self, namespace: str, name: str, replicas: int = 0) -> Object:
        replicas = replicas or self._replicas.get(name, 2)
        version = self._versions.get(name, 1)
        metadata = {"namespace": namespace, "name": name, "uid": f"uid-{name}"}
        counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        return {
            "metadata": {**metadata, "generation": version, "resourceVersion": str(version)},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}},
            "status": {"observedGeneration": version, **dict.fromkeys(counts, replicas)},
        }

    async def nothing(self, *_: Any, **__: Any) -> Sequence[Object]:
        return ()

    autoscalers = budgets = pods = replica_sets = record_event = nothing

    async def dry_run(self, change: Change) -> tuple[Object | None, list[str]]:
        place, body = change.place, change.body
        return self._found(place.namespace, place.name, body["spec"]["replicas"]), []

    async def apply(self, change: Change) -> str:
        name = change.place.name
        self._replicas[name] = change.body["spec"]["replicas"]
        self._versions[name] = self._versions.get(name, 1) + 1
        return "scripted"

    async def close(self) -> None:
        pass


def main() -> None:
    file = Path(os.environ["BENCH_SPANS"])
    cluster: Any = Scripted if os.environ.get("BENCH_SCRIPTED") else Kubernetes
    program.Kubernetes = cluster  # type: ignore[misc]
    spans: list[Span] = []
    for step, owner, name in (
        *STEPS,
        *((step, cluster, name) for step, name in STEPS_OF_THE_CLUSTER),
    ):
        setattr(owner, name, timed(step, getattr(owner, name), spans))
    try:
        program.main()
    finally:
        file.write_text(json.dumps(spans))


if __name__ == "__main__":
    main()
