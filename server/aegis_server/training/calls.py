"""What a coordinator asks of the server, and where its run stands."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import grpc

from aegis.errors import AegisError, Unavailable, from_rpc_error
from aegis.schemas import schema_of
from aegis.v1 import dataset_pb2, training_pb2, training_pb2_grpc
from aegis_learning import evaluation, parameters
from aegis_learning.datasets import Dataset, load
from aegis_learning.parameters import Parameters
from aegis_server.training.selection import spent_in
from aegis_server.training.strategies import state_shapes

log = logging.getLogger("aegis.coordinator")

Answer = TypeVar("Answer")
Run = training_pb2.Run

_CHUNK = 64 * 1024
_CALL_SECONDS = 30.0
# A server that is restarted takes us down with it (see die_with_parent); one that is only out of
# reach for longer than this has lost the run to another coordinator or is gone. A disk that is full
# for longer wants a person.
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 1.0
_PAUSE_SECONDS_MAX = 8.0


@dataclass(slots=True)
class Position:
    """Where the run stands: what is stored on the server, and the model that goes with it.

    `spent` are the private steps each participant was asked for, in rounds that were lost and in
    the one that is being tried, too. `quarantined` by the review room are those not to be asked.
    `midway` through a round sites were asked, and nothing of it is stored.
    """

    run_id: str
    plan: training_pb2.RunPlan
    noise_multiplier: float
    attempt: int
    last_round: int
    data: Dataset
    model: Parameters
    stop: bool
    pause: bool = False
    midway: bool = False
    state: Parameters | None = None
    sites: list[training_pb2.Site] = field(default_factory=list)
    rounds: list[training_pb2.Round] = field(default_factory=list)
    spent: dict[str, int] = field(default_factory=dict)
    quarantined: frozenset[str] = frozenset()

    @property
    def losses(self) -> list[float]:
        """Of the models so far, the initial one's first."""
        return [round_.loss for round_ in self.rounds]

    def wished(self, run: training_pb2.Run) -> None:
        """Takes over what the run's state asks for."""
        self.stop = run.state == Run.STATE_STOPPING
        self.pause = run.state == Run.STATE_PAUSING


class Server:
    """The server as one coordinator of a run calls it.

    UNAVAILABLE and STORAGE_FULL are tried again for `patience_seconds`; every call is idempotent.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        run_id: str,
        attempt: int,
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._stub = training_pb2_grpc.CoordinatorServiceStub(channel)
        self._run_id = run_id
        self._attempt = attempt
        self._patience_seconds = patience_seconds

    async def assignment(self) -> Position:
        """Returns where to go on."""

        async def ask() -> Position:
            assignment = training_pb2.GetAssignmentResponse.Assignment()
            model, state, rows = bytearray(), bytearray(), bytearray()
            request = training_pb2.GetAssignmentRequest(run_id=self._run_id, attempt=self._attempt)
            async for part in self._stub.GetAssignment(request, timeout=_CALL_SECONDS):
                if part.HasField("assignment"):
                    assignment = part.assignment
                model += part.model_chunk
                state += part.state_chunk
                rows += part.evaluation_chunk
            data = await asyncio.to_thread(_dataset, assignment.dataset, bytes(rows))
            return _position(assignment, data, bytes(model), bytes(state))

        return await self._persistent(ask)

    async def complete_round(
        self,
        position: Position,
        report: training_pb2.Round,
        model: Parameters,
        state: Parameters | None = None,
    ) -> None:
        """Stores a round and what the strategy remembers; `position` then stands behind it."""
        data = parameters.encode(model)
        remembered = parameters.encode(state) if state else b""
        report.model_sha256 = parameters.digest(data)
        header = training_pb2.CompleteRoundRequest.Header(
            run_id=self._run_id,
            round=report,
            model_size_bytes=len(data),
            attempt=position.attempt,
            state_size_bytes=len(remembered),
            state_sha256=parameters.digest(remembered) if remembered else b"",
        )

        async def parts() -> AsyncIterator[training_pb2.CompleteRoundRequest]:
            yield training_pb2.CompleteRoundRequest(header=header)
            for chunk in _chunks(data):
                yield training_pb2.CompleteRoundRequest(model_chunk=chunk)
            for chunk in _chunks(remembered):
                yield training_pb2.CompleteRoundRequest(state_chunk=chunk)

        async def ask() -> training_pb2.CompleteRoundResponse:
            return await self._stub.CompleteRound(parts(), timeout=_CALL_SECONDS)

        response = await self._persistent(ask)
        position.last_round, position.midway = report.round, False
        position.rounds.append(report)
        position.model, position.state = model, state
        position.stop, position.pause = response.stop, response.pause
        position.quarantined = frozenset(response.quarantined)

    async def ask_wishes(self, position: Position) -> None:
        """Learns in the middle of a round whether the run is to stop or to pause."""
        request = training_pb2.WatchWishesRequest(run_id=self._run_id, attempt=self._attempt)

        async def ask() -> training_pb2.WatchWishesResponse:
            call = self._stub.WatchWishes(request, timeout=_CALL_SECONDS)
            try:
                # The first is told at once.
                return await anext(aiter(call))
            finally:
                call.cancel()

        wishes = await self._persistent(ask)
        position.stop, position.pause = wishes.stop, wishes.pause

    async def called_off(self) -> None:
        """Returns once the run is to stop or to pause, however long the server is away meanwhile.

        Raises `AegisError`, e.g. when another coordinator has taken over.
        """
        request = training_pb2.WatchWishesRequest(run_id=self._run_id, attempt=self._attempt)
        while True:
            try:
                async for wishes in self._stub.WatchWishes(request):
                    if wishes.stop or wishes.pause:
                        return
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
                if not isinstance(failure, Unavailable):
                    raise failure from error
            await asyncio.sleep(_PAUSE_SECONDS)

    async def finish(
        self, position: Position, state: training_pb2.Run.State.ValueType, reason: str = ""
    ) -> training_pb2.Run:
        """Ends or pauses the run; returns it as it is then."""
        request = training_pb2.FinishRunRequest(
            run_id=self._run_id,
            state=state,
            reason=reason[:500],
            attempt=position.attempt,
            midway=position.midway,
        )

        async def ask() -> training_pb2.FinishRunResponse:
            return await self._stub.FinishRun(request, timeout=_CALL_SECONDS)

        response = await self._persistent(ask)
        log.info("%s: %s %s", self._run_id, Run.State.Name(response.run.state), reason)
        return response.run

    async def _persistent(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        return await persistent(ask, seconds=self._patience_seconds)


async def persistent(
    ask: Callable[[], Awaitable[Answer]], *, seconds: float = _PATIENCE_SECONDS
) -> Answer:
    """Asks the server again for so long while it is away or its disk is full; raises `AegisError`.

    For calls that may be repeated.
    """
    deadline, pause = time.monotonic() + seconds, _PAUSE_SECONDS
    while True:
        try:
            return await ask()
        except grpc.RpcError as error:
            failure = from_rpc_error(error)
            if not _passes(failure) or time.monotonic() + pause > deadline:
                raise failure from error
            log.warning("%s: %s; again in %.0f s", failure.reason, failure.message, pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _PAUSE_SECONDS_MAX)


def _passes(failure: AegisError) -> bool:
    return isinstance(failure, Unavailable) or failure.reason == "STORAGE_FULL"


def _dataset(message: dataset_pb2.Dataset, rows: bytes) -> Dataset:
    if not rows:
        return load(message.name)
    schema = schema_of(message.schema)
    golden, test = evaluation.decode(rows, schema.width)
    return Dataset(message.name, schema, golden, test, message.public)


def _position(
    assignment: training_pb2.GetAssignmentResponse.Assignment,
    data: Dataset,
    model: bytes,
    state: bytes,
) -> Position:
    run = assignment.run
    shapes = data.family(run.plan.model).shapes
    started = assignment.last_round >= 0
    if started and parameters.digest(model) != assignment.model_sha256:
        raise ValueError("the model of the assignment does not have its SHA-256")
    position = Position(
        run_id=run.run_id,
        plan=run.plan,
        noise_multiplier=run.noise_multiplier,
        attempt=assignment.attempt,
        last_round=assignment.last_round,
        data=data,
        model=parameters.decode(model, shapes) if started else {},
        stop=False,
        # Checked against its SHA-256 where it was stored, and complete: it would not decode else.
        state=parameters.decode(state, state_shapes(run.plan, shapes)) if state else None,
        sites=list(run.participants),
        rounds=list(assignment.rounds),
        spent=dict(spent_in(assignment.rounds)) | dict(assignment.spent),
        quarantined=frozenset(assignment.quarantined),
    )
    position.wished(run)
    return position


def _chunks(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]
