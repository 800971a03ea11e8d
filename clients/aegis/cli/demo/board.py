"""How a run is drawn while it learns: a table that grows, or a line a round where nothing moves."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

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
    whoever follows it sees progress, and a recording gets the finished table.
    """

    def __init__(self, console: Console, title: str, plan: training_pb2.RunPlan) -> None:
        self._console = console
        self._title = title
        self._plan = plan
        self._rounds: list[training_pb2.Round] = []
        self._moving = console.is_terminal and not console.record
        self._live = Live(self._table(), console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        """Starts drawing."""
        if self._moving:
            self._live.start()
        elif not self._console.record:
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
        elif self._console.record:
            self._console.print(self._table())

    def add(self, done: training_pb2.Round) -> None:
        """Draws a completed round."""
        self._rounds.append(done)
        if self._moving:
            self._live.update(self._table(), refresh=True)
        elif not self._console.record:
            marks = " ".join(_MARKS.get(site.outcome, "?") for site in done.participants)
            self._console.print(
                f"  round {done.round:2d}  accuracy {done.accuracy:.3f}"
                f"  epsilon {done.epsilon:.2f}  {marks}",
                highlight=False,
            )

    def _table(self) -> Table:
        names = [f"site-{number}" for number in range(1, self._plan.participants + 1)]
        table = Table(
            title=f"{self._title}: round {len(self._rounds)} of {self._plan.rounds}",
            title_justify="left",
        )
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
