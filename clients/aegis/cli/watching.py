"""Follows a run: a line a round, how it stands while it goes on, and whom it waits for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from types import TracebackType

import grpc
import typer
from rich.markup import escape
from rich.padding import Padding
from rich.status import Status

from aegis.cli.run_tables import lost, outcome_of, state_of
from aegis.cli.session import SECONDS, Output, as_dict, channel, out
from aegis.v1 import review_pb2, review_pb2_grpc, training_pb2, training_pb2_grpc

# Names on the live line.
_NAMES = 5
# How often it is asked whether people are waited for.
_LOOK_SECONDS = 5.0
_HELD_MAX = 1000


class Board:
    """What is shown of a run that is followed; use it as a context."""

    def __init__(self) -> None:
        self._status = Status("waiting for the run", console=out)
        self._live = self._status if out.is_terminal else nullcontext()
        self._round = training_pb2.Round()

    def __enter__(self) -> Board:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def told(self, event: training_pb2.WatchRunResponse) -> None:
        """Shows one event of the run's stream."""
        if event.HasField("round"):
            self._round = event.round
            _line(event.round)
        self._status.update(_standing(event.run, self._round))


def _line(round_: training_pb2.Round) -> None:
    out.print(
        f"  round {round_.round:3d}  accuracy {round_.accuracy:.3f}"
        f"  loss {round_.loss:.3f}  epsilon {round_.epsilon:.2f}",
        highlight=False,
    )
    if round_.scan.suspicious:
        words = f"[red]model blocked[/]: {escape(round_.scan.text)}"
        out.print(Padding(words, (0, 0, 0, 6)))
    for site in lost(round_):
        words = f"[red]{site.participant} {outcome_of(site)}[/]: {escape(site.reason)}"
        out.print(Padding(words, (0, 0, 0, 6)))


def _standing(run: training_pb2.Run, round_: training_pb2.Round) -> str:
    """Returns the live line: state, round, accuracy, epsilon, and who is missing."""
    parts = [
        state_of(run),
        f"round {run.rounds_completed}/{run.plan.rounds}",
        f"accuracy {run.accuracy:.3f}",
        f"epsilon {run.epsilon:.2f} of {run.plan.target_epsilon:g}",
    ]
    names = [site.participant for site in lost(round_)]
    if names:
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        parts.append(f"[red]without {', '.join(names[:_NAMES])}{more}[/]")
    if run.state == training_pb2.Run.STATE_PAUSED:
        parts.append(f"go on with `aegis train resume {run.run_id}`")
    return " · ".join(parts)


def _document(event: training_pb2.WatchRunResponse) -> None:
    if event.HasField("round"):
        typer.echo(json.dumps(as_dict(event.round)))


async def shown(run_id: str, output: Output) -> training_pb2.Run:
    """Follows a run to its end in a form people or programs read."""
    async with channel() as opened:
        if output is Output.json:
            return await _follow(opened, run_id, _document)
        calling = asyncio.create_task(_call_people(opened, run_id))
        try:
            with Board() as board:
                return await _follow(opened, run_id, board.told)
        finally:
            calling.cancel()
            with suppress(asyncio.CancelledError):
                await calling


async def _follow(
    opened: grpc.aio.Channel, run_id: str, each: Callable[[training_pb2.WatchRunResponse], None]
) -> training_pb2.Run:
    """Calls `each` for every event of a run, past and to come; returns the run at its end."""
    final = training_pb2.Run()
    stub = training_pb2_grpc.TrainingServiceStub(opened)
    async for event in stub.WatchRun(training_pb2.WatchRunRequest(run_id=run_id)):
        final = event.run
        each(event)
    return final


async def _call_people(opened: grpc.aio.Channel, run_id: str) -> None:
    """Says of each round, once, that updates of it are held: a run may wait for a person."""
    stub = review_pb2_grpc.ReviewServiceStub(opened)
    request = review_pb2.ListUpdatesRequest(
        page_size=_HELD_MAX, run_id=run_id, verdict=review_pb2.Update.VERDICT_HELD
    )
    told: set[tuple[int, int]] = set()
    # What is followed is the run; that goes on for who may not read updates.
    with suppress(grpc.aio.AioRpcError):
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            names: dict[tuple[int, int], list[str]] = {}
            for each in (await stub.ListUpdates(request, timeout=SECONDS)).updates:
                names.setdefault((each.round, each.attempt), []).insert(0, each.participant)
            for key in sorted(names.keys() - told):
                _call(run_id, key[0], names[key])
            told |= names.keys()


def _call(run_id: str, number: int, names: list[str]) -> None:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    words = f"  round {number:3d}  held for a person: {escape(', '.join(names[:_NAMES]))}{more}"
    out.print(f"{words}; aegis update held --run {run_id}", highlight=False, soft_wrap=True)
