"""Follows a run: a line a round, and how it stands while it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from types import TracebackType

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.status import Status

from aegis.cli.run_tables import lost, outcome_of, state_of
from aegis.cli.session import Output, as_dict, channel, out
from aegis.v1 import training_pb2, training_pb2_grpc

# Names on the live line.
_NAMES = 5


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


async def follow(
    run_id: str, each: Callable[[training_pb2.WatchRunResponse], None]
) -> training_pb2.Run:
    """Calls `each` for every event of a run, past and to come; returns the run at its end."""
    final = training_pb2.Run()
    async with channel() as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        async for event in stub.WatchRun(training_pb2.WatchRunRequest(run_id=run_id)):
            final = event.run
            each(event)
    return final


async def shown(run_id: str, output: Output) -> training_pb2.Run:
    """Follows a run to its end in a form people or programs read."""
    if output is Output.json:
        return await follow(run_id, _document)
    with Board() as board:
        return await follow(run_id, board.told)
