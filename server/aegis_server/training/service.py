"""TrainingService and CoordinatorService: wire to values and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from aegis.errors import FieldViolation, InvalidArgument, ResourceExhausted
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import training_pb2, training_pb2_grpc
from aegis_server.training.progress import Progress
from aegis_server.training.runs import Runs, RunView
from aegis_server.training.store import StoredParticipant, StoredRound

_CHUNK = 64 * 1024
_MODEL_BYTES_MAX = 64 * 1024 * 1024
_STATE_BYTES_MAX = 2 * _MODEL_BYTES_MAX + 4096  # two moments, and the header of their file


class TrainingService(training_pb2_grpc.TrainingServiceServicer):
    """Starts, shows and stops runs."""

    def __init__(self, runs: Runs, deeds: Deeds) -> None:
        self._runs = runs
        self._deeds = deeds

    async def StartRun(
        self, request: training_pb2.StartRunRequest, context: Context
    ) -> training_pb2.StartRunResponse:
        """See the rpc's comment."""
        view = await self._deeds.finish(
            self._runs.start(
                request_id=UUID(request.request_id),
                plan=request.plan,
                actor=current_call().caller.subject,
            )
        )
        return training_pb2.StartRunResponse(run=_run(view))

    async def WatchRun(
        self, request: training_pb2.WatchRunRequest, context: Context
    ) -> AsyncIterator[training_pb2.WatchRunResponse]:
        """Every round, then every change, until the end."""
        async for view in self._runs.watch(request.run_id):
            run = _run(view)
            for found, participants in view.rounds:
                yield training_pb2.WatchRunResponse(run=run, round=_round(found, participants))
            if not view.rounds:
                yield training_pb2.WatchRunResponse(run=run)

    async def StopRun(
        self, request: training_pb2.StopRunRequest, context: Context
    ) -> training_pb2.StopRunResponse:
        """After the current round."""
        view = await self._deeds.finish(
            self._runs.stop(
                request.run_id, reason=request.reason, actor=current_call().caller.subject
            )
        )
        return training_pb2.StopRunResponse(run=_run(view))

    async def GetRun(
        self, request: training_pb2.GetRunRequest, context: Context
    ) -> training_pb2.GetRunResponse:
        """One run with its rounds."""
        view = await self._runs.get(request.run_id, rounds_after=-1)
        run = _run(view)
        run.rounds.extend(_round(found, participants) for found, participants in view.rounds)
        return training_pb2.GetRunResponse(run=run)

    async def ListRuns(
        self, request: training_pb2.ListRunsRequest, context: Context
    ) -> training_pb2.ListRunsResponse:
        """Newest first."""
        size = page_size(request.page_size)
        position = decode_token(request.page_token, "runs")
        if isinstance(position, int):
            raise InvalidArgument("PAGE_TOKEN_INVALID", "this is no page token")
        views = await self._runs.page(before=position, limit=size)
        token = encode_token(views[-1].run.run_id, "runs") if len(views) == size else ""
        return training_pb2.ListRunsResponse(
            runs=[_run(view) for view in views], next_page_token=token
        )


class CoordinatorService(training_pb2_grpc.CoordinatorServiceServicer):
    """Spoken by coordinators."""

    def __init__(self, progress: Progress, deeds: Deeds) -> None:
        self._progress = progress
        self._deeds = deeds

    async def GetAssignment(
        self, request: training_pb2.GetAssignmentRequest, context: Context
    ) -> AsyncIterator[training_pb2.GetAssignmentResponse]:
        """The assignment, then the model in chunks."""
        assignment = await self._deeds.finish(
            self._progress.assignment(
                request.run_id, attempt=request.attempt, actor=current_call().caller.subject
            )
        )
        last = assignment.last
        yield training_pb2.GetAssignmentResponse(
            assignment=training_pb2.GetAssignmentResponse.Assignment(
                run=_run(RunView(assignment.run, last)),
                last_round=last.round if last else -1,
                attempt=assignment.run.attempt,
                model_sha256=last.model_sha256 if last else b"",
                model_size_bytes=len(assignment.model),
                steps=assignment.steps,
                state_size_bytes=len(assignment.state),
            )
        )
        for start in range(0, len(assignment.model), _CHUNK):
            yield training_pb2.GetAssignmentResponse(
                model_chunk=assignment.model[start : start + _CHUNK]
            )
        for start in range(0, len(assignment.state), _CHUNK):
            yield training_pb2.GetAssignmentResponse(
                state_chunk=assignment.state[start : start + _CHUNK]
            )

    async def CompleteRound(
        self, request_iterator: AsyncIterator[training_pb2.CompleteRoundRequest], context: Context
    ) -> training_pb2.CompleteRoundResponse:
        """The whole model is read before anything is stored."""
        parts = aiter(request_iterator)
        header = await _header(parts)
        model, state = await _bodies(parts, header)
        stop = await self._deeds.finish(
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
        return training_pb2.CompleteRoundResponse(stop=stop)

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
                actor=current_call().caller.subject,
            )
        )
        return training_pb2.FinishRunResponse(run=_run(view))


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


def _run(view: RunView) -> training_pb2.Run:
    run, last = view.run, view.last
    message = training_pb2.Run(
        run_id=run.run_id,
        plan=view.plan,
        state=training_pb2.Run.State.ValueType(run.state),
        reason=run.reason,
        actor=run.actor,
        policy_revision=run.policy_revision,
        rule_id=run.rule_id,
        noise_multiplier=run.noise_multiplier,
        epsilon=view.epsilon,
    )
    message.create_time.FromDatetime(run.created_at)
    message.update_time.FromDatetime(run.updated_at)
    if last is not None:
        message.rounds_completed = last.round
        message.model_sha256 = last.model_sha256
        message.accuracy = last.accuracy
    return message


def _round(found: StoredRound, participants: tuple[StoredParticipant, ...]) -> training_pb2.Round:
    message = training_pb2.Round(
        round=found.round,
        model_sha256=found.model_sha256,
        accuracy=found.accuracy,
        loss=found.loss,
        epsilon=found.epsilon,
        steps=found.steps,
        participants=[
            training_pb2.ParticipantRound(
                participant=p.participant,
                loss=p.loss,
                accuracy=p.accuracy,
                epsilon=p.epsilon,
                examples=p.examples,
                outcome=training_pb2.ParticipantRound.Outcome.ValueType(p.outcome),
                update_id=p.update_id,
                reason=p.reason,
            )
            for p in participants
        ],
    )
    message.complete_time.FromDatetime(found.completed_at)
    return message
