"""A task from whole to answered: checked, reserved, worked on, settled, kept.

The order is the promise. Nothing is trained before its cost is on the disk; nothing leaves before
the same bytes are on the disk; and whatever the server says, only what the site's own settings
allow gets past `clear`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aegis.errors import (
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from aegis_participant.answers import Answer, Answers
from aegis_participant.apps import App
from aegis_participant.flower import MetricRecord, RecordDict, content_bytes, content_of
from aegis_participant.ledger import Ledger
from aegis_participant.rows import Counts
from aegis_participant.settings import DataSet, Settings
from aegis_participant.tasks import Mechanism, Task, mechanism_in, read_content, refuse_delta
from aegis_participant.workers import Workers, WorkFailed, flower_run_id

log = logging.getLogger(__name__)

# Exact figures about rows, which leave the site where rows are public or where it shares them.
FIGURES = ("loss", "accuracy", "auc")
# What an answer may say beside its arrays, whatever the application puts there.
_COUNTS = ("num-examples", "steps")
# An answer has to go its way before the deadline, too; more than this is never held back for it.
_MARGIN_SECONDS = 1.0
_FIGURES_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Cleared:
    """A task that may be worked on: its application, its rows, and what was reserved for it."""

    task: Task
    app: App
    data: DataSet
    mechanism: Mechanism | None


@dataclass(frozen=True, slots=True)
class Worked:
    """What came of a task, and the figures about rows that stayed here."""

    cleared: Cleared
    answer: Answer
    figures: Mapping[str, float] = field(default_factory=dict)


class Desk:
    """Where tasks are judged and worked on. `node_id` is what the server's welcome said."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger,
        answers: Answers,
        workers: Workers,
        counts: Counts,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._answers = answers
        self._workers = workers
        self._counts = counts
        self.node_id = 0

    def settle_answers(self) -> None:
        """Settles what was answered before the program ended and could not be settled then.

        An answer makes room for others in time, and a task without one would be begun again.
        """
        for task_id, steps in self._answers.steps():
            self._settle(task_id, steps)

    def kept(self, task: Task) -> Answer | None:
        """Returns the answer that was given to this task before.

        Raises `FailedPrecondition` (TASK_CLOSED) when that was for another content.
        """
        answer = self._answers.find(task.task_id)
        if answer is not None and answer.task_sha256 != task.content_sha256:
            raise FailedPrecondition(
                "TASK_CLOSED", "a task of this name had another content", task_id=task.task_id
            )
        return answer

    async def clear(self, task: Task) -> Cleared:
        """Checks a whole task and reserves what it costs.

        Raises `AegisError`: APP_MISMATCH, RESOURCE_NOT_FOUND for a data set that is not here,
        FIELD_INVALID, DIGEST_MISMATCH, DATASET_ROWS_INVALID, TASK_NOT_PRIVATE,
        PRIVACY_BUDGET_EXHAUSTED, TASK_CLOSED, STORAGE_FULL.
        """
        app, data = self._app(task), self._data(task)
        if hashlib.sha256(task.content).digest() != task.content_sha256:
            raise InvalidArgument("DIGEST_MISMATCH", "the content does not have its digest")
        content = read_content(task)
        mechanism = mechanism_in(content, task, public=data.public)
        count = await asyncio.to_thread(self._counts.of, data)
        if mechanism is not None:
            refuse_delta(mechanism, count.rows)
            try:
                self._ledger.reserve(
                    task.task_id,
                    data.name,
                    mechanism.cost,
                    run_id=task.run_id,
                    number=task.number,
                )
            except OSError as error:
                log.error("the ledger cannot be written: %s", error)  # noqa: TRY400
                raise ResourceExhausted(
                    "STORAGE_FULL", "the site cannot write its privacy ledger"
                ) from error
        return Cleared(task, app, data, mechanism)

    async def work(self, cleared: Cleared) -> Worked:
        """Works on a cleared task and keeps the answer.

        What goes wrong is an answer, too. Cancelled, it leaves nothing but the reservation.
        """
        task = cleared.task
        try:
            data, seconds = await self._workers.answer(
                cleared.app,
                task.run_id,
                self._header(cleared),
                task.content,
                bytes_max=task.answer_bytes_max + _FIGURES_BYTES,
                seconds=task.seconds_left - min(_MARGIN_SECONDS, task.seconds_left / 10),
            )
            worked = _outgoing(cleared, data, seconds)
        except WorkFailed as failed:
            log.warning("task %s: %s", task.task_id, failed.kind)
            worked = Worked(cleared, _failed(cleared, failed.kind))
        except (ValueError, OSError) as error:
            # No content, or no process could be started.
            kind = "AnswerInvalid" if isinstance(error, ValueError) else "WorkerDied"
            log.warning("task %s: %s", task.task_id, error)
            worked = Worked(cleared, _failed(cleared, kind))
        try:
            self._answers.keep(worked.answer)
        except OSError as error:
            # What is not kept must not leave: asked again, the site would train again.
            log.error("task %s: its answer cannot be kept: %s", task.task_id, error)  # noqa: TRY400
            return Worked(cleared, _failed(cleared, "StorageFull"))
        self._settle(task.task_id, worked.answer.steps)
        return worked

    def _settle(self, task_id: str, steps: int) -> None:
        try:
            self._ledger.settle(task_id, steps)
        except OSError as error:
            log.warning("task %s: not settled, so all of it counts: %s", task_id, error)

    def spent(self, data: DataSet) -> float:
        """Returns the epsilon a data set has cost at its own delta."""
        return self._ledger.epsilon(data.name)

    def _app(self, task: Task) -> App:
        app = self._settings.apps.get(task.app)
        if app is None:
            raise FailedPrecondition(
                "APP_MISMATCH", f"this site does not run {task.app[:64]!r}", app=task.app[:64]
            )
        if app.sha256 != task.app_sha256:
            raise FailedPrecondition(
                "APP_MISMATCH",
                f"this site runs {app.name} {app.sha256.hex()[:12]}, "
                f"and the task is for {task.app_sha256.hex()[:12]}",
                app=app.name,
            )
        if not app.unchanged():
            raise FailedPrecondition(
                "APP_MISMATCH", f"the files of {app.name} changed since the start", app=app.name
            )
        return app

    def _data(self, task: Task) -> DataSet:
        data = self._settings.data.get(task.dataset)
        if data is None:
            raise NotFound("RESOURCE_NOT_FOUND", f"{task.dataset[:64]!r} is not at this site")
        if data.schema.sha256 != task.schema_sha256:
            problem = f"the task is for another schema than {data.name}'s, as it was registered"
            raise InvalidArgument(
                "FIELD_INVALID", problem, violations=[FieldViolation("schema_sha256", problem)]
            )
        return data

    def _header(self, cleared: Cleared) -> dict[str, Any]:
        task, app, data = cleared.task, cleared.app, cleared.data
        own: dict[str, Any] = {
            "dataset": data.name,
            "file": str(data.file.absolute()),
            "schema": str(data.schema_file.absolute()),
            "public-data": data.public,
            "local-figures": True,
        }
        return {
            "task_id": task.task_id,
            "run_id": flower_run_id(task.run_id),
            "node_id": self.node_id,
            "message_type": task.message_type,
            "group_id": task.group_id,
            "seconds": max(task.seconds_left, 1.0),
            "node_config": {**app.node_config, **own},
            "run_config": dict(app.run_config),
        }


def _failed(cleared: Cleared, kind: str) -> Answer:
    """What was reserved for a task that failed stays spent: even its failing says something."""
    task, mechanism = cleared.task, cleared.mechanism
    steps = mechanism.steps if mechanism else 0
    return Answer(task.task_id, task.content_sha256, b"", steps, 0.0, kind)


def _outgoing(cleared: Cleared, data: bytes, seconds: float) -> Worked:
    """Returns what may leave of an answer, and the figures it held; raises ValueError."""
    task = cleared.task
    content = content_of(data)
    figures = _figures(content)
    steps = 0
    if cleared.mechanism is not None:
        said = _whole(content, "steps")
        reserved = cleared.mechanism.steps
        steps = said if said is not None and 0 <= said <= reserved else reserved
    if not cleared.data.public:
        content = _bare(content)
        data = content_bytes(content)
    if len(data) > task.answer_bytes_max:
        raise WorkFailed("AnswerTooLarge")
    answer = Answer(task.task_id, task.content_sha256, data, steps, seconds)
    return Worked(cleared, answer, figures)


def _bare(content: RecordDict) -> RecordDict:
    """Returns the arrays, and of the metrics those that say nothing about a row."""
    bare = RecordDict()
    for name, arrays in content.array_records.items():
        bare[name] = arrays
    for name, metrics in content.metric_records.items():
        allowed = {key: metrics[key] for key in _COUNTS if isinstance(metrics.get(key), int)}
        bare[name] = MetricRecord(allowed)
    return bare


def _figures(content: RecordDict) -> dict[str, float]:
    found: dict[str, float] = {}
    for metrics in content.metric_records.values():
        for name in FIGURES:
            value = metrics.get(name)
            if isinstance(value, int | float) and math.isfinite(value):
                found[name] = float(value)
    return found


def _whole(content: RecordDict, name: str) -> int | None:
    for metrics in content.metric_records.values():
        value = metrics.get(name)
        if isinstance(value, int):
            return value
    return None
