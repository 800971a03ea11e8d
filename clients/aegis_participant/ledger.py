"""The site's own privacy ledger: what each data set has cost, whatever the server believes.

One JSON object a line, only ever added, each on the disk before anything is done because of it:

    {"reserve": TASK, "dataset": NAME, "run": RUN, "round": N, "noise": σ, "rate": q, "steps": n, …}
    {"settle": TASK, "steps": n, …}

What was reserved counts from then on; settling lowers it to the steps that were taken, and a site
that dies in between has spent all of it. A last line that was not written to its end was never
acted upon, so it is cut off; any other line that cannot be read stops the program.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np

from aegis.errors import FailedPrecondition
from aegis_learning import privacy


class LedgerError(ValueError):
    """The ledger cannot be used: damaged, or in use by another program."""


@dataclass(frozen=True, slots=True)
class Cost:
    """So many steps of one mechanism."""

    noise_multiplier: float
    sample_rate: float
    steps: int


@dataclass(frozen=True, slots=True)
class Limit:
    """The most a data set may ever cost."""

    epsilon: float
    delta: float


@dataclass(slots=True)
class _Entry:
    dataset: str
    cost: Cost
    settled: bool = False


class Ledger:
    """One writer's view of the file; every change is on the disk when a method returns."""

    def __init__(
        self, file: Path, limits: Mapping[str, Limit], *, clock: Callable[[], datetime]
    ) -> None:
        """Opens and locks it; raises `LedgerError` and OSError."""
        self._limits = limits
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        # Whole steps by data set and mechanism: sums of integers have no rounding to argue about.
        self._steps: dict[str, Counter[tuple[float, float]]] = {}
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = self._read(file)
            os.ftruncate(self._descriptor, self._end)
            _sync_folder(file.parent)
        except BlockingIOError:
            os.close(self._descriptor)
            raise LedgerError(
                f"{file} is in use: another aegis-participant runs here; stop it first"
            ) from None
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives up the lock."""
        os.close(self._descriptor)

    def epsilon(self, dataset: str, delta: float | None = None) -> float:
        """Returns what a data set has cost, at the delta of its limit unless another is given."""
        return self._epsilon(self._steps.get(dataset, Counter()), delta or self._of(dataset).delta)

    def reserve(self, task_id: str, dataset: str, cost: Cost, *, run_id: str, number: int) -> None:
        """Puts the cost of a task aside before it is worked on.

        A task that was reserved and never settled is the same work again: its answer never left,
        so it costs nothing more. Raises `FailedPrecondition`: PRIVACY_BUDGET_EXHAUSTED beyond the
        site's own limit, TASK_CLOSED for a task that was settled or that cost something else;
        OSError when it cannot be written down, and then it is not reserved.
        """
        known = self._entries.get(task_id)
        if known is not None:
            if known.settled or (known.dataset, known.cost) != (dataset, cost):
                raise FailedPrecondition(
                    "TASK_CLOSED", "this task was worked on before", task_id=task_id
                )
            return
        limit = self._of(dataset)
        mechanism = (cost.noise_multiplier, cost.sample_rate)
        would_be = Counter(self._steps.get(dataset, Counter()))
        would_be[mechanism] += cost.steps
        epsilon = self._epsilon(would_be, limit.delta)
        if not epsilon <= limit.epsilon:
            raise FailedPrecondition(
                "PRIVACY_BUDGET_EXHAUSTED",
                f"{dataset} would have cost {epsilon:.2f} at delta {limit.delta:g}, "
                f"and this site's own limit is {limit.epsilon:g}",
                dataset=dataset,
                limit=f"{limit.epsilon:g}",
            )
        self._append(
            {
                "reserve": task_id,
                "dataset": dataset,
                "run": run_id,
                "round": number,
                "noise": cost.noise_multiplier,
                "rate": cost.sample_rate,
                "steps": cost.steps,
            }
        )

    def settle(self, task_id: str, steps: int) -> None:
        """Writes down the steps that were taken, never more than were reserved; raises OSError."""
        entry = self._entries[task_id]
        if not entry.settled:
            self._append({"settle": task_id, "steps": max(0, min(steps, entry.cost.steps))})

    def _of(self, dataset: str) -> Limit:
        return self._limits[dataset]

    @staticmethod
    def _epsilon(steps: Counter[tuple[float, float]], delta: float) -> float:
        total = np.zeros_like(privacy.ORDERS)
        for (noise, rate), count in steps.items():
            if count:
                total = total + privacy.rdp(noise, rate, count)
        return privacy.epsilon_of(total, delta)

    def _append(self, line: dict[str, Any]) -> None:
        line["time"] = self._clock().isoformat(timespec="seconds")
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        # What an earlier failure left behind must not run into this line.
        os.ftruncate(self._descriptor, self._end)
        written = 0
        while written < len(data):
            written += os.pwrite(self._descriptor, data[written:], self._end + written)
        os.fsync(self._descriptor)
        self._end += len(data)
        self._take_in(line)

    def _read(self, file: Path) -> int:
        data = file.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self._take_in(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise LedgerError(
                    f"{file}, line {number}, cannot be read: what was spent is not known. "
                    "Restore the file from a copy; without it nothing may be trained"
                ) from error
        return len(whole)

    def _take_in(self, line: dict[str, Any]) -> None:
        if "settle" in line:
            entry = self._entries[line["settle"]]
            steps = int(line["steps"])
            if entry.settled or not 0 <= steps <= entry.cost.steps:
                raise ValueError("settled twice, or for more than was reserved")
            mechanism = (entry.cost.noise_multiplier, entry.cost.sample_rate)
            self._steps[entry.dataset][mechanism] -= entry.cost.steps - steps
            entry.settled = True
            return
        cost = Cost(float(line["noise"]), float(line["rate"]), int(line["steps"]))
        if not (cost.noise_multiplier > 0 and 0 < cost.sample_rate <= 1 and cost.steps >= 0):
            raise ValueError("no mechanism")
        if line["reserve"] in self._entries or not math.isfinite(cost.noise_multiplier):
            raise ValueError("reserved twice")
        self._entries[line["reserve"]] = _Entry(str(line["dataset"]), cost)
        account = self._steps.setdefault(str(line["dataset"]), Counter())
        account[cost.noise_multiplier, cost.sample_rate] += cost.steps


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
