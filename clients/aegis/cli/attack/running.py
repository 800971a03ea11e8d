"""`aegis attack run`: whole runs on this machine, attacked, without review and with it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from aegis.cli.attack.pictures import chart
from aegis.cli.attack.program import lab, silent
from aegis.cli.attack.tables import HEADINGS, in_words, rows, tables
from aegis.cli.execution.drawing import page
from aegis.cli.session import Output, OutputOption, err, fail, out, show_table


class Plan(StrEnum):
    """How sites train where there is privacy."""

    demo = "demo"
    tuned = "tuned"


class Split(StrEnum):
    """How rows are dealt to sites."""

    iid = "iid"
    dirichlet = "dirichlet"


def run(
    quick: Annotated[
        bool, typer.Option("--quick", help="One kind of world and one seed: a minute or two.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report here.", dir_okay=False)
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write it as a page.", dir_okay=False)
    ] = None,
    attacks: Annotated[
        list[str] | None, typer.Option("--attacks", help="See `aegis attack list`; else all.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="digits, breast-cancer; else both.")
    ] = None,
    split: Annotated[
        list[Split] | None, typer.Option("--split", help="How rows are dealt; else both ways.")
    ] = None,
    dp: Annotated[
        list[str] | None, typer.Option("--dp", help="off, or an epsilon; else off and 8.")
    ] = None,
    plan: Annotated[
        Plan, typer.Option(help="With an epsilon: as the demo, or as `train start --epsilon`.")
    ] = Plan.demo,
    seeds: Annotated[int | None, typer.Option(min=1, max=1000, help="Else 3.")] = None,
    rounds: Annotated[int, typer.Option(min=2, max=500, help="Rounds of a run.")] = 20,
    malicious: Annotated[
        float, typer.Option(min=0.05, max=0.45, help="Share of the 20 sites that attack.")
    ] = 0.3,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Attackers leave out the noise they promised.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Runs at once.")] = 2,
    output: OutputOption = Output.table,
) -> None:
    """Attack simulated runs: accuracy without review, with it, and with it before FLTrust.

    The loop is closed: what the review lets in moves the model that the next round starts from.
    The same options give the same figures on one machine. Lists are given as --attacks A
    --attacks B.
    """
    for file in (json_file, html_file):
        _require_writable(file)
    arguments = [
        *("--attacks", *(attacks or ())) * bool(attacks),
        *("--data", *(data or (["digits"] if quick else ["digits", "breast-cancer"]))),
        *("--split", *(split or ([Split.dirichlet] if quick else list(Split)))),
        *("--dp", *(dp or (["off"] if quick else ["off", "8"]))),
        *("--plan", plan),
        *("--seeds", str(seeds or (1 if quick else 3))),
        *("--rounds", str(rounds)),
        *("--malicious", str(malicious)),
        *("--processes", str(processes)),
        *["--quiet"] * quiet,
    ]
    with lab(arguments) as answers:
        report = _followed(answers, quiet=output is Output.json)
    try:
        if json_file is not None:
            json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        if html_file is not None:
            css = (files("aegis.audit.report") / "report.css").read_text(encoding="utf-8")
            html_file.write_text(page(chart(report), css, tables(report)), encoding="utf-8")
    except OSError as error:
        fail(f"the report cannot be written: {error}", "choose another file")
    if output is Output.json:
        typer.echo(json.dumps(report))
        return
    show_table(
        "attacks",
        HEADINGS,
        rows(report),
        spare=["AUC", "at 5 % FPR", "ASR % off", "robust", "clean"],
    )
    out.print(in_words(report), highlight=False, soft_wrap=True)
    for file in (json_file, html_file):
        if file is not None:
            out.print(f"report in {file}", highlight=False, markup=False, soft_wrap=True)


def _require_writable(file: Path | None) -> None:
    """Ends the command before minutes of work come to nothing."""
    if file is not None and not os.access(file if file.exists() else file.parent, os.W_OK):
        fail(f"the report cannot be written: no way to write {file}", "choose another file")


def _followed(answers: Iterator[dict[str, Any]], *, quiet: bool) -> dict[str, Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, disable=quiet) as progress:
        task = progress.add_task("starting")
        for told in answers:
            if "error" in told:
                progress.stop()
                fail(told["error"], "see `aegis attack run --help` and `aegis attack list`")
            if "report" in told:
                report: dict[str, Any] = told["report"]
                return report
            now = told["trial"]
            words = f"{now['world']}: {now['attack']}, review {now['gate']}"
            progress.update(task, completed=now["done"], total=now["of"], description=words)
    return silent()
