"""The process that drives one run: `python -m aegis_server.training.coordinator --run RUN_ID`.

Our own round loop instead of Flower's `Strategy.start`: it has a deadline, survives a crash (it
goes on behind the last round the server has stored), and ends with a reason. It holds a client
certificate and nothing else; where the server is and who we are comes from AEGIS_ADDRESS,
AEGIS_TLS_CERT, AEGIS_TLS_KEY and AEGIS_TLS_CA. Which coordinator of the run it is (`--attempt`) it
was told when it was started: asking for that later could get it its successor's number.

Exit status: 0 when the run has ended or another coordinator has it, 1 when this one failed and the
server may try again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import grpc

from aegis.channel import Identity
from aegis.errors import AegisError, FailedPrecondition, Unavailable, from_rpc_error
from aegis.following import Following
from aegis.serving.lineage import die_with_parent
from aegis.v1 import review_pb2_grpc, training_pb2, training_pb2_grpc
from aegis_learning import parameters
from aegis_learning.datasets import load
from aegis_learning.parameters import Parameters
from aegis_server.training.plans import planned_steps
from aegis_server.training.strategies import state_shapes

if TYPE_CHECKING:
    from aegis_server.training.rounds import Rounds

log = logging.getLogger("aegis.coordinator")

Answer = TypeVar("Answer")
Run = training_pb2.Run

_CHUNK = 64 * 1024
_CALL_SECONDS = 30.0
# A server that is restarted takes us down with it (see die_with_parent); one that is only out of
# reach for longer than this has lost the run to another coordinator or is gone.
_UNREACHABLE_SECONDS = 60.0
_TRIES = 2


@dataclass(slots=True)
class Position:
    """Where the run stands: what is stored on the server, and the model that goes with it."""

    run_id: str
    plan: training_pb2.RunPlan
    noise_multiplier: float
    attempt: int
    last_round: int
    steps: int
    model: Parameters
    stop: bool
    state: Parameters | None = None


class Server:
    """What a coordinator asks of the server. UNAVAILABLE is retried; every call is idempotent."""

    def __init__(self, channel: grpc.aio.Channel, run_id: str, attempt: int) -> None:
        self._stub = training_pb2_grpc.CoordinatorServiceStub(channel)
        self._run_id = run_id
        self._attempt = attempt

    async def assignment(self) -> Position:
        """Returns where to go on."""

        async def ask() -> Position:
            assignment = training_pb2.GetAssignmentResponse.Assignment()
            model, state = bytearray(), bytearray()
            request = training_pb2.GetAssignmentRequest(run_id=self._run_id, attempt=self._attempt)
            async for part in self._stub.GetAssignment(request, timeout=_CALL_SECONDS):
                if part.HasField("assignment"):
                    assignment = part.assignment
                model += part.model_chunk
                state += part.state_chunk
            return _position(assignment, bytes(model), bytes(state))

        return await _persistent(ask)

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
            for start in range(0, len(data), _CHUNK):
                yield training_pb2.CompleteRoundRequest(model_chunk=data[start : start + _CHUNK])
            for start in range(0, len(remembered), _CHUNK):
                chunk = remembered[start : start + _CHUNK]
                yield training_pb2.CompleteRoundRequest(state_chunk=chunk)

        async def ask() -> training_pb2.CompleteRoundResponse:
            return await self._stub.CompleteRound(parts(), timeout=_CALL_SECONDS)

        response = await _persistent(ask)
        position.last_round, position.steps = report.round, report.steps
        position.model, position.state, position.stop = model, state, response.stop

    async def finish(
        self, position: Position, state: training_pb2.Run.State.ValueType, reason: str = ""
    ) -> None:
        """Ends the run."""
        request = training_pb2.FinishRunRequest(
            run_id=self._run_id, state=state, reason=reason[:500], attempt=position.attempt
        )

        async def ask() -> training_pb2.FinishRunResponse:
            return await self._stub.FinishRun(request, timeout=_CALL_SECONDS)

        await _persistent(ask)
        log.info("%s: %s %s", self._run_id, training_pb2.Run.State.Name(state), reason)


async def _persistent(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    deadline = time.monotonic() + _UNREACHABLE_SECONDS
    while True:
        try:
            return await ask()
        except grpc.RpcError as error:
            failure = from_rpc_error(error)
            if not isinstance(failure, Unavailable) or time.monotonic() > deadline:
                raise failure from error
        await asyncio.sleep(1)


def _position(
    assignment: training_pb2.GetAssignmentResponse.Assignment, model: bytes, state: bytes
) -> Position:
    run = assignment.run
    shapes = load(run.plan.dataset).family(run.plan.model).shapes
    started = assignment.last_round >= 0
    if started and parameters.digest(model) != assignment.model_sha256:
        raise ValueError("the model of the assignment does not have its SHA-256")
    return Position(
        run_id=run.run_id,
        plan=run.plan,
        noise_multiplier=run.noise_multiplier,
        attempt=assignment.attempt,
        last_round=assignment.last_round,
        steps=assignment.steps,
        model=parameters.decode(model, shapes) if started else {},
        stop=run.state == Run.STATE_STOPPING,
        # Checked against its SHA-256 where it was stored, and complete: it would not decode else.
        state=parameters.decode(state, state_shapes(run.plan, shapes)) if state else None,
    )


async def coordinate(server: Server, channel: grpc.aio.Channel) -> None:
    """Drives the run from where it stands to its end.

    Raises `AegisError` when the server refuses or stays away.
    """
    position = await server.assignment()
    plan = position.plan
    rounds = await asyncio.to_thread(_prepare, position, channel, asyncio.get_running_loop())
    if position.last_round < 0 and not position.stop:
        initial = load(plan.dataset).family(plan.model).initial(plan.seed)
        await server.complete_round(position, rounds.report(0, initial, [], steps=0), initial)
    while position.last_round < plan.rounds:
        if position.stop:
            return await server.finish(position, Run.STATE_STOPPED)
        ended = await _next_round(server, rounds, position)
        if ended is not None:
            return await server.finish(position, *ended)
    return await server.finish(position, Run.STATE_COMPLETED)


def _prepare(
    position: Position, channel: grpc.aio.Channel, loop: asyncio.AbstractEventLoop
) -> Rounds:
    # Torch and Flower take seconds to import: the run is RUNNING before that, and a coordinator
    # that cannot even reach the server fails at once.
    import torch

    from aegis_server.training.rounds import Rounds
    from aegis_server.training.strategy import ReviewGate

    warnings.filterwarnings("ignore", message="Full backward hook")  # rows need no gradient
    # The models are small: more threads would only wait for each other.
    torch.set_num_threads(1)
    gate = None
    if position.plan.review:
        stub = review_pb2_grpc.ReviewServiceStub(channel)
        gate = ReviewGate(stub, loop, run_id=position.run_id)
    return Rounds(position.plan, position.noise_multiplier, gate)


async def _next_round(
    server: Server, rounds: Rounds, position: Position
) -> tuple[training_pb2.Run.State.ValueType, str] | None:
    """Completes the next round; or returns how the run ends instead, and why."""
    number, steps = position.last_round + 1, position.steps
    tried = None
    for repeat in range(_TRIES):
        if steps + position.plan.local_steps > planned_steps(position.plan):
            break
        steps += position.plan.local_steps
        tried = await asyncio.to_thread(
            rounds.train,
            number,
            position.model,
            repeat=repeat,
            attempt=_TRIES * (position.attempt - 1) + repeat + 1,
            state=position.state,
        )
        if tried.model is not None:
            report = rounds.report(number, tried.model, tried.participants, steps=steps)
            await server.complete_round(position, report, tried.model, tried.state)
            log.info("round %d: accuracy %.3f", number, report.accuracy)
            return None
        log.warning("round %d, try %d: %s", number, repeat + 1, tried.losses)
    if tried is None:
        reason = f"repeated or lost rounds have used up the run's epsilon after round {number - 1}"
        return Run.STATE_STOPPED, reason
    reason = (
        f"round {number} failed: {tried.accepted} updates were accepted,"
        f" {position.plan.min_participants} are needed; {tried.losses}"
    )
    return Run.STATE_FAILED, reason


async def run(run_id: str, attempt: int) -> int:
    """Coordinates a run and returns the exit status."""
    environment = os.environ
    identity = Identity(
        certificate=Path(environment["AEGIS_TLS_CERT"]),
        key=Path(environment["AEGIS_TLS_KEY"]),
        roots=Path(environment["AEGIS_TLS_CA"]),
    )
    async with Following(environment["AEGIS_ADDRESS"], identity) as channel:
        try:
            await coordinate(Server(channel, run_id, attempt), channel)
        except FailedPrecondition as error:
            log.warning("%s: %s", error.reason, error.message)
        except AegisError as error:
            log.error("%s: %s", error.reason, error.message)  # noqa: TRY400  # no traceback needed
            return 1
    return 0


def main() -> None:
    """Reads the command line and the environment."""
    parser = argparse.ArgumentParser(prog="aegis-coordinator")
    parser.add_argument("--run", required=True, help="id of the run to coordinate")
    parser.add_argument(
        "--attempt", type=int, required=True, help="which coordinator of the run this is"
    )
    parser.add_argument("--parent", type=int, help="die with this parent process")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    raise SystemExit(asyncio.run(run(arguments.run, arguments.attempt)))


if __name__ == "__main__":
    main()
