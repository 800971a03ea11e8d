"""Rules before they count: `aegis policy lint` and `simulate`; lint of a file needs no server."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from aegis.cli.policy.calls import (
    LONG_SECONDS,
    ModelOption,
    administer,
    draft_of,
    pycasbin_if_needed,
    text_of,
)
from aegis.cli.session import (
    Output,
    OutputOption,
    name_of,
    out,
    show_json,
    show_table,
    when,
)
from aegis.v1 import policy_admin_pb2, policy_pb2

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def lint(
    file: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="Else the server's rules.")
    ] = None,
    model: ModelOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 for warnings as well.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Name what is wrong or suspicious about rules; exits 1 for errors."""
    found = _of_server() if file is None else _of_file(file, model)
    if output is Output.json:
        show_json(found)
    else:
        _tell_findings(file, found)
    severities = {name_of(_SEVERITY, each.severity, "SEVERITY_") for each in found}
    if severities & ({"error", "warning"} if strict else {"error"}):
        raise typer.Exit(1)


def simulate(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A draft, Casbin CSV")],
    model: ModelOption = None,
    days: Annotated[int, typer.Option(min=1, help="Decisions of the last so many days.")] = 7,
    limit: Annotated[
        int, typer.Option(min=0, max=100_000, help="Different requests at most; 0: 10,000.")
    ] = 0,
    output: OutputOption = Output.table,
) -> None:
    """Decide recorded requests again by a draft, and show which come out otherwise."""
    request = policy_admin_pb2.SimulatePolicyRequest(draft=draft_of(file, model), limit=limit)
    request.since.FromDatetime(datetime.now(UTC) - timedelta(days=days))
    answer = administer(lambda stub: stub.SimulatePolicy(request, timeout=LONG_SECONDS))
    if output is Output.json:
        show_json(answer)
        return
    if answer.flips:
        _tell_flips(answer.flips)
    out.print(
        f"{answer.flipped_requests} of {answer.requests} different requests would be decided"
        f" otherwise, {answer.flipped_decisions} of {answer.decisions} decisions in {days} days",
        highlight=False,
    )
    if answer.without_attributes:
        out.print(
            f"{answer.without_attributes} requests cannot be decided again: they hang on attributes"
            " that the log does not keep (AEGIS_DECISION_ATTRIBUTES=keep keeps them)",
            highlight=False,
        )


_SEVERITY = policy_admin_pb2.LintFinding.Severity


def _of_server() -> Sequence[policy_admin_pb2.LintFinding]:
    request = policy_admin_pb2.LintPolicyRequest(revision=0)
    return administer(lambda stub: stub.LintPolicy(request, timeout=LONG_SECONDS)).findings


def _of_file(file: Path, model: Path | None) -> Sequence[policy_admin_pb2.LintFinding]:
    # Only these commands need the policy engine: `aegis` starts without it.
    from aegis_policy.lint import lint_csv

    model_conf = text_of(model) if model else None
    with pycasbin_if_needed():
        found = lint_csv(text_of(file), model_conf, now=datetime.now(UTC))
    return [
        policy_admin_pb2.LintFinding(
            severity=_SEVERITY.Value(f"SEVERITY_{each.severity.upper()}"),
            check=each.check,
            line=each.line,
            column=each.column,
            rule_id=each.rule_id,
            text=each.text,
        )
        for each in found
    ]


def _tell_findings(file: Path | None, found: Sequence[policy_admin_pb2.LintFinding]) -> None:
    rows = []
    for each in found:
        severity = name_of(_SEVERITY, each.severity, "SEVERITY_")
        line = each.line or "file"
        rows.append((Text(severity, _STYLES[severity]), line, each.check, each.rule_id, each.text))
    columns = ["", "line", "check", "rule", "finding"]
    show_table(f"lint of {file or 'the rules'}", columns, rows, folding=["finding"], spare=["rule"])


def _tell_flips(flips: Sequence[policy_admin_pb2.Flip]) -> None:
    show_table(
        "would be decided otherwise",
        ["now", "then", "subject", "action", "resource", "times", "last asked"],
        [
            (
                _effect(flip.before, flip.before_rule_id),
                _effect(flip.after, flip.after_rule_id),
                flip.request.subject,
                flip.request.action,
                flip.request.resource,
                flip.times,
                when(flip, "last_asked"),
            )
            for flip in flips
        ],
        folding=["now", "then", "resource"],
        spare=["last asked"],
    )


def _effect(effect: policy_pb2.Effect.ValueType, rule_id: str) -> str:
    return f"{name_of(policy_pb2.Effect, effect, 'EFFECT_')} {rule_id}".strip()
