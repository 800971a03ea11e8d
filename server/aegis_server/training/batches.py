"""What was sent together, and what came of it: from the server's words to Flower's."""

from __future__ import annotations

from dataclasses import dataclass

from aegis.v1 import training_pb2
from aegis_server.training.flower import (
    CLIENT_APP_RAISED,
    SITE_GAVE_UP,
    SITE_REFUSED,
    Error,
    Message,
    content_of,
)
from aegis_server.training.relaying import Collected

End = training_pb2.CollectAnswersResponse


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What became of a task, as the server knows it.

    `end` is a CollectAnswersResponse.End (whoever did not answer in time is MISSED, or CANCELLED
    when we closed the round), `reason` the kind of an error or why it was refused, `steps` the
    private steps it may have cost, `seconds` from when it was made to its end.
    """

    end: int
    reason: str
    steps: int
    seconds: float
    bytes_sent: int
    bytes_received: int


@dataclass(slots=True)
class Sent:
    """A message, the task it became, and how that ended."""

    message: Message
    bytes_sent: int
    collected: Collected | None = None
    answer: bytes = b""
    answered_at: float = 0.0


class Batch:
    """What was pushed together, by task id."""

    def __init__(self) -> None:
        self.tasks: dict[str, Sent] = {}
        self.rounds: set[int] = set()
        self.failure: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self.failure is not None or all(task.collected for task in self.tasks.values())

    @property
    def answered(self) -> int:
        """How many sites have sent something to aggregate."""
        ends = [task.collected.end for task in self.tasks.values() if task.collected]
        return ends.count(End.END_ANSWERED)


def facts_of(task: Sent, collected: Collected) -> TaskFacts:
    """Returns what is known of a task that has ended."""
    return TaskFacts(
        end=collected.end,
        reason=collected.reason,
        steps=collected.steps,
        seconds=collected.seconds,
        bytes_sent=task.bytes_sent,
        bytes_received=collected.size_bytes,
    )


def reply_of(task: Sent) -> Message | None:
    """Returns the reply to a message, or None when none has come."""
    collected = task.collected
    if collected is None or collected.end in (End.END_MISSED, End.END_CANCELLED):
        return None
    code = CLIENT_APP_RAISED
    if collected.end == End.END_REFUSED:
        code = SITE_GAVE_UP if collected.steps else SITE_REFUSED
    error = Error(code, collected.reason)
    reply = Message(error, reply_to=task.message)
    if collected.end == End.END_ANSWERED:
        try:
            reply = Message(content_of(task.answer), reply_to=task.message)
        except ValueError:
            reply = Message(Error(code, "UPDATE_FORMAT_INVALID"), reply_to=task.message)
    reply.metadata.created_at = task.answered_at
    return reply
