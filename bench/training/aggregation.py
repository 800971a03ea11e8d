"""What one aggregation costs: our rules beside Flower's own strategies, in one run.

    python bench/training/aggregation.py --participants 10 50 100 --parameters 100000 1000000
    python bench/training/aggregation.py --participants 50 --parameters 10000000 --rules krum mean

*Flower* is `aggregate_train` of the strategy of that name, called as its own round loop does, with
the replies in memory: it unpacks them, checks them, and computes. *Its arithmetic* is the part
after unpacking, written down from its source: nobody has to believe that unpacking is slow.
*Bare mean* adds up the same vectors in blocks and divides once: one pass over memory, no weights,
no checks.

Contenders take turns; each figure is the median over the rounds, in CPU time of the process, which
other programs disturb less than the clock's (the clock's is in the JSON). One thread of BLAS unless
OPENBLAS_NUM_THREADS says otherwise. Memory is what a contender adds to the resident set while it
works, as a multiple of the updates; a thread looks every five milliseconds.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import argparse
import gc
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy
from flwr.supercore.task_identity import TaskIdentity

from aegis_learning import npy
from aegis_learning.aggregation.bulyan import Bulyan
from aegis_learning.aggregation.fedadam import FedAdam
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.fltrust import FLTrust
from aegis_learning.aggregation.krum import Krum
from aegis_learning.aggregation.median import FedMedian
from aegis_learning.aggregation.multi_krum import MultiKrum
from aegis_learning.aggregation.rule import Rule
from aegis_learning.aggregation.trimmed_mean import TrimmedMean
from aegis_learning.aggregation.updates import Updates

Vectors = list[np.ndarray]
Work = Callable[[], object]
Contender = Callable[[], Work]  # what it does before the clock starts

RULES = ("mean", "adam", "median", "trimmed", "krum", "multi-krum", "bulyan", "fltrust")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Line:
    """One contender at one size."""

    rule: str
    contender: str
    participants: int
    parameters: int
    cpu_ms: float
    wall_ms: float
    memory: float


def ours(name: str, vectors: Vectors, malicious: int) -> Contender:
    """Returns our rule."""
    n = len(vectors)
    weights = [float(100 + index) for index in range(n)]
    rules: dict[str, Callable[[], Rule]] = {
        "mean": FedAvg,
        "adam": lambda: FedAdam(learning_rate=0.1),
        "median": lambda: FedMedian(participants=n, malicious=malicious),
        "trimmed": lambda: TrimmedMean(participants=n, malicious=malicious),
        "krum": lambda: Krum(participants=n, malicious=malicious),
        "multi-krum": lambda: MultiKrum(participants=n, malicious=malicious),
        "bulyan": lambda: Bulyan(participants=n, malicious=(n - 3) // 4),
        "fltrust": lambda: FLTrust(root=vectors[0].copy()),
    }
    rule = rules[name]()
    return lambda: lambda: rule.aggregate(Updates.of(vectors, weights)).update


def flower(name: str, arrays: list[Array], malicious: int) -> Contender | None:
    """Returns Flower's strategy, each time with new replies: it takes them apart."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0

    strategies = {
        "mean": lambda: strategy.FedAvg(),
        "adam": lambda: strategy.FedAdam(eta=0.1),
        "median": lambda: strategy.FedMedian(),
        "trimmed": lambda: strategy.FedTrimmedAvg(beta=malicious / len(arrays)),
        "krum": lambda: strategy.Krum(num_malicious_nodes=malicious),
        "multi-krum": lambda: strategy.MultiKrum(
            num_malicious_nodes=malicious, num_nodes_to_select=len(arrays) - malicious
        ),
        "bulyan": lambda: strategy.Bulyan(num_malicious_nodes=(len(arrays) - 3) // 4),
    }
    if name not in strategies:
        return None
    logging.getLogger("flwr").setLevel(logging.ERROR)

    def prepare() -> Work:
        made = strategies[name]()
        if name == "adam":
            made.current_arrays = {"w": np.zeros_like(npy.read(arrays[0].data))}
        replies = []
        for index, array in enumerate(arrays):
            content = RecordDict(
                {
                    "arrays": ArrayRecord({"w": array}),
                    "metrics": MetricRecord({"num-examples": 100 + index}),
                }
            )
            asked = Message(content, dst_node_id=index + 1, message_type="train")
            replies.append(Message(content, reply_to=asked))
        return lambda: made.aggregate_train(1, replies)

    return prepare


def arithmetic(name: str, vectors: Vectors, malicious: int) -> Contender | None:
    """Returns what Flower computes once it has unpacked its replies."""

    def mean() -> object:
        total = vectors[0] * (1 / len(vectors))
        for vector in vectors[1:]:
            total += vector * (1 / len(vectors))
        return total

    def trimmed() -> object:
        stacked = np.stack(vectors)
        parted = np.partition(stacked, (malicious, len(vectors) - malicious - 1), axis=0)
        return np.mean(parted[malicious : len(vectors) - malicious], axis=0)

    def krum() -> object:
        flat = np.stack(vectors)
        norms = np.square(flat).sum(axis=1)
        return norms[:, None] + norms[None, :] - 2 * flat @ flat.T

    works: dict[str, Work] = {
        "mean": mean,
        "median": lambda: np.median(np.stack(vectors), axis=0),
        "trimmed": trimmed,
        "krum": krum,
    }
    return (lambda: works[name]) if name in works else None


def bare(vectors: Vectors) -> Contender:
    """Returns a mean at the speed of memory."""
    out, width = np.empty_like(vectors[0]), 1 << 16

    def work() -> object:
        for start in range(0, out.size, width):
            into = out[start : start + width]
            np.copyto(into, vectors[0][start : start + width])
            for vector in vectors[1:]:
                np.add(into, vector[start : start + width], out=into)
            into /= np.float32(len(vectors))
        return out

    return lambda: work


def resident() -> int:
    """Returns the bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


class Peak:
    """The most memory this process has had since it was entered, beyond what it had then."""

    def __enter__(self) -> Peak:
        gc.collect()
        self.begin = self.peak = resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, resident())

    def __exit__(self, *_: object) -> None:
        self.peak = max(self.peak, resident())
        self._done.set()
        self._thread.join()


def measure(
    name: str, contenders: dict[str, Contender], rounds: int, participants: int, parameters: int
) -> list[Line]:
    """Lets the contenders take turns."""
    cpu: dict[str, list[float]] = {who: [] for who in contenders}
    wall: dict[str, list[float]] = {who: [] for who in contenders}
    peaks: dict[str, int] = dict.fromkeys(contenders, 0)
    for _ in range(rounds):
        for who, prepare in contenders.items():
            work = prepare()
            with Peak() as peak:
                began, used = time.perf_counter(), time.process_time()
                work()
                cpu[who].append(time.process_time() - used)
                wall[who].append(time.perf_counter() - began)
            peaks[who] = max(peaks[who], peak.peak - peak.begin)
    return [
        Line(
            name,
            who,
            participants,
            parameters,
            1e3 * median(cpu[who]),
            1e3 * median(wall[who]),
            peaks[who] / (4 * participants * parameters),
        )
        for who in contenders
    ]


def table(lines: list[Line]) -> str:
    """Returns one line of text for a rule at one size."""
    by = {line.contender: line for line in lines}
    own = by["aegis"]
    text = f"{own.rule:10} {own.participants:4} × {own.parameters:<9.0e} aegis {own.cpu_ms:8.1f} ms"
    for who in ("flower", "its arithmetic", "bare mean"):
        if who in by:
            ratio = (
                by[who].cpu_ms / own.cpu_ms if who != "bare mean" else own.cpu_ms / by[who].cpu_ms
            )
            sign = "× faster" if who != "bare mean" else "× as long"
            text += f" | {who} {by[who].cpu_ms:8.1f} ms, {ratio:5.2f} {sign}"
    memory = ", ".join(f"{who} {by[who].memory:.2f}" for who in ("aegis", "flower") if who in by)
    return f"{text} | memory {memory}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--participants", type=int, nargs="+", default=[10, 50, 100])
    parser.add_argument("--parameters", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-flower", action="store_true", help="only ours and the bare mean")
    parser.add_argument("--memory-gib", type=float, default=8.0, help="skip what needs more")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    lines: list[Line] = []
    began = os.getloadavg()
    for parameters in arguments.parameters:
        for participants in arguments.participants:
            size = 4 * participants * parameters
            # Flower has the replies packed, unpacked, stacked, and a copy to sort or to multiply.
            if (1 if arguments.no_flower else 4) * size > arguments.memory_gib * 2**30:
                print(f"{participants} × {parameters}: left out, {size / 2**30:.1f} GiB of updates")
                continue
            random = np.random.default_rng(0)
            # As they arrive: packed. Ours are views of the same bytes, which a server would have.
            arrays = [
                Array(random.standard_normal(parameters, dtype=np.float32))
                for _ in range(participants)
            ]
            vectors = [npy.read(array.data).view(np.float32) for array in arrays]
            malicious = (participants - 3) // 3
            for name in arguments.rules:
                contenders = {"aegis": ours(name, vectors, malicious), "bare mean": bare(vectors)}
                if not arguments.no_flower:
                    others = (
                        ("flower", flower(name, arrays, malicious)),
                        ("its arithmetic", arithmetic(name, vectors, malicious)),
                    )
                    contenders |= {who: other for who, other in others if other is not None}
                found = measure(name, contenders, arguments.rounds, participants, parameters)
                lines += found
                print(table(found), flush=True)
    load = f"load {began[0]:.1f} before, {os.getloadavg()[0]:.1f} after, {os.cpu_count()} cores"
    print(load)
    if arguments.json:
        report = {"load": load, "lines": [asdict(line) for line in lines]}
        arguments.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
