"""The page of metrics: real processes count, the parent adds up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from aegis_server.parent.metrics import SummedMetrics

COUNTING = """
import sys
from prometheus_client import Counter, Gauge
from aegis.serving.metrics import CallMetrics
from prometheus_client import REGISTRY
calls = CallMetrics(REGISTRY).of("unary", "/a.Service/Do")
for seconds in (0.001, 0.2):
    calls.started.inc()
    calls.ended("OK", seconds)
Gauge("revision", "Of rules.", multiprocess_mode="livemin").set(float(sys.argv[1]))
sys.stdin.read()
"""


class Counting:
    """A process that has counted two calls, and lives until it is ended."""

    def __init__(self, folder: Path, revision: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", COUNTING, str(revision)],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
            stdin=subprocess.PIPE,
        )
        self.pid = self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def page(metrics: SummedMetrics) -> list[str]:
    registry = CollectorRegistry()
    registry.register(metrics)
    return generate_latest(registry).decode().splitlines()


def wait_for(metrics: SummedMetrics, line: str) -> None:
    for _ in range(200):
        if line in page(metrics):
            return
        time.sleep(0.05)
    raise AssertionError("\n".join(page(metrics)))


def test_page_is_made_while_a_worker_makes_its_files(tmp_path: Path):
    """They are empty for a moment; a worker may die in it."""
    for name in ("counter_77.db", "histogram_77.db", "gauge_livemin_77.db"):
        (tmp_path / name).touch()
    metrics = SummedMetrics(tmp_path, pids=lambda: {0: 77}, restarts=dict)
    assert 'aegis_worker_calls_total{worker="0"} 0.0' in page(metrics)
    metrics.forget(77)
    assert list(tmp_path.iterdir()) == []


def test_sums_outlive_the_workers_that_counted(tmp_path: Path):
    """Counters and histograms never go backwards; a gauge goes with its worker."""
    labels = 'grpc_method="Do",grpc_service="a.Service",grpc_type="unary"'
    started = f"grpc_server_started_total{{{labels}}}"
    below = f'grpc_server_handling_seconds_bucket{{{labels},le="0.005"}}'
    pids: dict[int, int] = {}
    metrics = SummedMetrics(tmp_path, pids=lambda: pids, restarts=lambda: {0: 0, 1: 3})
    workers = [Counting(tmp_path, 7), Counting(tmp_path, 9)]
    pids |= {0: workers[0].pid, 1: workers[1].pid}
    try:
        for expected in (f"{started} 4.0", f"{below} 2.0", "revision 7.0"):
            wait_for(metrics, expected)
        shown = page(metrics)
        assert 'aegis_worker_calls_total{worker="1"} 2.0' in shown
        assert f'aegis_worker_process_id{{worker="0"}} {float(workers[0].pid)}' in shown
        assert 'aegis_worker_restarts_total{worker="1"} 3.0' in shown
        assert any(line.startswith("aegis_worker_resident_memory_bytes") for line in shown)
        for worker in workers:
            worker.kill()
            metrics.forget(worker.pid)
        pids.clear()
        shown = page(metrics)
        assert f"{started} 4.0" in shown
        assert f"{below} 2.0" in shown
        assert [line for line in shown if line.startswith("revision")] == []
        assert sorted(file.name for file in tmp_path.iterdir()) == [
            "counter_past.db",
            "histogram_past.db",
        ]
        workers.append(Counting(tmp_path, 11))
        wait_for(metrics, f"{started} 6.0")
    finally:
        for worker in workers:
            worker.kill()
