"""`aegis policy`: ask, read and change the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    channel,
    fail,
    out,
    run,
    show_json,
    when,
)
from aegis.v1 import policy_pb2, policy_pb2_grpc

app = typer.Typer(no_args_is_help=True, help="Ask, read and change the rules.")


@app.command()
def check(
    subject: Annotated[str, typer.Argument(help="kind:name, e.g. automation:autopilot")],
    resource: Annotated[str, typer.Argument(help="a path, e.g. /policy")],
    action: Annotated[str, typer.Argument(help="e.g. restart_pod")],
    attr: Annotated[
        list[str] | None, typer.Option("--attr", help="name=value; repeat it for more")
    ] = None,
    domain: Annotated[str, typer.Option(help="The tenant.")] = "aegis",
    output: OutputOption = Output.table,
) -> None:
    """Ask whether SUBJECT may do ACTION to RESOURCE; exits 1 for no."""
    request = policy_pb2.EvaluateRequest(
        subject=subject, domain=domain, resource=resource, action=action
    )
    for pair in attr or []:
        name, separator, text = pair.partition("=")
        if not separator:
            fail(f"--attr {pair!r} is not name=value", "write --attr replicas=3")
        request.attributes[name] = _value(text)
    answer = run(_evaluate(request))
    allowed = answer.effect == policy_pb2.EFFECT_ALLOW
    if output is Output.json:
        show_json(answer)
    else:
        verdict = "[bold green]ALLOW[/]" if allowed else "[bold red]DENY[/]"
        rule = f"rule {answer.rule_id}" if answer.rule_id else "no rule allows it"
        out.print(f"{verdict} {rule} (revision {answer.revision})", highlight=False)
    raise typer.Exit(0 if allowed else 1)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Casbin CSV")],
    reason: Annotated[str, typer.Option(help="Why; kept with the revision.")],
    expected_revision: Annotated[
        int, typer.Option(help="Refuse when this is not the current revision; 0 does not ask.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Replace all rules by those of FILE, or by nothing at all."""
    request = policy_pb2.ImportPolicyRequest(
        csv=_text(file),
        reason=reason,
        expected_revision=expected_revision,
        validate_only=dry_run,
    )
    revision = run(_import(request)).revision
    if output is Output.json:
        show_json(revision)
    elif dry_run:
        out.print(f"{file}: {revision.rule_count} rules, all good; nothing was stored")
    else:
        out.print(f"revision {revision.revision}: {revision.rule_count} rules")


@app.command()
def show(
    revision: Annotated[int, typer.Argument(help="0 is the current one.")] = 0,
    output: OutputOption = Output.table,
) -> None:
    """Print the rules of a revision as Casbin CSV."""
    answer = run(_get(revision))
    if output is Output.json:
        show_json(answer)
        return
    head = answer.revision
    typer.echo(f"# revision {head.revision}, {when(head, 'create_time')} by {head.actor}")
    typer.echo(answer.csv, nl=not answer.csv.endswith("\n"))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} cannot be read: {error}", "a rule file is UTF-8 text")


def _value(text: str) -> str | float | bool:
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


async def _evaluate(request: policy_pb2.EvaluateRequest) -> policy_pb2.EvaluateResponse:
    async with channel() as opened:
        return await policy_pb2_grpc.PolicyServiceStub(opened).Evaluate(request, timeout=SECONDS)


async def _import(request: policy_pb2.ImportPolicyRequest) -> policy_pb2.ImportPolicyResponse:
    async with channel() as opened:
        return await policy_pb2_grpc.PolicyServiceStub(opened).ImportPolicy(
            request, timeout=SECONDS
        )


async def _get(revision: int) -> policy_pb2.GetPolicyResponse:
    async with channel() as opened:
        return await policy_pb2_grpc.PolicyServiceStub(opened).GetPolicy(
            policy_pb2.GetPolicyRequest(revision=revision), timeout=SECONDS
        )
