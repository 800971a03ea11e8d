"""`aegis secrets`: whether what programs are told to keep secret is one."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from aegis.cli.session import Output, OutputOption, out, show_json, show_table, target
from aegis.local import programs
from aegis.secretfiles import FILES, FOLDERS, URLS, Finding, Severity, check

app = typer.Typer(no_args_is_help=True, help="Secrets that programs are given.")


@app.callback()
def secrets() -> None:
    """Keep `check` a command of its own."""


@app.command("check")
def check_secrets(
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count, too.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Look at the secrets this environment names, or else at those of the home.

    Exit status 1 when a program in production would not start with them.
    """
    environments = _environments()
    found = [(name, each) for name, values in environments.items() for each in check(values)]
    if output is Output.json:
        show_json({"findings": [{"of": name, **asdict(each)} for name, each in found]})
    elif found:
        rows = [
            (each.severity, name, each.setting, each.code, each.problem, each.next_step)
            for name, each in found
        ]
        columns = ("", "of", "setting", "code", "problem", "next")
        show_table("secrets", columns, rows, folding=("problem", "next"), spare=("next", "of"))
    else:
        out.print(f"nothing is wrong with the secrets of {', '.join(environments)}")
    if any(_counts(each, strict=strict) for _, each in found):
        raise typer.Exit(1)


def _counts(finding: Finding, *, strict: bool) -> bool:
    return strict or finding.severity is Severity.error


def _environments() -> dict[str, dict[str, str]]:
    named = (*FILES, *FOLDERS, *URLS, *(f"{name}_FILE" for name in URLS))
    ours = {name: os.environ[name] for name in named if os.environ.get(name)}
    if ours:
        return {"this environment": ours}
    home = target.home
    return {
        "server": programs.server_environment(
            home, database_url="", redis_url=None, executor_address="", witness_address=""
        ),
        "executor": programs.executor_environment(
            home,
            database_url="",
            kubeconfig=Path(),
            cluster="",
            namespaces=(),
            witness_address="",
            given={},
        )
        | {"AEGIS_KUBECONFIG": ""},
        "witness": programs.witness_environment(home),
    }
