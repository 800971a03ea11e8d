"""What is told after a task: to the people of the site, and to the store of metrics."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aegis.errors import AegisError
from aegis_participant.desk import Desk, Worked
from aegis_participant.metrics import AlreadyThere, Store, encode, key_of
from aegis_participant.rows import Counts
from aegis_participant.settings import DataSet, Settings
from aegis_participant.status import Status
from aegis_participant.tasks import Task

log = logging.getLogger(__name__)

_ANSWERED = "answered"


class Reports:
    """Keeps status and metrics; nothing that fails here fails a task."""

    def __init__(
        self, settings: Settings, desk: Desk, counts: Counts, status: Status, store: Store | None
    ) -> None:
        self._settings = settings
        self._desk = desk
        self._counts = counts
        self._status = status
        self._store = store

    def data(self) -> None:
        """Says what is there of each data set, and what was spent on it."""
        self._status.set(data={d.name: self._of(d) for d in self._settings.data.values()})

    def _of(self, data: DataSet) -> dict[str, Any]:
        said: dict[str, Any] = {
            "rows": 0,
            "classes": {},
            "dropped": {},
            "public": data.public,
            "epsilon": self._desk.spent(data),
            "epsilon_limit": data.epsilon_limit,
            "delta": data.delta,
            "warnings": [],
        }
        try:
            count = self._counts.of(data)
        except AegisError as error:
            return said | {"warnings": [f"no task can be done: {error}"]}
        warnings = list(count.warnings)
        if data.delta * count.rows >= 1:
            warnings.append(
                f"delta {data.delta:g} is not below 1/{count.rows}: lower [privacy] delta"
            )
        return said | {
            "rows": count.rows,
            "classes": dict(count.classes),
            "dropped": dict(count.dropped),
            "warnings": warnings,
        }

    def refused(self, task: Task, error: AegisError) -> None:
        """Notes a task that this site did not do."""
        self._last(task, f"refused, {error.reason}: {error.message}")

    def outcome(self, task_id: str, outcome: str) -> None:
        """Notes what the server made of an answer; a refusal stays one, though it was heard."""
        last = self._status.state.last_task
        if last is not None and last["task"] == task_id and last["outcome"] == _ANSWERED:
            self._status.set(last_task=last | {"outcome": outcome})

    async def worked(self, worked: Worked) -> None:
        """Notes a task that was done, and writes its object."""
        task, answer = worked.cleared.task, worked.answer
        self._last(task, f"failed, {answer.error}" if answer.error else _ANSWERED)
        self.data()
        log.info(
            "task %s: run %s round %d, %s in %.2f s, epsilon of %s now %.3f",
            task.task_id,
            task.run_id,
            task.number,
            answer.error or "answered",
            answer.seconds,
            task.dataset,
            self._desk.spent(worked.cleared.data),
        )
        if self._store is None:
            return
        try:
            key = key_of(task.run_id, self._settings.name, task.number)
            await asyncio.to_thread(self._store.put, key, encode(self.figures(worked)))
            self._status.warn("metrics", None)
        except AlreadyThere as error:
            log.info("%s: the figures of an earlier try stay", error)
        except (OSError, ValueError) as error:
            self._status.warn("metrics", f"figures of round {task.number} were not stored: {error}")

    def figures(self, worked: Worked) -> dict[str, float]:
        """Returns the object: numbers only, and those about rows only where they are no secret."""
        task, answer, data = worked.cleared.task, worked.answer, worked.cleared.data
        figures: dict[str, float] = {
            "round": task.number,
            "repeat": task.repeat,
            "epsilon": self._desk.spent(data),
            "steps": answer.steps,
            "seconds": answer.seconds,
            "bytes_received": len(task.content),
            "bytes_sent": len(answer.content),
            "failed": int(bool(answer.error)),
        }
        if data.public or self._settings.share:
            figures |= worked.figures
        return figures

    def _last(self, task: Task, outcome: str) -> None:
        self._status.set(
            last_task={
                "task": task.task_id,
                "run": task.run_id,
                "round": task.number,
                "dataset": task.dataset,
                "outcome": outcome,
                "time": self._status.now(),
            }
        )
