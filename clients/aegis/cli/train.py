"""`aegis train`: create runs, start them, watch them learn, pause and compare them."""

from __future__ import annotations

import json
import uuid
from typing import Annotated

import typer
from rich.markup import escape

from aegis.cli.planfiles import written
from aegis.cli.planning import Wanted, plan_of, with_plan
from aegis.cli.run_tables import (
    headline,
    show_comparison,
    show_participants,
    show_rounds,
    show_runs,
    state_of,
)
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    as_dict,
    channel,
    fail,
    out,
    run,
    show_json,
)
from aegis.cli.watching import shown
from aegis.v1 import training_pb2, training_pb2_grpc

app = typer.Typer(no_args_is_help=True, help="Create runs, start them, and watch them learn.")

RunIdArgument = Annotated[str, typer.Argument(help="As `aegis train list` shows it.")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept with the run.")]


@app.command("plan")
@with_plan
def plan_(wanted: Wanted, output: OutputOption = Output.table) -> None:
    """Print a plan to start from, as YAML; every command with --plan reads it."""
    if output is Output.json:
        show_json(plan_of(wanted))
    else:
        typer.echo(written(plan_of(wanted)), nl=False)


@app.command()
@with_plan
def create(wanted: Wanted, output: OutputOption = Output.table) -> None:
    """Check a plan and record its run, to be started later."""
    created = run(_create(plan_of(wanted)))
    if output is Output.json:
        show_json(created)
        return
    out.print(f"[bold]{created.run_id}[/] created: {len(created.participants)} participants")
    out.print(f"  next: aegis train start {created.run_id}", highlight=False)


@app.command()
@with_plan
def start(
    wanted: Wanted,
    run_id: Annotated[
        str | None, typer.Argument(help="One that was created; else a new one.")
    ] = None,
    watch_it: Annotated[bool, typer.Option("--watch/--no-watch", help="Follow it.")] = True,
    output: OutputOption = Output.table,
) -> None:
    """Start a run: one that was created, or a new one, simulated unless you say otherwise."""
    if run_id is not None and not wanted.empty:
        fail("a run that was created has its plan", f"say `aegis train start {run_id}` only")
    request = training_pb2.StartRunRequest(request_id=str(uuid.uuid4()), run_id=run_id or "")
    if run_id is None:
        request.plan.CopyFrom(plan_of(wanted))
    started = run(_start(request))
    if output is Output.json and not watch_it:
        show_json(started)
        return
    if output is Output.table:
        out.print(f"[bold]{started.run_id}[/] started")
    if watch_it:
        _finish(run(shown(started.run_id, output)), output)


@app.command()
def watch(run_id: RunIdArgument, output: OutputOption = Output.table) -> None:
    """Follow a run to its end; exits 1 when it failed. JSON comes one document a line."""
    _finish(run(shown(run_id, output)), output)


@app.command()
def pause(
    run_id: RunIdArgument, reason: ReasonOption = "", output: OutputOption = Output.table
) -> None:
    """Pause a run after its current round."""
    _tell(run(_pause(run_id, reason)), output)


@app.command()
def resume(run_id: RunIdArgument, output: OutputOption = Output.table) -> None:
    """Go on with a paused run behind its last round."""
    _tell(run(_resume(run_id)), output)


@app.command()
def stop(
    run_id: RunIdArgument, reason: ReasonOption = "", output: OutputOption = Output.table
) -> None:
    """Stop a run after its current round."""
    _tell(run(_stop(run_id, reason)), output)


@app.command()
def show(
    run_id: RunIdArgument,
    participants: Annotated[
        bool, typer.Option("--participants", help="What happened to each in every round.")
    ] = False,
    output: OutputOption = Output.table,
) -> None:
    """Show one run, round by round."""
    found = run(_get(run_id))
    if output is Output.json:
        show_json(found)
        return
    headline(found)
    if participants:
        show_participants(found)
    else:
        show_rounds(found)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    output: OutputOption = Output.table,
) -> None:
    """List runs, newest first."""
    runs = run(_list(limit))
    if output is Output.json:
        show_json(runs)
    else:
        show_runs(runs)


@app.command()
def compare(
    run_ids: Annotated[list[str], typer.Argument(help="Two runs or more.")],
    output: OutputOption = Output.table,
) -> None:
    """Set runs side by side: how they did, and what their plans differ in."""
    if len(set(run_ids)) < 2:
        fail("one run has nothing to be compared with", "name two runs or more")
    compared = run(_compare(run_ids))
    if output is Output.json:
        show_json(compared)
    else:
        show_comparison(compared)


def _tell(found: training_pb2.Run, output: Output) -> None:
    if output is Output.json:
        show_json(found)
    else:
        out.print(f"{found.run_id} is {state_of(found)}")


def _finish(final: training_pb2.Run, output: Output) -> None:
    if output is Output.json:
        typer.echo(json.dumps(as_dict(final)))
    else:
        out.print(f"{final.run_id} {state_of(final)} {escape(final.reason)}".rstrip())
    raise typer.Exit(0 if final.state != training_pb2.Run.STATE_FAILED else 1)


async def _create(plan: training_pb2.RunPlan) -> training_pb2.Run:
    async with channel() as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        request = training_pb2.CreateRunRequest(request_id=str(uuid.uuid4()), plan=plan)
        return (await stub.CreateRun(request, timeout=SECONDS)).run


async def _start(request: training_pb2.StartRunRequest) -> training_pb2.Run:
    async with channel() as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        return (await stub.StartRun(request, timeout=SECONDS)).run


async def _pause(run_id: str, reason: str) -> training_pb2.Run:
    async with channel() as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        request = training_pb2.PauseRunRequest(run_id=run_id, reason=reason)
        return (await stub.PauseRun(request, timeout=SECONDS)).run


async def _resume(run_id: str) -> training_pb2.Run:
    async with channel() as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        request = training_pb2.ResumeRunRequest(run_id=run_id)
        return (await stub.ResumeRun(request, timeout=SECONDS)).run


async def _stop(run_id: str, reason: str) -> training_pb2.Run:
    async with channel() as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        request = training_pb2.StopRunRequest(run_id=run_id, reason=reason)
        return (await stub.StopRun(request, timeout=SECONDS)).run


async def _get(run_id: str) -> training_pb2.Run:
    async with channel() as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        return (await stub.GetRun(training_pb2.GetRunRequest(run_id=run_id), timeout=SECONDS)).run


async def _list(limit: int) -> list[training_pb2.Run]:
    async with channel() as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        request = training_pb2.ListRunsRequest(page_size=limit)
        return list((await stub.ListRuns(request, timeout=SECONDS)).runs)


async def _compare(run_ids: list[str]) -> training_pb2.CompareRunsResponse:
    async with channel() as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        return await stub.CompareRuns(
            training_pb2.CompareRunsRequest(run_ids=run_ids), timeout=SECONDS
        )
