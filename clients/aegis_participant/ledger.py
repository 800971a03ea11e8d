"""The site's own privacy ledger: what each data set has cost, whatever the server believes.

One JSON object a line, only ever added, each on the disk before anything is done because of it:

    {"reserve": TASK, "dataset": NAME, "rows": FILE, "run": RUN, "round": N,
     "noise": σ, "rate": q, "steps": n, …}
    {"settle": TASK, "steps": n, …}

What was reserved counts from then on; settling lowers it to the steps that were taken, and a site
that dies in between has spent all of it. A last line that was not written to its end was never
acted upon, so it is cut off; any other line that cannot be read stops the program.

What a data set has cost is what was spent under its name or on its file, so rows that are given
another name (for another schema, say) keep their account.
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
    """The most a data set may ever cost; `rows` is the file they are in, where that is known."""

    epsilon: float
    delta: float
    rows: str = ""


@dataclass(slots=True)
class _Entry:
    dataset: str
    rows: str
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
        # Whole steps by data set and file: sums of integers have no rounding to argue about.
        self._steps: dict[tuple[str, str], Counter[tuple[float, float]]] = {}
        self._answered: set[str] = set()
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
        return self._epsilon(self._account(dataset), delta or self._of(dataset).delta)

    def reserve(self, task_id: str, dataset: str, cost: Cost, *, run_id: str, number: int) -> None:
        """Puts the cost of a task aside before it is worked on.

        A task that was reserved and never settled is the same work again: its answer never left,
        so it costs nothing more. Raises `FailedPrecondition`: PRIVACY_BUDGET_EXHAUSTED beyond the
        site's own limit, TASK_CLOSED for a task that was settled or that cost something else;
        OSError when it cannot be written down, and then it is not reserved.
        """
        known = self._entries.get(task_id)
        if known is not None:
            answered = known.settled or task_id in self._answered
            if answered or (known.dataset, known.cost) != (dataset, cost):
                raise FailedPrecondition(
                    "TASK_CLOSED", "this task was worked on before", task_id=task_id
                )
            return
        limit = self._of(dataset)
        mechanism = (cost.noise_multiplier, cost.sample_rate)
        would_be = self._account(dataset)
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
                "rows": limit.rows,
                "run": run_id,
                "round": number,
                "noise": cost.noise_multiplier,
                "rate": cost.sample_rate,
                "steps": cost.steps,
            }
        )

    def settle(self, task_id: str, steps: int) -> None:
        """Writes down the steps that were taken, never more than were reserved; raises OSError.

        A task that cost nothing has nothing to settle. Afterwards a task is not begun again, not
        even where it could not be written down: its answer is somewhere.
        """
        entry = self._entries.get(task_id)
        if entry is not None and not entry.settled:
            self._answered.add(task_id)
            self._append({"settle": task_id, "steps": max(0, min(steps, entry.cost.steps))})

    def _of(self, dataset: str) -> Limit:
        return self._limits[dataset]

    def _account(self, dataset: str) -> Counter[tuple[float, float]]:
        """Returns the steps of a data set, and of all that ever shared a file with it."""
        names, files = {dataset}, {self._of(dataset).rows} - {""}
        known = -1
        while known < len(names) + len(files):
            known = len(names) + len(files)
            for name, rows in self._steps:
                if name in names or rows in files:
                    names.add(name)
                    files |= {rows} - {""}
        total: Counter[tuple[float, float]] = Counter()
        for (name, _), steps in self._steps.items():
            if name in names:
                total.update(steps)
        return total

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
            self._steps[entry.dataset, entry.rows][mechanism] -= entry.cost.steps - steps
            entry.settled = True
            return
        cost = Cost(float(line["noise"]), float(line["rate"]), int(line["steps"]))
        if not (cost.noise_multiplier > 0 and 0 < cost.sample_rate <= 1 and cost.steps >= 0):
            raise ValueError("no mechanism")
        if line["reserve"] in self._entries or not math.isfinite(cost.noise_multiplier):
            raise ValueError("reserved twice")
        # Lines of earlier versions do not say which file it was.
        whose = str(line["dataset"]), str(line.get("rows", ""))
        self._entries[line["reserve"]] = _Entry(*whose, cost)
        account = self._steps.setdefault(whose, Counter())
        account[cost.noise_multiplier, cost.sample_rate] += cost.steps


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
