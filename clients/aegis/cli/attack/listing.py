"""`aegis attack list`."""

from __future__ import annotations

import json

import typer

from aegis.cli.attack.program import lab, silent
from aegis.cli.session import Output, OutputOption, show_table


def list_(output: OutputOption = Output.table) -> None:
    """List the attacks of the lab."""
    with lab(["--list"]) as answers:
        answer = next(answers, None)
    if answer is None:
        silent()
    if output is Output.json:
        typer.echo(json.dumps(answer["attacks"]))
        return
    show_table(
        "attacks",
        ["attack", "numbers", "what it does"],
        [(each["name"], _numbers(each["numbers"]), each["does"]) for each in answer["attacks"]],
        folding=["what it does"],
    )


def _numbers(numbers: dict[str, object]) -> str:
    return ", ".join(
        f"{name} {value:g}" for name, value in numbers.items() if isinstance(value, float)
    )
