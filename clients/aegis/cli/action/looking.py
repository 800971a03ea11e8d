"""`aegis action show`, `list`, `watch` and `why`: where actions stand, and why there."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Annotated

import typer
from rich.text import Text

from aegis.actions import WAITING, Action
from aegis.actions import watch as changes_of
from aegis.cli.action import telling
from aegis.cli.action.calls import ActionArgument, Stub, action_of, ask, exit_code
from aegis.cli.action.submitting import Progress
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    as_dict,
    fail,
    name_of,
    out,
    show_json,
    show_table,
    when,
)
from aegis.v1 import execution_pb2


def show(action_id: ActionArgument, output: OutputOption = Output.table) -> None:
    """Show one action: its state, its approvals, what was seen, what comes next."""
    action = action_of(action_id)
    if output is Output.json:
        show_json(action)
    else:
        telling.tell(telling.summary(action))


def list_(
    state: Annotated[
        list[str] | None,
        typer.Option("--state", help="Only these, e.g. pending-approval; repeatable."),
    ] = None,
    incident: Annotated[str, typer.Option(help="Only those for this incident.")] = "",
    waiting_first: Annotated[
        bool, typer.Option("--waiting-first", help="Those that wait for somebody on top.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    output: OutputOption = Output.table,
) -> None:
    """List actions, newest first."""
    states = [_state(text) for text in state or []]
    found: list[execution_pb2.Action] = []
    more = False
    if waiting_first:
        # Asked for on their own, for they may be older than the newest so many.
        waiting = [each for each in sorted(WAITING) if not states or each in states]
        found, more = _listed(waiting, incident, limit) if waiting else ([], False)
    if len(found) < limit:
        rest, more = _listed(states, incident, limit)
        known = {each.action_id for each in found}
        found = [*found, *(each for each in rest if each.action_id not in known)][:limit]
    if output is Output.json:
        show_json(found)
        return
    show_table(
        "actions",
        ["action", "time", "by", "what", "state", "incident", "rule or reason"],
        [_row(each) for each in found],
        folding=["what", "rule or reason"],
        spare=["incident", "time", "by"],
    )
    if more:
        out.print("[dim]there are more: narrow it down, or raise --limit[/]", highlight=False)


def watch(action_id: ActionArgument, output: OutputOption = Output.table) -> None:
    """Follow an action until it has ended. JSON comes one document a line."""
    last = ask(lambda stub: _follow(stub, action_id, output))
    if output is Output.table:
        telling.tell(telling.summary(last))
    raise typer.Exit(exit_code(last))


def why(action_id: ActionArgument, output: OutputOption = Output.table) -> None:
    """Tell why an action stands where it stands: each gate with the numbers it compared."""
    request = execution_pb2.WhyActionRequest(action_id=action_id)

    async def call(stub: Stub) -> execution_pb2.WhyActionResponse:
        return await stub.WhyAction(request, timeout=SECONDS)

    answer = ask(call)
    if output is Output.json:
        show_json(answer)
        return
    telling.tell(telling.summary(answer.action))
    out.print("gates")
    telling.tell(telling.gates(answer.gates))


def _state(text: str) -> execution_pb2.Action.State.ValueType:
    try:
        return Action.State.Value("STATE_" + text.upper().replace("-", "_"))
    except ValueError:
        names = [name_of(Action.State, each, "STATE_") for each in Action.State.values() if each]
        fail(f"{text!r} is no state", f"use {', '.join(names).replace('_', '-')}")


def _listed(
    states: list[execution_pb2.Action.State.ValueType], incident: str, limit: int
) -> tuple[list[execution_pb2.Action], bool]:
    request = execution_pb2.ListActionsRequest(page_size=limit, states=states, incident_id=incident)

    async def call(stub: Stub) -> execution_pb2.ListActionsResponse:
        return await stub.ListActions(request, timeout=SECONDS)

    answer = ask(call)
    return list(answer.actions), bool(answer.next_page_token)


def _row(action: execution_pb2.Action) -> tuple[object, ...]:
    state = telling.styled_state(action)
    if telling.unanswered(action):
        state = Text.assemble(state, (" (glass)", "red"))
    return (
        action.action_id,
        when(action, "create_time"),
        action.issuer,
        telling.what(action.spec),
        state,
        action.incident_id,
        action.reason or action.rule_id,
    )


async def _follow(stub: Stub, action_id: str, output: Output) -> execution_pb2.Action:
    last = execution_pb2.Action()
    with Progress(output) as tell:
        async with aclosing(changes_of(stub, action_id)) as changes:
            async for last in changes:
                tell(last)
                if output is Output.json:
                    typer.echo(json.dumps(as_dict(last)))
    return last
