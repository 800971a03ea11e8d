"""One page of metrics for all workers.

Each worker keeps its metrics in files of its own (the multiprocess mode of prometheus_client), and
the parent adds them up when it is asked. What a worker counted before it died stays in the sum, or
every restart would look like a counter that went backwards; what only a living one can say, as a
gauge does, goes with it.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

_SUMMED = ("counter", "histogram", "summary")
_STARTED = "grpc_server_started_total"
_WORKER = ["worker"]


class SummedMetrics(Collector):
    """What all workers count in `folder`, and a few figures about each.

    `pids` returns the process ids by index, `restarts` how often each place was filled again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        pids: Callable[[], Mapping[int, int]],
        restarts: Callable[[], Mapping[int, int]],
    ) -> None:
        self._folder = folder
        self._pids = pids
        self._restarts = restarts
        # Pages are made on a thread of the HTTP server.
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Yields the sums, then the workers."""
        with self._lock:
            files = [str(file) for file in self._folder.glob("*.db") if _begun(file)]
            yield from MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
            yield from self._workers()

    def forget(self, pid: int) -> None:
        """Adds what a dead worker counted to what earlier ones did, and removes its files."""
        with self._lock:
            for kind in _SUMMED:
                dead = self._folder / f"{kind}_{pid}.db"
                if dead.exists() and _begun(dead):
                    self._fold(dead, self._folder / f"{kind}_past.db")
            for file in self._folder.glob(f"*_{pid}.db"):
                file.unlink()

    def _fold(self, dead: Path, past: Path) -> None:
        # Beside the sum, which takes its place only when it is whole.
        fresh = past.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        if past.exists():
            shutil.copyfile(past, fresh)
        total = MmapedDict(str(fresh))  # type: ignore[no-untyped-call]
        for key, value in _values(dead):
            before, _ = total.read_value(key)  # type: ignore[no-untyped-call]
            total.write_value(key, before + value, 0.0)  # type: ignore[no-untyped-call]
        total.close()  # type: ignore[no-untyped-call]
        fresh.replace(past)

    def _workers(self) -> Iterable[Metric]:
        process = GaugeMetricFamily(
            "aegis_worker_process_id", "The process that is this worker now.", labels=_WORKER
        )
        memory = GaugeMetricFamily(
            "aegis_worker_resident_memory_bytes", "Resident memory of a worker.", labels=_WORKER
        )
        seconds = CounterMetricFamily(
            "aegis_worker_cpu_seconds", "CPU time of a worker since its start.", labels=_WORKER
        )
        calls = CounterMetricFamily(
            "aegis_worker_calls", "Calls that reached a worker since its start.", labels=_WORKER
        )
        restarts = CounterMetricFamily(
            "aegis_worker_restarts", "Workers started again after one died.", labels=_WORKER
        )
        for index, pid in self._pids().items():
            label = [str(index)]
            process.add_metric(label, pid)
            figures = _figures(pid)
            memory.add_metric(label, figures.get("process_resident_memory_bytes", 0.0))
            seconds.add_metric(label, figures.get("process_cpu_seconds_total", 0.0))
            calls.add_metric(label, self._calls(pid))
        for index, count in self._restarts().items():
            restarts.add_metric([str(index)], count)
        return process, memory, seconds, calls, restarts

    def _calls(self, pid: int) -> float:
        file = self._folder / f"counter_{pid}.db"
        if not file.exists() or not _begun(file):
            return 0.0
        return sum(value for key, value in _values(file) if json.loads(key)[1] == _STARTED)


def _begun(file: Path) -> bool:
    # A worker makes its file empty, and gives it its size and its head a moment later.
    return file.stat().st_size > 0


def _values(file: Path) -> Iterator[tuple[str, float]]:
    for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
        yield key, value


def _figures(pid: int) -> dict[str, float]:
    collector = ProcessCollector(pid=lambda: pid, registry=None)
    return {sample.name: sample.value for each in collector.collect() for sample in each.samples}
