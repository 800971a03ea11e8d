"""CoordinatorService: wire to values and back. Spoken by coordinators only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from aegis.errors import FieldViolation, InvalidArgument, ResourceExhausted
from aegis.schemas import message_of
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.v1 import dataset_pb2, training_pb2
from aegis_learning import evaluation
from aegis_learning.datasets import Dataset
from aegis_server.training.assignments import Assignment
from aegis_server.training.messages import round_message, run_message
from aegis_server.training.progress import Progress
from aegis_server.training.tasks.news import News
from aegis_server.training.tasks.service import TaskCalls
from aegis_server.training.tasks.tasks import Tasks
from aegis_server.training.views import RunView

_CHUNK = 64 * 1024
_MODEL_BYTES_MAX = 64 * 1024 * 1024
_STATE_BYTES_MAX = 2 * _MODEL_BYTES_MAX + 4096  # two moments, and the header of their file


class CoordinatorService(TaskCalls):
    """Spoken by coordinators."""

    def __init__(self, progress: Progress, deeds: Deeds, tasks: Tasks, news: News) -> None:
        super().__init__(tasks, news, deeds)
        self._progress = progress

    async def GetAssignment(
        self, request: training_pb2.GetAssignmentRequest, context: Context
    ) -> AsyncIterator[training_pb2.GetAssignmentResponse]:
        """The assignment, then the model in chunks."""
        assignment = await self._deeds.finish(
            self._progress.assignment(
                request.run_id, attempt=request.attempt, actor=current_call().caller.subject
            )
        )
        # What ships is at the coordinator already.
        data = assignment.data
        rows = b"" if data.train is not None else evaluation.encode(data.golden, data.test)
        yield training_pb2.GetAssignmentResponse(assignment=_assignment(assignment, len(rows)))
        for chunk in _chunks(assignment.model):
            yield training_pb2.GetAssignmentResponse(model_chunk=chunk)
        for chunk in _chunks(assignment.state):
            yield training_pb2.GetAssignmentResponse(state_chunk=chunk)
        for chunk in _chunks(rows):
            yield training_pb2.GetAssignmentResponse(evaluation_chunk=chunk)

    async def CompleteRound(
        self, request_iterator: AsyncIterator[training_pb2.CompleteRoundRequest], context: Context
    ) -> training_pb2.CompleteRoundResponse:
        """The whole model is read before anything is stored."""
        parts = aiter(request_iterator)
        header = await _header(parts)
        model, state = await _bodies(parts, header)
        wishes = await self._deeds.finish(
            self._progress.complete_round(
                header.run_id,
                attempt=header.attempt,
                report=header.round,
                model=model,
                state=state,
                state_sha256=header.state_sha256,
                actor=current_call().caller.subject,
            )
        )
        return training_pb2.CompleteRoundResponse(
            stop=wishes.stop, pause=wishes.pause, quarantined=sorted(wishes.quarantined)
        )

    async def WatchWishes(
        self, request: training_pb2.WatchWishesRequest, context: Context
    ) -> AsyncIterator[training_pb2.WatchWishesResponse]:
        """After every change."""
        async for wishes in self._progress.wishes(request.run_id, attempt=request.attempt):
            yield training_pb2.WatchWishesResponse(stop=wishes.stop, pause=wishes.pause)

    async def FinishRun(
        self, request: training_pb2.FinishRunRequest, context: Context
    ) -> training_pb2.FinishRunResponse:
        """Once."""
        view = await self._deeds.finish(
            self._progress.finish(
                request.run_id,
                attempt=request.attempt,
                state=request.state,
                reason=request.reason,
                midway=request.midway,
                actor=current_call().caller.subject,
            )
        )
        return training_pb2.FinishRunResponse(run=run_message(view))


async def _header(
    parts: AsyncIterator[training_pb2.CompleteRoundRequest],
) -> training_pb2.CompleteRoundRequest.Header:
    first = await anext(parts, training_pb2.CompleteRoundRequest())
    if not first.HasField("header"):
        raise InvalidArgument(
            "FIELD_INVALID",
            "the header has to come first",
            violations=[FieldViolation("header", "has to come first")],
        )
    for size, most, noun in (
        (first.header.model_size_bytes, _MODEL_BYTES_MAX, "a model"),
        (first.header.state_size_bytes, _STATE_BYTES_MAX, "a strategy's state"),
    ):
        if size > most:
            raise ResourceExhausted(
                "REQUEST_TOO_LARGE", f"{noun} has at most {most} bytes", limit_bytes=most
            )
    return first.header


async def _bodies(
    parts: AsyncIterator[training_pb2.CompleteRoundRequest],
    header: training_pb2.CompleteRoundRequest.Header,
) -> tuple[bytes, bytes]:
    bodies = {"model": bytearray(), "state": bytearray()}
    sizes = {"model": header.model_size_bytes, "state": header.state_size_bytes}
    async for part in parts:
        bodies["model"] += part.model_chunk
        bodies["state"] += part.state_chunk
        empty = not (part.model_chunk or part.state_chunk)
        if empty or any(len(body) > sizes[noun] for noun, body in bodies.items()):
            break
    for noun, body in bodies.items():
        if len(body) != sizes[noun]:
            raise InvalidArgument(
                "DIGEST_MISMATCH", f"the {noun} is not the announced {sizes[noun]} bytes"
            )
    return bytes(bodies["model"]), bytes(bodies["state"])


def _assignment(
    assignment: Assignment, evaluation_size: int
) -> training_pb2.GetAssignmentResponse.Assignment:
    last = assignment.last
    return training_pb2.GetAssignmentResponse.Assignment(
        run=run_message(RunView(assignment.run, last, sites=assignment.sites)),
        last_round=last.round if last else -1,
        attempt=assignment.run.attempt,
        model_sha256=last.model_sha256 if last else b"",
        model_size_bytes=len(assignment.model),
        steps=assignment.steps,
        state_size_bytes=len(assignment.state),
        dataset=_dataset(assignment.data),
        evaluation_size_bytes=evaluation_size,
        rounds=[brief(round_message(found, each)) for found, each in assignment.rounds],
        spent=assignment.spent,
        quarantined=sorted(assignment.quarantined),
    )


def brief(told: training_pb2.Round) -> training_pb2.Round:
    """Returns of a round what a coordinator goes on from.

    With everything a long run of many would not fit into a message, and nobody could take it up.
    """
    return training_pb2.Round(
        round=told.round,
        loss=told.loss,
        steps=told.steps,
        participants=[
            training_pb2.ParticipantRound(
                participant=each.participant, outcome=each.outcome, steps=each.steps
            )
            for each in told.participants
        ],
    )


def _dataset(data: Dataset) -> dataset_pb2.Dataset:
    return dataset_pb2.Dataset(
        name=data.name,
        schema=message_of(data.schema),
        public=data.public,
        schema_sha256=data.schema.sha256,
        golden_rows=len(data.golden),
        test_rows=len(data.test),
    )


def _chunks(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]
