"""`aegis train simulate`: a whole run on this machine, without a control plane."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from google.protobuf.json_format import MessageToJson
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from aegis.cli.planning import SEED_MAX, attacker_named, strategy_named
from aegis.cli.session import Output, OutputOption, err, fail, out, show_table
from aegis.plans import ATTACKS, FED_AVG, STRATEGIES, default_plan
from aegis.v1 import training_pb2
from aegis_learning.plans import DEFAULTS

_PROGRAM = "aegis_server.training.simulation"


def simulate(
    sites: Annotated[
        int, typer.Option(min=2, max=1000, help="Simulated participants.")
    ] = DEFAULTS.participants,
    rounds: Annotated[
        int, typer.Option(min=1, max=500, help="Rounds of training.")
    ] = DEFAULTS.rounds,
    seed: Annotated[int, typer.Option(min=0, max=SEED_MAX, help="Repeats a run exactly.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the whole report here.")
    ] = None,
    dataset: Annotated[str, typer.Option(help="Data set that ships.")] = DEFAULTS.dataset,
    model: Annotated[str, typer.Option(help="mlp, logistic, mlp-64-32 …")] = DEFAULTS.model,
    epsilon: Annotated[
        float, typer.Option(min=0.01, max=100, help="Privacy the run may cost.")
    ] = DEFAULTS.target_epsilon,
    alpha: Annotated[
        float, typer.Option(min=0.001, max=1000, help="How evenly labels are dealt.")
    ] = DEFAULTS.dirichlet_alpha,
    strategy: Annotated[
        str, typer.Option(help=f"How updates become one: {', '.join(STRATEGIES)}")
    ] = FED_AVG.name,
    malicious: Annotated[
        int, typer.Option(min=0, max=500, help="Robust strategies: sites that may lie.")
    ] = 0,
    attack: Annotated[
        str | None, typer.Option(help=f"What the last sites do: {', '.join(ATTACKS)}")
    ] = None,
    attackers: Annotated[int, typer.Option(min=1, max=500, help="How many attack.")] = 1,
    review: Annotated[bool, typer.Option(help="Judge every update first.")] = True,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Sites that train at once.")] = 2,
    output: OutputOption = Output.table,
) -> None:
    """Simulate a run here: same round loop, strategies, sites and review, no control plane.

    The same options give the same model, bit for bit, on one machine with the same packages. More
    sites than the data has rows for draw rows that others have as well.
    """
    plan = default_plan(
        seed=seed,
        review=review,
        participants=sites,
        strategy=strategy_named(strategy, malicious=malicious),
    )
    plan.dataset, plan.model, plan.rounds = dataset, model, rounds
    plan.target_epsilon, plan.dirichlet_alpha = epsilon, alpha
    if attack is not None:
        if attackers >= sites:
            fail("somebody has to be honest", f"--attackers below {sites}")
        each = attacker_named(attack)
        plan.attacks.extend(each.message(f"site-{sites - n}") for n in range(attackers))
    with _program(plan, workers) as answers:
        report = _followed(answers, rounds, quiet=output is Output.json)
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n")
    if output is Output.json:
        typer.echo(json.dumps(report))
    else:
        _show(report, json_file)
    raise typer.Exit(1 if report["failure"] else 0)


@contextmanager
def _program(plan: training_pb2.RunPlan, workers: int) -> Iterator[IO[str]]:
    command = [sys.executable, "-m", _PROGRAM, "--workers", str(workers)]
    program = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )
    try:
        assert program.stdin is not None and program.stdout is not None  # noqa: PT018, S101
        with program.stdin as plan_file:
            plan_file.write(MessageToJson(plan))
        yield program.stdout
    finally:
        program.terminate()
        program.wait()


def _followed(answers: IO[str], rounds: int, *, quiet: bool) -> dict[str, Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, disable=quiet) as progress:
        task = progress.add_task("starting", total=rounds)
        for line in answers:
            told = json.loads(line)
            if "error" in told:
                progress.stop()
                fail(told["error"], "see `aegis train simulate --help`")
            if "report" in told:
                report: dict[str, Any] = told["report"]
                return report
            now = told["round"]
            words = f"accuracy {now['accuracy']:.3f}  epsilon {now['epsilon']:.2f}"
            progress.update(task, completed=now["round"], description=words)
    return fail(
        "the simulation ended without a report",
        "install what trains: pip install 'aegis-control-plane[cli,learning]'",
    )


def _show(report: dict[str, Any], file: Path | None) -> None:
    show_table(
        "rounds",
        ["round", "accuracy", "loss", "epsilon", "aggregated", "not aggregated", "seconds"],
        [
            (
                each["round"],
                f"{each['accuracy']:.3f}",
                f"{each['loss']:.3f}",
                f"{each['epsilon']:.2f}",
                each.get("aggregated", 0),
                _others(each),
                f"{each['seconds']:.2f}",
            )
            for each in report["rounds"]
        ],
    )
    final = report["final"]
    if report["failure"]:
        out.print(f"[red]failed[/] {escape(report['failure'])}")
    out.print(
        f"accuracy {final['accuracy']:.3f}  epsilon {final['epsilon']:.2f}"
        f"  {report['seconds']:.1f} s  {report['peak_rss_mib']:.0f} MiB\n"
        f"model {final['model_digest']}",
        highlight=False,
    )
    if file is not None:
        out.print(f"report in {file}")


def _others(each: dict[str, Any]) -> str:
    told = ("rejected", "held", "failed", "missing", "left_out", "refused")
    return ", ".join(f"{each[name]} {name.replace('_', ' ')}" for name in told if name in each)
