"""`aegis execution state`: pauses, breakers, storm mode and budgets."""

from __future__ import annotations

from rich.text import Text

from aegis.cli.action.calls import Stub, ask
from aegis.cli.action.telling import harmless, tell
from aegis.cli.execution.bars import bar
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    name_of,
    out,
    show_json,
    show_table,
    when,
)
from aegis.v1 import execution_pb2

Breaker = execution_pb2.Breaker
Storm = execution_pb2.Storm

_BAR = 20
_BREAKERS = {
    Breaker.STATE_CLOSED: "green",
    Breaker.STATE_HALF_OPEN: "yellow",
    Breaker.STATE_OPEN: "red",
}
_STORMS = {Storm.STATE_CALM: "green", Storm.STATE_RECOVERING: "yellow"}


def state(output: OutputOption = Output.table) -> None:
    """Show what holds actions back now. Exits 0, or 1 when the server or executor is away."""

    async def call(stub: Stub) -> execution_pb2.GetExecutionStateResponse:
        request = execution_pb2.GetExecutionStateRequest()
        return await stub.GetExecutionState(request, timeout=SECONDS)

    found = ask(call)
    if output is Output.json:
        show_json(found)
        return
    if found.local_pause:
        warning = f"paused by the executor's own file: {found.local_pause}"
        out.print(harmless(warning), style="bold red", soft_wrap=True)
    show_table(
        "pauses",
        ["pause", "scope", "by", "since", "until", "at the executor", "reason"],
        [_pause(each) for each in found.pauses],
        folding=["reason"],
        spare=["since", "by"],
    )
    show_table(
        "breakers",
        ["breaker", "state", "since", "next try", "cause"],
        [_breaker(each) for each in found.breakers],
        folding=["cause"],
        spare=["since"],
    )
    tell([_storm(found.storm)])
    show_table(
        "budgets",
        ["budget", "used", "", "free at"],
        [_budget(each) for each in found.budgets],
        spare=["free at"],
    )
    out.print(f"executor epoch {found.epoch}", highlight=False)


def scope_of(scope: execution_pb2.PauseScope) -> str:
    """Returns what a pause holds for."""
    words = [scope.action or "everything", f"in {scope.namespace}" if scope.namespace else ""]
    return " ".join(each for each in words if each)


def pause_line(pause: execution_pb2.Pause) -> Text:
    """Returns a pause in one line."""
    until = when(pause, "expire_time")
    ends = f"until {until} UTC" if until else "until somebody resumes"
    force = "in force" if pause.in_force else "stored; the executor has yet to take it"
    return Text.assemble(
        (pause.pause_id, "bold"),
        f" {scope_of(pause.scope)} is paused {ends}, ",
        (force, "green" if pause.in_force else "yellow"),
    )


def _pause(pause: execution_pb2.Pause) -> tuple[object, ...]:
    return (
        pause.pause_id,
        scope_of(pause.scope),
        pause.who,
        when(pause, "create_time"),
        when(pause, "expire_time") or "resumed",
        Text("yes", "green") if pause.in_force else Text("not yet", "yellow"),
        harmless(pause.reason),
    )


def _breaker(breaker: execution_pb2.Breaker) -> tuple[object, ...]:
    word = name_of(Breaker.State, breaker.state, "STATE_").replace("_", " ")
    return (
        breaker.name,
        Text(word, _BREAKERS.get(breaker.state, "red")),
        when(breaker, "since"),
        when(breaker, "probe_time"),
        harmless(breaker.cause),
    )


def _storm(storm: execution_pb2.Storm) -> Text:
    word = name_of(Storm.State, storm.state, "STATE_")
    line = Text.assemble("storm: ", (word, _STORMS.get(storm.state, "red")))
    if storm.watched:
        share = storm.anomalous / storm.watched
        line.append(f"  {bar(share, _BAR)} {storm.anomalous} of {storm.watched} workloads ill")
    if storm.state == Storm.STATE_RECOVERING:
        line.append(f", {storm.pace} at once let through")
    if storm.cause:
        line.append(f"  {storm.cause}")
    return line


def _budget(budget: execution_pb2.Budget) -> tuple[object, ...]:
    # A limit of nothing is a full one.
    share = budget.used / budget.limit if budget.limit else 1.0
    style = "red" if share >= 1 else "yellow" if share >= 0.7 else "green"
    return (
        budget.name,
        f"{budget.used} of {budget.limit}",
        Text(bar(share, _BAR), style),
        when(budget, "free_time"),
    )
