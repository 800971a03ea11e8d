"""Tasks as they arrive: an announcement, and its content in chunks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration

from aegis.errors import AegisError, InvalidArgument, ResourceExhausted
from aegis.v1 import participant_pb2
from aegis_participant.tasks import Mechanism, Task

CONTENT_BYTES_MAX = 512 * 1024 * 1024
TOGETHER_BYTES_MAX = 2 * CONTENT_BYTES_MAX
_ANSWER_BYTES_MAX = 1024 * 1024 * 1024
_ARRIVING_MAX = 64
# Of a task and of a run; both are written into the ledger and stay there.
_NAME_MAX = 64
_SECONDS_MAX = 7 * 24 * 3600.0


@dataclass(slots=True)
class _Arrival:
    announced: participant_pb2.AttendResponse.Task
    deadline: float
    data: bytearray = field(default_factory=bytearray)


class Incoming:
    """What has been announced on one stream and is not yet whole."""

    def __init__(self) -> None:
        self._arriving: dict[str, _Arrival] = {}

    def announce(self, announced: participant_pb2.AttendResponse.Task) -> None:
        """Takes in an announcement.

        Raises `AegisError`: FIELD_INVALID, REQUEST_TOO_LARGE, RATE_LIMITED; its chunks are then
        not expected.
        """
        size = announced.content_size_bytes
        named = 0 < len(announced.task_id) <= _NAME_MAX and len(announced.run_id) <= _NAME_MAX
        if not named or len(announced.nonce) != 16 or size < 1:
            raise InvalidArgument("FIELD_INVALID", "the task has no name, nonce or content")
        together = sum(each.announced.content_size_bytes for each in self._arriving.values())
        if size > CONTENT_BYTES_MAX or size + together > TOGETHER_BYTES_MAX:
            raise ResourceExhausted(
                "REQUEST_TOO_LARGE", f"a content of {size} bytes is more than this site takes"
            )
        if len(self._arriving) >= _ARRIVING_MAX:
            raise ResourceExhausted("RATE_LIMITED", "too many tasks are announced and not sent")
        seconds = min(seconds_of(announced.time_left), _SECONDS_MAX)
        self._arriving[announced.task_id] = _Arrival(announced, time.monotonic() + seconds)

    def forget(self, task_id: str) -> None:
        """Lets a task go whose rest may still come."""
        self._arriving.pop(task_id, None)

    def add(self, chunk: participant_pb2.AttendResponse.Chunk) -> Task | None:
        """Takes in a chunk, and returns the task when that was the last.

        Chunks of what was not announced, or was refused, are for nobody. Raises `AegisError`
        (FIELD_INVALID) for more bytes than were announced.
        """
        arrival = self._arriving.get(chunk.task_id)
        if arrival is None:
            return None
        arrival.data += chunk.data
        missing = arrival.announced.content_size_bytes - len(arrival.data)
        if missing > 0:
            return None
        del self._arriving[chunk.task_id]
        if missing < 0:
            raise InvalidArgument("FIELD_INVALID", "the content is longer than announced")
        return task_of(arrival.announced, bytes(arrival.data), arrival.deadline)


def seconds_of(duration: Duration) -> float:
    """Returns a duration that may be no sensible one."""
    return duration.seconds + duration.nanos / 1e9


def task_of(
    announced: participant_pb2.AttendResponse.Task, content: bytes, deadline: float
) -> Task:
    """Returns the task of a message."""
    promised = announced.mechanism
    mechanism = Mechanism(
        promised.noise_multiplier,
        promised.sample_rate,
        promised.steps,
        promised.clip_norm,
        promised.delta,
    )
    return Task(
        task_id=announced.task_id,
        nonce=announced.nonce,
        run_id=announced.run_id,
        number=announced.round,
        repeat=announced.repeat,
        message_type=announced.message_type,
        group_id=announced.group_id,
        content=content,
        content_sha256=announced.content_sha256,
        deadline=deadline,
        app=announced.app,
        app_sha256=announced.app_sha256,
        dataset=announced.dataset,
        schema_sha256=announced.schema_sha256,
        mechanism=mechanism if announced.HasField("mechanism") else None,
        simulation=announced.simulation,
        answer_bytes_max=min(announced.answer_bytes_max, _ANSWER_BYTES_MAX),
    )


def refusal(task_id: str, error: AegisError) -> participant_pb2.AttendRequest:
    """Returns the message that refuses a task."""
    return participant_pb2.AttendRequest(
        refusal=participant_pb2.AttendRequest.Refusal(
            task_id=task_id[:64] or "-", reason=error.reason, message=error.message[:500]
        )
    )
