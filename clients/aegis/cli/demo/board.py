"""How runs are drawn: one while it learns, and several side by side when they are done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from aegis.cli.session import new_table
from aegis.v1 import training_pb2

_MARKS = {
    training_pb2.ParticipantRound.OUTCOME_AGGREGATED: "[green]✓[/]",
    training_pb2.ParticipantRound.OUTCOME_REJECTED: "[bold red]✗[/]",
    training_pb2.ParticipantRound.OUTCOME_HELD: "[yellow]?[/]",
    training_pb2.ParticipantRound.OUTCOME_FAILED: "[red]![/]",
    training_pb2.ParticipantRound.OUTCOME_MISSING: "[red]-[/]",
}


class Board:
    """The rounds of one run on a console; a context manager.

    A terminal shows the table growing. A log file gets a line as each round completes, so that
    whoever follows it sees progress. A recording gets none of it: `side_by_side` is for that.
    """

    def __init__(self, console: Console, title: str, plan: training_pb2.RunPlan) -> None:
        self._console = console
        self._title = title
        self._plan = plan
        self._rounds: list[training_pb2.Round] = []
        self._moving = console.is_terminal
        self._hidden = unrecorded(console)
        self._live = Live(self._table(), console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        """Starts drawing."""
        self._hidden.__enter__()
        if self._moving:
            self._live.start()
        else:
            self._console.print(f"{self._title}:")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the finished drawing where it is."""
        if self._moving:
            self._live.stop()
        self._hidden.__exit__(kind, error, trace)

    def add(self, done: training_pb2.Round) -> None:
        """Draws a completed round."""
        self._rounds.append(done)
        if self._moving:
            self._live.update(self._table(), refresh=True)
        else:
            marks = " ".join(_MARKS.get(site.outcome, "?") for site in done.participants)
            self._console.print(
                f"  round {done.round:2d}  accuracy {done.accuracy:.3f}"
                f"  epsilon {done.epsilon:.2f}  {marks}",
                highlight=False,
            )

    def _table(self) -> Table:
        names = [f"site-{number}" for number in range(1, self._plan.participants + 1)]
        table = new_table(f"{self._title}: round {len(self._rounds)} of {self._plan.rounds}")
        for heading in ("round", "accuracy", "loss", "epsilon"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name in names:
            table.add_column(name, justify="center")
        for done in self._rounds:
            marks = {site.participant: _MARKS.get(site.outcome, "?") for site in done.participants}
            table.add_row(
                str(done.round),
                f"{done.accuracy:.3f}",
                f"{done.loss:.3g}",
                f"{done.epsilon:.2f}",
                *(marks.get(name, "") for name in names),
            )
        return table


@contextmanager
def unrecorded(console: Console) -> Iterator[None]:
    """Keeps what moves, or is too long, out of the picture."""
    recording, console.record = console.record, False
    try:
        yield
    finally:
        console.record = recording


def chapter(console: Console, title: str) -> None:
    """Opens a chapter of the story."""
    console.print()
    console.rule(f"[bold]{title}")


def side_by_side(runs: Sequence[tuple[str, str, training_pb2.Run]]) -> Table:
    """Returns finished runs beside each other, each with its title and colour, every third round.

    The marks are those of the sites in their order.
    """
    whole = Table.grid(padding=(0, 3))
    drawings = []
    for title, style, run in runs:
        table = new_table(f"[bold]{title}[/]")
        table.add_column("round", justify="right")
        table.add_column("accuracy", justify="right")
        table.add_column("sites")
        trained = [done for done in run.rounds if done.round > 0]
        shown = [done for done in trained if done.round == 1 or done.round % 3 == 0]
        for done in shown:
            marks = "".join(_MARKS.get(site.outcome, "?") for site in done.participants)
            accuracy = f"{done.accuracy:.3f}"
            if done is shown[-1]:
                accuracy = f"[bold {style}]{accuracy}[/]"
            table.add_row(str(done.round), accuracy, marks)
        drawings.append(table)
    whole.add_row(*drawings)
    return whole
