"""`aegis train`: start runs and watch them learn."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Annotated

import typer
from rich.markup import escape
from rich.padding import Padding

from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    as_dict,
    channel,
    fail,
    name_of,
    out,
    run,
    show_json,
    show_table,
    when,
)
from aegis.plans import ATTACKS, FED_AVG, STRATEGIES, Attacker, Strategy, default_plan
from aegis.v1 import training_pb2, training_pb2_grpc
from aegis_learning.plans import DEFAULTS

app = typer.Typer(no_args_is_help=True, help="Start runs and watch them learn.")

# What the plan's field can hold.
SEED_MAX = 2**63 - 1

RunIdArgument = Annotated[str, typer.Argument(help="As `aegis train list` shows it.")]


@app.command()
def start(
    rounds: Annotated[int | None, typer.Option(min=1, max=500, help="Rounds of training.")] = None,
    participants: Annotated[
        int, typer.Option(min=2, max=1000, help="Simulated sites.")
    ] = DEFAULTS.participants,
    epsilon: Annotated[float | None, typer.Option(help="Privacy the run may cost.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=SEED_MAX, help="Repeats a run exactly.")] = 0,
    review: Annotated[bool, typer.Option(help="Judge every update first.")] = True,
    attack: Annotated[
        str | None, typer.Option(help=f"Let the last site attack: {', '.join(ATTACKS)}")
    ] = None,
    strategy: Annotated[
        str, typer.Option(help=f"How updates become one: {', '.join(STRATEGIES)}")
    ] = FED_AVG.name,
    malicious: Annotated[
        int, typer.Option(min=0, max=500, help="Robust strategies: sites that may lie.")
    ] = 0,
    selected: Annotated[
        int, typer.Option(min=0, max=1000, help="multi-krum: updates that are averaged.")
    ] = 0,
    proximal: Annotated[float, typer.Option(min=0, help="fed-prox: how near sites stay.")] = 0,
    server_rate: Annotated[float, typer.Option(min=0, help="fed-adam: its learning rate.")] = 0,
    share_max: Annotated[
        float, typer.Option(min=0, max=1, help="Means: the largest part of one site.")
    ] = 0,
    watch_it: Annotated[bool, typer.Option("--watch/--no-watch", help="Follow it.")] = True,
    output: OutputOption = Output.table,
) -> None:
    """Start a simulated run on the breast cancer data."""
    plan = default_plan(
        seed=seed,
        review=review,
        attacker=attacker_named(attack) if attack else None,
        participants=participants,
        strategy=strategy_named(
            strategy,
            malicious=malicious,
            selected=selected,
            proximal=proximal,
            server_learning_rate=server_rate,
            share_max=share_max,
        ),
    )
    if rounds is not None:
        plan.rounds = rounds
    if epsilon is not None:
        plan.target_epsilon = epsilon
    started = run(_start(plan))
    if output is Output.json and not watch_it:
        show_json(started)
        return
    if output is Output.table:
        out.print(f"[bold]{started.run_id}[/] started")
    if watch_it:
        _finish(run(follow(started.run_id, _printer(output))), output)


@app.command()
def watch(run_id: RunIdArgument, output: OutputOption = Output.table) -> None:
    """Follow a run to its end; exits 1 when it failed. JSON comes one document a line."""
    _finish(run(follow(run_id, _printer(output))), output)


@app.command()
def stop(
    run_id: RunIdArgument,
    reason: Annotated[str, typer.Option(help="Why; kept with the run.")] = "",
    output: OutputOption = Output.table,
) -> None:
    """Stop a run after its current round."""
    stopped = run(_stop(run_id, reason))
    if output is Output.json:
        show_json(stopped)
    else:
        out.print(f"{stopped.run_id} is {state_of(stopped)}")


@app.command()
def show(run_id: RunIdArgument, output: OutputOption = Output.table) -> None:
    """Show one run, round by round."""
    found = run(_get(run_id))
    if output is Output.json:
        show_json(found)
        return
    out.print(f"[bold]{found.run_id}[/] {state_of(found)} {escape(found.reason)}".rstrip())
    show_table(
        "rounds",
        ["round", "accuracy", "loss", "epsilon", "aggregated", "rejected"],
        [
            (
                round_.round,
                f"{round_.accuracy:.3f}",
                f"{round_.loss:.3f}",
                f"{round_.epsilon:.2f}",
                outcome_count(round_, training_pb2.ParticipantRound.OUTCOME_AGGREGATED),
                outcome_count(round_, training_pb2.ParticipantRound.OUTCOME_REJECTED),
            )
            for round_ in found.rounds
        ],
    )


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    output: OutputOption = Output.table,
) -> None:
    """List runs, newest first."""
    runs = run(_list(limit))
    if output is Output.json:
        show_json(runs)
        return
    show_table(
        "runs",
        ["run", "state", "rounds", "accuracy", "epsilon", "review", "started", "by"],
        [
            (
                found.run_id,
                state_of(found),
                f"{found.rounds_completed}/{found.plan.rounds}",
                f"{found.accuracy:.3f}",
                f"{found.epsilon:.2f}",
                "on" if found.plan.review else "off",
                when(found, "create_time"),
                found.actor,
            )
            for found in runs
        ],
        spare=["by", "started"],
    )


def attacker_named(kind: str, scale: float | None = None) -> Attacker:
    """Returns the attacker of a command line; ends the command for an unknown kind."""
    try:
        return Attacker(kind.replace("_", "-"), scale)
    except ValueError as error:
        fail(str(error), f"choose one of {', '.join(ATTACKS)}")


def strategy_named(name: str, **settings: float) -> Strategy:
    """Returns the strategy of a command line; ends the command for an unknown name."""
    try:
        return Strategy(name.replace("_", "-"), **settings)  # type: ignore[arg-type]
    except ValueError as error:
        fail(str(error), f"choose one of {', '.join(STRATEGIES)}")


def state_of(found: training_pb2.Run) -> str:
    """Returns a run's state as people write it."""
    return name_of(training_pb2.Run.State, found.state, "STATE_")


def outcome_count(
    round_: training_pb2.Round, outcome: training_pb2.ParticipantRound.Outcome.ValueType
) -> int:
    """Returns how many participants of a round came to that outcome."""
    return sum(participant.outcome == outcome for participant in round_.participants)


def _printer(output: Output) -> Callable[[training_pb2.Round], None]:
    def line(round_: training_pb2.Round) -> None:
        out.print(
            f"  round {round_.round:3d}  accuracy {round_.accuracy:.3f}"
            f"  loss {round_.loss:.3f}  epsilon {round_.epsilon:.2f}",
            highlight=False,
        )
        for site in round_.participants:
            if site.outcome != training_pb2.ParticipantRound.OUTCOME_AGGREGATED:
                outcome = name_of(training_pb2.ParticipantRound.Outcome, site.outcome, "OUTCOME_")
                words = f"[red]{site.participant} {outcome}[/]: {escape(site.reason)}"
                out.print(Padding(words, (0, 0, 0, 6)))

    def document(round_: training_pb2.Round) -> None:
        typer.echo(json.dumps(as_dict(round_)))

    return document if output is Output.json else line


def _finish(final: training_pb2.Run, output: Output) -> None:
    if output is Output.json:
        typer.echo(json.dumps(as_dict(final)))
    else:
        out.print(f"{final.run_id} {state_of(final)} {escape(final.reason)}".rstrip())
    raise typer.Exit(0 if final.state != training_pb2.Run.STATE_FAILED else 1)


async def follow(run_id: str, each: Callable[[training_pb2.Round], None]) -> training_pb2.Run:
    """Calls `each` for every round of a run, past and to come; returns the run at its end."""
    final = training_pb2.Run()
    async with channel() as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        async for event in stub.WatchRun(training_pb2.WatchRunRequest(run_id=run_id)):
            final = event.run
            if event.HasField("round"):
                each(event.round)
    return final


async def _start(plan: training_pb2.RunPlan) -> training_pb2.Run:
    async with channel() as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        request = training_pb2.StartRunRequest(request_id=str(uuid.uuid4()), plan=plan)
        return (await stub.StartRun(request, timeout=SECONDS)).run


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
