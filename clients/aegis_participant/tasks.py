"""A task as the server sent it, and what its content asks for.

The header says what a task is to cost; the content is what will be done. What counts is read from
the content, and where the two disagree the task is refused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aegis.errors import FailedPrecondition, FieldViolation, InvalidArgument
from aegis_learning import npy
from aegis_participant import bounds
from aegis_participant.flower import ConfigRecord, RecordDict, content_of
from aegis_participant.ledger import Cost

_ARRAY_KIND = "numpy.ndarray"


@dataclass(frozen=True, slots=True)
class Mechanism:
    """DP-SGD as a task promises it; the fields are those of `aegis.v1.Mechanism`."""

    noise_multiplier: float
    sample_rate: float
    steps: int
    clip_norm: float
    delta: float

    @property
    def cost(self) -> Cost:
        """Returns what the ledger accounts."""
        return Cost(self.noise_multiplier, self.sample_rate, self.steps)


@dataclass(frozen=True, slots=True)
class Task:
    """One task, whole. `deadline` is a moment of `time.monotonic`."""

    task_id: str
    nonce: bytes
    run_id: str
    number: int
    repeat: int
    message_type: str
    group_id: str
    content: bytes = field(repr=False)
    content_sha256: bytes
    deadline: float
    app: str
    app_sha256: bytes
    dataset: str
    schema_sha256: bytes
    mechanism: Mechanism | None
    simulation: bool
    answer_bytes_max: int

    @property
    def seconds_left(self) -> float:
        """Returns how long an answer still counts; negative when it is too late."""
        return self.deadline - time.monotonic()


def read_content(task: Task) -> RecordDict:
    """Returns the content of a task; its arrays are NumPy files of numbers and nothing else.

    Raises `InvalidArgument` (FIELD_INVALID).
    """
    try:
        content = content_of(task.content)
    except ValueError as error:
        raise _invalid("content", str(error)) from error
    for record in content.array_records.values():
        for name, array in record.items():
            if array.stype != _ARRAY_KIND:
                raise _invalid("content", f"array {name[:64]!r} is of kind {array.stype[:32]!r}")
            try:
                npy.read(array.data)
            except (ValueError, TypeError) as error:
                raise _invalid("content", f"array {name[:64]!r} is {error}") from error
    return content


def mechanism_in(content: RecordDict, task: Task, *, public: bool) -> Mechanism | None:
    """Returns the mechanism that a content asks for, which is what the header promises.

    None when the task promises nothing private, which public data allows. Raises
    `FailedPrecondition` (TASK_NOT_PRIVATE).
    """
    configs = list(content.config_records.values())
    simulation = any(bool(config.get("simulation", False)) for config in configs)
    if simulation != task.simulation:
        raise _not_private("its header and its content do not agree on being a simulation")
    if simulation or task.mechanism is None:
        if not public:
            what = "is a simulation" if simulation else "promises no mechanism"
            raise _not_private(f"it {what}, and these rows are not public")
        return None
    if len(configs) != 1 or content.metric_records:
        # An application might read the numbers of another record than the one that is judged.
        raise _not_private("its content is not arrays and one configuration")
    found = _mechanism(configs[0], task.mechanism.delta)
    if found != task.mechanism:
        raise _not_private("its content asks for another mechanism than its header")
    return found


def _mechanism(config: ConfigRecord, delta: float) -> Mechanism:
    noise = _number(config, "noise-multiplier")
    rate = _number(config, "sample-rate")
    clip = _number(config, "clip-norm")
    steps = config.get("steps")
    if not isinstance(steps, int) or isinstance(steps, bool):
        raise _not_private("its content has no whole number 'steps'")
    if problem := bounds.problem(noise, rate, clip, steps):
        raise _not_private(problem)
    return Mechanism(noise, rate, steps, clip, delta)


def _number(config: Mapping[str, Any], name: str) -> float:
    value = config.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise _not_private(f"its content has no number {name!r}")
    return float(value)


def refuse_delta(mechanism: Mechanism, rows: int) -> None:
    """Raises `FailedPrecondition` (TASK_NOT_PRIVATE) unless delta is below one in `rows`.

    At 1/n a mechanism may publish one row outright and keep its promise.
    """
    if mechanism.delta * rows >= 1:
        raise _not_private(f"delta {mechanism.delta:g} is not below one in the rows of this site")


def _invalid(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument(
        "FIELD_INVALID", f"{name}: {problem}", violations=[FieldViolation(name, problem)]
    )


def _not_private(problem: str) -> FailedPrecondition:
    return FailedPrecondition("TASK_NOT_PRIVATE", f"the task is refused: {problem}")
